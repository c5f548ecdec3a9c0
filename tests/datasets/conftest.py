# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures of the dataset tests."""

import pytest


@pytest.fixture
def triples() -> dict:
    """A metainfo of three keypoint types, as in a config."""
    return dict(
        dataset_name='triples',
        keypoint_info={
            0: dict(name='top', swap=''),
            1: dict(name='left_end', swap='right_end'),
            2: dict(name='right_end', swap='left_end'),
        },
        skeleton_info={},
        joint_weights=[1.0] * 3,
        sigmas=[0.05] * 3,
    )


@pytest.fixture
def two_categories(triples) -> dict:
    """A metainfo of the categories triple (three keypoint types) and disc (one)."""
    hub = {0: dict(name='hub', swap='')}
    disc = triples | dict(keypoint_info=hub, joint_weights=[1.0], sigmas=[0.05])
    return dict(dataset_name='two', categories=dict(triple=triples, disc=disc))


@pytest.fixture
def coco_file() -> dict:
    """A COCO-format file of triples: 11 and 12 are in image 1, 13 is in 2, image 3 is empty."""
    keypoints = [10, 10, 2, 5, 20, 1, 0, 0, 0]
    annotations = [
        dict(
            id=number,
            image_id=image,
            category_id=1,
            bbox=[5, 5, 20.5, 30],
            keypoints=list(keypoints),
            num_keypoints=2,
            area=300,
            iscrowd=0,
        )
        for number, image in ((11, 1), (12, 1), (13, 2))
    ]
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=40, height=50) for i in (1, 2, 3)],
        annotations=annotations,
        categories=[dict(id=1, name='triple', keypoints=['top', 'left_end', 'right_end'])],
    )
