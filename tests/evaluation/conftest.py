# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Annotations, and predictions made from them with errors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kapao_mm.datasets.metainfo import read_metainfo
from kapao_mm.evaluation import make_results

SAMPLES = dict(
    coco='coco_subset/annotations/person_keypoints_val.json',
    crowdpose='crowdpose_sample/test_crowdpose.json',
    ap10k='ap10k_sample/test_ap10k.json',
)


def shake(content: dict, seed: int = 0, categories: list[list[int]] | None = None) -> list[dict]:
    """Turns annotations into predictions: some missing, some repeated, all shifted by some px.

    Args:
        content: Content of an annotation file.
        seed: Seed of the random generator.
        categories: Ids of each category; by default a single category with all ids.

    Returns:
        A data sample for each image, as ``process`` of a metric receives it. K is the number of
        keypoint types of all categories together.
    """
    rng = np.random.default_rng(seed)
    found = content['annotations']
    categories = categories or [[ann['category_id'] for ann in found]]
    counts = [
        max(len(ann['keypoints']) // 3 for ann in found if ann['category_id'] in ids)
        for ids in categories
    ]
    samples = []
    for image in content['images']:
        anns = [ann for ann in found if ann['image_id'] == image['id']]
        anns = [ann for ann in anns for _ in range(rng.choice(4, p=[0.2, 0.5, 0.2, 0.1]))]
        poses = dict(
            keypoints=np.zeros((len(anns), sum(counts), 2)),
            keypoint_scores=np.full((len(anns), sum(counts)), 0.5),
            bboxes=np.zeros((len(anns), 4)),
            bbox_scores=rng.random(len(anns), dtype=np.float32),
            labels=np.zeros(len(anns), int),
        )
        for i, ann in enumerate(anns):
            label = next(c for c, ids in enumerate(categories) if ann['category_id'] in ids)
            own = np.reshape(ann['keypoints'], (-1, 3))[:, :2]
            start = sum(counts[:label])
            shift = rng.exponential(5)  # px
            poses['keypoints'][i, start : start + len(own)] = own + rng.normal(0, shift, own.shape)
            x, y, w, h = np.array(ann['bbox']) + rng.normal(0, shift, 4)
            poses['bboxes'][i] = x, y, x + abs(w), y + abs(h)
            poses['labels'][i] = label
        samples.append(
            dict(
                id=[ann['id'] for ann in anns],
                img_id=image['id'],
                gt_instances={},
                pred_instances=poses,
            )
        )
    return samples


@pytest.fixture(scope='session')
def shaken() -> Callable[..., list[dict]]:
    """The function :func:`shake`."""
    return shake


@pytest.fixture(scope='session')
def records() -> Callable[..., list[dict]]:
    """Makes a function that turns annotations into COCO result records, see :func:`shake`."""

    def make(content: dict, metainfo: dict, categories: list[list[int]] | None = None) -> list:
        return [
            record
            for sample in shake(content, categories=categories)
            for record in make_results(sample['img_id'], sample['pred_instances'], metainfo)
        ]

    return make


@pytest.fixture(scope='session')
def sample_file(shared_dir) -> Callable[[str], tuple[Path, dict]]:
    """Makes a function that returns the annotation file of real images and its metainfo."""

    def get(name: str) -> tuple[Path, dict]:
        path = shared_dir / 'data' / SAMPLES[name]
        metainfo = read_metainfo(dict(from_file=f'configs/_base_/datasets/{name}.py'))
        return path, metainfo | dict(CLASSES=json.loads(path.read_text())['categories'])

    return get


@pytest.fixture(scope='session')
def two_categories() -> tuple[dict, dict]:
    """Random annotations of people (id 2, K=3) and wheels (ids 5 and 9, K=2), and metainfo."""
    rng = np.random.default_rng(3)
    annotations = []
    for i in range(60):
        corner, size = rng.uniform(0, 400, 2), rng.uniform(40, 150, 2)
        category_id = (2, 5, 9)[i % 3]
        points = corner + rng.random((3 if category_id == 2 else 2, 2)) * size
        annotations.append(
            dict(
                id=i,  # from 0, which means "no match" in COCO's tools
                image_id=i % 7,
                category_id=category_id,
                bbox=[*corner.tolist(), *size.tolist()],
                area=size.prod().item() * 0.6,
                iscrowd=0,
                keypoints=np.c_[points, np.full(len(points), 2)].ravel().tolist(),
            )
        )
    categories = [dict(id=2, name='person'), dict(id=5, name='wheel'), dict(id=9, name='wheel')]
    images = [dict(id=i, width=600, height=600, crowdIndex=i / 7) for i in range(8)]
    content = dict(images=images, annotations=annotations, categories=categories)
    metainfo = dict(
        dataset_name='both',
        num_keypoints=5,
        sigmas=np.array([0.05, 0.1, 0.02, 0.08, 0.04]),
        categories=[
            dict(name='person', keypoint_ids=[0, 1, 2]),
            dict(name='wheel', keypoint_ids=[3, 4]),
        ],
        CLASSES=categories,
    )
    return content, metainfo
