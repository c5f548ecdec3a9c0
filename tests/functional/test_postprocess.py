# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np

from kapao_mm.functional.postprocess import predict_in_image
from kapao_mm.structures import Detections, KeypointObjects, PoseObjects


def detections(labels: list[int], num_types: int) -> Detections:
    """Returns a pose of each label with its keypoints at (10, 20), and an object at (12, 20)."""
    count = len(labels)
    return Detections(
        PoseObjects(
            bboxes=np.tile(np.array([[-5, 10, 30, 40]], np.float32), (count, 1)),
            scores=np.full(count, 0.9, np.float32),
            labels=np.array(labels, np.int64),
            keypoints=np.full((count, num_types, 2), (10, 20), np.float32),
        ),
        KeypointObjects(
            bboxes=np.array([[8, 16, 16, 24]], np.float32),
            scores=np.array([0.8], np.float32),
            labels=np.array([0]),
        ),
    )


def test_objects_are_mapped_to_the_image_and_fused_there(inference_settings):
    settings = inference_settings(fusion_score_thr=0.2)
    where = (np.array([2, 3]), np.array([1, -1]), (50, 100))
    found = predict_in_image(detections([0], 2), *where, [2], settings)
    np.testing.assert_allclose(found.bboxes, [[0, 29, 50, 100]])  # clipped
    np.testing.assert_allclose(found.pose_keypoints, [[[21, 59], [21, 59]]])
    np.testing.assert_allclose(found.keypoints, [[[25, 59], [21, 59]]])
    np.testing.assert_allclose(found.keypoint_scores, [[0.8, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.keypoint_objects.bboxes, [[17, 47, 33, 71]])


def test_poses_have_the_types_of_their_category_only(inference_settings):
    settings = inference_settings(fusion_score_thr=0.2)
    where = (np.ones(2), np.zeros(2), (50, 50))
    found = predict_in_image(detections([1, 0], 3), *where, [1, 2], settings)
    visible = np.array([[False, True, True], [True, False, False]])
    np.testing.assert_array_equal(found.keypoints_visible, visible)
    assert not found.pose_keypoints[~visible].any() and not found.keypoints[~visible].any()
    np.testing.assert_array_equal(found.keypoints_fused, [[False] * 3, [True, False, False]])


def test_no_objects_keep_the_shapes(inference_settings):
    nothing = Detections(*(type(o)(*(x[:0] for x in o)) for o in detections([0], 2)))
    found = predict_in_image(nothing, np.ones(2), np.zeros(2), (9, 9), [2], inference_settings())
    assert found.keypoints.shape == (0, 2, 2) and found.keypoint_scores.shape == (0, 2)
    assert found.keypoint_objects.bboxes.shape == (0, 4)
