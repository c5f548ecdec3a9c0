# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np

from kapao_mm.structures import OUTPUT_NAMES, split_by_image


def test_outputs_of_a_batch_are_split_by_image():
    rng = np.random.default_rng(0)
    outputs = dict(
        pose_objects_image=np.array([0, 0, 2, 3]),
        pose_objects_bboxes=rng.random((4, 4)),
        pose_objects_scores=rng.random(4),
        pose_objects_labels=np.arange(4),
        pose_objects_keypoints=rng.random((4, 5, 2)),
        keypoint_objects_image=np.array([2, 2, 5]),
        keypoint_objects_bboxes=rng.random((3, 4)),
        keypoint_objects_scores=rng.random(3),
        keypoint_objects_labels=np.arange(3),
    )
    assert list(outputs) == list(OUTPUT_NAMES)
    found = split_by_image(list(outputs.values()), 6)
    for i, detections in enumerate(found):
        for name, objects in detections._asdict().items():
            of_image = outputs[f'{name}_image'] == i
            for field, values in objects._asdict().items():
                np.testing.assert_array_equal(values, outputs[f'{name}_{field}'][of_image])
