# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts predictions to and from MMPose's data samples, where they are numpy arrays."""

import numpy as np
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from .detections import KeypointObjects
from .prediction import Prediction


def to_data_sample(prediction: Prediction, sample: PoseDataSample) -> PoseDataSample:
    """Stores a prediction in a sample.

    Returns:
        The sample, with

        - ``pred_instances``: the fields of :class:`Prediction` about poses, with
          ``keypoints_visible`` as MMPose's numbers 0 and 1, and ``keypoints_fused``;
        - ``pred_keypoint_objects``: bboxes (Q, 4) xyxy; scores (Q,); labels (Q,), the keypoint
          types 0..K-1.
    """
    poses = {
        name: value
        for name, value in vars(prediction).items()
        if name != 'keypoint_objects' and value is not None
    }
    poses['keypoints_visible'] = prediction.keypoints_visible.astype(float)
    sample.pred_instances = InstanceData(**poses, keypoints_fused=prediction.keypoints_fused)
    objects = InstanceData(**prediction.keypoint_objects._asdict())
    sample.set_field(objects, 'pred_keypoint_objects', dtype=InstanceData)
    return sample


def from_data_sample(sample: PoseDataSample) -> Prediction:
    """Returns the prediction in a sample of :func:`to_data_sample`.

    Its keypoint objects are None if the sample has none stored, as in MMPose's merged samples.
    """
    poses = sample.pred_instances
    objects = sample.get('pred_keypoint_objects')
    return Prediction(
        bboxes=poses.bboxes,
        bbox_scores=poses.bbox_scores,
        labels=poses.labels,
        keypoints=poses.keypoints,
        keypoint_scores=poses.keypoint_scores,
        keypoints_visible=poses.keypoints_visible > 0,
        pose_keypoints=poses.pose_keypoints,
        keypoint_objects=None
        if objects is None
        else KeypointObjects(objects.bboxes, objects.scores, objects.labels),
        track_ids=poses.get('track_ids'),
    )


def ground_truth(sample: PoseDataSample) -> Prediction:
    """Returns the labeled people of a sample as a prediction, without crowd regions.

    Labeled keypoints count as visible and as fused, with the score 1.

    Args:
        sample: Sample with ``gt_instances``, and ``gt_instance_labels.labels`` if there are several
            categories. ``raw_ann_info`` (the annotations), if it is there, tells crowd regions;
            training samples have none.
    """
    truth = sample.get('gt_instances', InstanceData())
    people = np.ones(len(truth), bool)
    if 'raw_ann_info' in sample:
        people = np.array([not a.get('iscrowd') for a in sample.raw_ann_info or []], bool)
    if not people.any():
        return _poses(np.zeros((0, 4)), np.zeros((0, 0, 2)), np.zeros((0, 0), bool), None)
    labels = sample.get('gt_instance_labels', InstanceData()).get('labels')
    return _poses(
        truth.bboxes[people],
        truth.keypoints[people],
        truth.keypoints_visible[people] > 0,
        None if labels is None else labels.numpy(force=True)[people],
    )


def _poses(
    bboxes: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, labels: np.ndarray | None
) -> Prediction:
    return Prediction(
        bboxes=bboxes,
        bbox_scores=np.ones(len(bboxes)),
        labels=np.zeros(len(bboxes), int) if labels is None else labels,
        keypoints=keypoints,
        keypoint_scores=visible.astype(float),
        keypoints_visible=visible,
        pose_keypoints=keypoints,
    )
