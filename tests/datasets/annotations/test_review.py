# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.instances import gather_instances
from kapao_mm.datasets.annotations.review import review


def look(content: dict, metainfo: dict) -> dict[str, list]:
    """Returns the ids of each issue by its description."""
    metainfo = read_metainfo(metainfo)
    found = review(content, metainfo, gather_instances(content, metainfo))
    return {issue.what: list(issue.ids) for issue in found}


EMPTY_IMAGE = {'images without annotations': [3]}


def test_image_without_annotations_is_found(coco_file, triples):
    assert look(coco_file, triples) == EMPTY_IMAGE


@pytest.mark.parametrize(
    ('change', 'what'),
    [
        (dict(bbox=[5, 5, 0, 30]), 'boxes without area'),
        (dict(bbox=[5, 5, -9, 30]), 'boxes without area'),
        (dict(bbox=[40, 5, 9, 30]), 'boxes outside their image'),
        (dict(bbox=[-20, -20, 9, 9]), 'boxes outside their image'),
        (dict(bbox=[5, 5, 36.5, 30]), 'boxes more than 1 px beyond their image'),
        (dict(bbox=[3, -2, 20.5, 30]), 'boxes more than 1 px beyond their image'),
        (dict(keypoints=[0] * 9, num_keypoints=0), 'annotations without labeled keypoints'),
        (
            dict(keypoints=[10, 10, 2, 5, 36.5, 1, 0, 0, 0]),
            'annotations with keypoints more than 1 px outside their box',
        ),
        (
            dict(keypoints=[10, 10, 2, 5, 20, 1, 0, 0, 3], num_keypoints=3),
            'annotations with visibilities other than 0, 1 and 2',
        ),
        (
            dict(num_keypoints=3),
            "annotations whose 'num_keypoints' is neither that of visibility 1 and 2 nor of 2",
        ),
        (dict(area=0), "annotations without an 'area' above 0"),
        (dict(area=None), "annotations without an 'area' above 0"),
        (dict(area=float('nan')), "annotations without an 'area' above 0"),
    ],
)
def test_suspicious_annotation_is_found(coco_file, triples, change, what):
    coco_file['annotations'][1] |= change
    assert look(coco_file, triples)[what] == [12]


@pytest.mark.parametrize(
    'change',
    [
        dict(bbox=[0, 0, 40.9, 50.9]),  # rounding
        dict(bbox=[5, 5, 20.5, 15]),  # the lowest keypoint is on its edge
        dict(bbox=[6, 5, 20.5, 14]),
        dict(num_keypoints=1),  # as CrowdPose counts
        dict(keypoints=[10, 10, 2, 5, 20, 1, 99, 99, 0]),  # unlabeled keypoints may be anywhere
    ],
)
def test_rounding_and_counts_of_crowdpose_are_accepted(coco_file, triples, change):
    coco_file['annotations'][1] |= change
    assert look(coco_file, triples) == EMPTY_IMAGE


def test_keypoint_outside_the_image_is_found(coco_file, triples):
    coco_file['annotations'][1] |= dict(
        bbox=[0, 0, 40, 50], keypoints=[40.5, 10, 2, 40, 50, 1, 99, 99, 0]
    )
    found = look(coco_file, triples)
    assert found == EMPTY_IMAGE | {'annotations with keypoints outside their image': [12]}


def test_crowd_region_may_have_no_keypoints(coco_file, triples):
    coco_file['annotations'][1] |= dict(iscrowd=1, keypoints=[0] * 9, num_keypoints=0)
    assert look(coco_file, triples) == EMPTY_IMAGE | {'crowd regions': [12]}


def test_suspicious_images_are_found(coco_file, triples):
    coco_file['images'][2] |= dict(file_name='2.png', height=7)
    assert look(coco_file, triples) == EMPTY_IMAGE | {
        'images less than 8 px wide or high': [3],
        'images that share their file with others': [2, 3],
    }


def test_left_right_pair_without_swap_is_found(coco_file, triples):
    for number in (1, 2):
        triples['keypoint_info'][number]['swap'] = ''
    what = 'keypoint types that are left and right by their names, but do not swap'
    assert look(coco_file, triples)[what] == ['left_end/right_end']


def faces(count: int, mixed_up: bool, pairs=('eye', 'ear', 'hand')) -> tuple[dict, dict]:
    """Makes people who look to either side; the last left/right pair may be mixed up."""
    names = [f'{side}_{pair}' for pair in pairs for side in ('left', 'right')]
    metainfo = dict(
        dataset_name='faces',
        keypoint_info={
            i: dict(name=name, swap=names[i ^ 1], type='') for i, name in enumerate(names)
        },
        skeleton_info={},
        joint_weights=[1.0] * len(names),
        sigmas=[0.05] * len(names),
    )
    annotations = []
    for number in range(1, count + 1):
        x = np.array([[30, 10]] * len(pairs))[:, :: 1 if number % 2 else -1]
        if mixed_up:
            x[-1] = x[-1, ::-1]
        keypoints = np.stack((x.ravel(), np.full(x.size, 20), np.full(x.size, 2)), 1)
        annotations.append(
            dict(id=number, image_id=1, category_id=1, area=100, bbox=[0, 0, 40, 40])
            | dict(keypoints=keypoints.ravel().tolist())
        )
    images = [dict(id=1, file_name='1.png', width=40, height=40)]
    return dict(images=images, annotations=annotations, categories=[dict(id=1)]), metainfo


def test_left_right_pair_opposite_to_the_others_is_found():
    what = 'left/right pairs that mostly lie the other way round than the other pairs'
    assert look(*faces(20, mixed_up=True)) == {
        what: ['left_hand/right_hand (as the others in 0 of 20)']
    }
    assert look(*faces(20, mixed_up=False)) == {}  # viewing directions differ
    assert look(*faces(19, mixed_up=True)) == {}  # too few instances
    (found,) = look(*faces(20, mixed_up=True, pairs=('eye', 'ear'))).values()
    assert len(found) == 2  # either may be wrong


def test_keypoints_of_several_categories_are_at_their_types(coco_file, two_categories):
    coco_file['categories'].append(dict(id=5, name='disc', keypoints=['hub']))
    coco_file['annotations'][1] |= dict(category_id=5, keypoints=[9, 8, 2], num_keypoints=1)
    assert look(coco_file, two_categories) == EMPTY_IMAGE
    instances = gather_instances(coco_file, read_metainfo(two_categories))
    assert instances.categories.tolist() == [0, 1, 0]
    assert instances.images.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(instances.visible, [[2, 1, 0, 0], [0, 0, 0, 2], [2, 1, 0, 0]])
    np.testing.assert_array_equal(instances.keypoints[1], [[0, 0], [0, 0], [0, 0], [9, 8]])
    np.testing.assert_array_equal(instances.keypoints[0, :3], [[10, 10], [5, 20], [0, 0]])
    np.testing.assert_array_equal(instances.boxes[0], [5, 5, 25.5, 35])


def test_file_without_annotations_can_be_reviewed(coco_file, triples):
    coco_file['annotations'] = []
    assert look(coco_file, triples) == {'images without annotations': [1, 2, 3]}
    instances = gather_instances(coco_file, read_metainfo(triples))
    assert instances.keypoints.shape == (0, 3, 2) and instances.boxes.shape == (0, 4)
