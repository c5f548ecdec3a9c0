# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.evaluation import KAPAOMetric


@pytest.fixture
def people(tmp_path):
    """An annotation file of one image with two people, and their keypoints."""
    keypoints = np.stack((np.arange(17) * 5.0, np.arange(17) * 7.0 % 50), 1)
    keypoints = np.stack((keypoints + 10, keypoints + 100))
    annotations = [
        dict(
            id=i + 1,  # COCO evaluation takes an id of 0 for "no match"
            image_id=7,
            category_id=1,
            bbox=[0, 0, 200, 200],
            area=9000,
            iscrowd=0,
            num_keypoints=17,
            keypoints=np.c_[points, np.full(17, 2)].ravel().tolist(),
        )
        for i, points in enumerate(keypoints)
    ]
    path = tmp_path / 'people.json'
    categories = [dict(id=1, name='person')]
    images = [dict(id=7, width=300, height=300)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, keypoints


def evaluate(path, keypoints, scores, keypoint_scores=0):
    metric = KAPAOMetric(ann_file=str(path))
    metric.dataset_meta = dict(
        dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05), CLASSES=[]
    )
    sample = dict(
        id=[0, 1],
        img_id=7,
        gt_instances={},
        pred_instances=dict(
            keypoints=keypoints,
            keypoint_scores=np.full(
                keypoints.shape[:2], keypoint_scores, dtype=float
            ),  # 0: nothing fused
            bboxes=np.zeros((len(keypoints), 4)),
            bbox_scores=np.array(scores),
        ),
    )
    metric.process([], [sample])
    return metric.evaluate(1)


def test_poses_without_fused_keypoints_count(people):
    assert evaluate(*people, [0.9, 0.8])['coco/AP'] == pytest.approx(1)


def test_two_people_of_one_image_both_count(people):
    path, keypoints = people
    assert evaluate(path, keypoints[:1], [0.9])['coco/AP'] == pytest.approx(0.5, abs=0.02)


def test_near_duplicates_are_not_suppressed_again(people):
    path, keypoints = people
    found = evaluate(path, np.concatenate((keypoints[:1] + 0.01, keypoints)), [0.9, 0.8, 0.7])
    assert found['coco/AP'] < 0.9


def test_no_pose_at_all_is_an_ap_of_zero(people):
    path, keypoints = people
    assert evaluate(path, keypoints[:0], [])['coco/AP'] == 0


def test_fused_keypoints_do_not_change_the_order(people):
    path, keypoints = people
    wrong = np.concatenate((keypoints, keypoints[:1] + 500))
    fused = np.array([[0.0], [0.0], [0.9]]).repeat(17, 1)
    assert evaluate(path, wrong, [0.9, 0.8, 0.3], fused)['coco/AP'] == pytest.approx(1)
