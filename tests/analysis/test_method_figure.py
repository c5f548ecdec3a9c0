# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from kapao_mm.analysis.method_figure import detect, draw_method


@pytest.mark.slow
def test_the_picture_of_the_readme_is_what_the_tool_draws(repo):
    drawn = draw_method()[..., ::-1].astype(float)
    committed = cv2.imread(str(repo / 'docs/images/method.jpg'))
    assert committed.shape == drawn.shape
    assert np.abs(committed - drawn).mean() < 3  # JPEG


def test_keypoint_objects_are_exact_and_keypoints_of_pose_objects_are_not():
    label = [100, 50, 2, 0, 0, 0]
    poses, objects = detect(
        np.random.default_rng(0), [dict(bbox=[80, 30, 60, 90], keypoints=label)]
    )
    assert poses.bboxes.tolist() == [[80, 30, 140, 120]]
    assert objects.labels.tolist() == [0]
    assert objects.bboxes.reshape(2, 2).mean(0).tolist() == [100, 50]
    assert 0 < np.linalg.norm(poses.keypoints[0, 0] - (100, 50)) < 15
