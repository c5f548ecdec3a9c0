# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws the pose objects and keypoint objects that a head is trained on, to check a dataset."""

import math
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample
from torchvision.ops import box_convert

from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.task_modules.objects import make_objects

from .kapao_visualizer import KAPAOVisualizer

MIN_SIDE = 800  # px; smaller images are enlarged so that labels are readable


class ObjectVisualizer(KAPAOVisualizer):
    """Draws pose objects and keypoint objects of annotated samples, side by side.

    Args:
        head: Head of the model.
        metainfo: Metainfo of the dataset.
        name: Name of the visualizer.
    """

    def __init__(self, head: KAPAOHead, metainfo: dict, name: str = 'visualizer') -> None:
        super().__init__(name)
        self.head = head
        self.set_dataset_meta(metainfo)

    def draw_sample(self, name: str, item: dict[str, Any], **options: Any) -> tuple[int, int]:
        """Draws an item of the dataset; the options are those of ``add_datasample``.

        Returns:
            The numbers of pose objects and of keypoint objects.
        """
        image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]  # RGB
        sample = add_objects(item['data_samples'], image.shape[:2], self.head)
        self.add_datasample(name, enlarge(image, sample), sample, draw_gt=False, **options)
        return len(sample.pred_instances), len(sample.pred_keypoint_objects)

    def _draw_prediction(
        self, image: np.ndarray, data_sample: PoseDataSample, *options: Any
    ) -> dict[str, np.ndarray]:
        poses, objects = data_sample.pred_instances, data_sample.pred_keypoint_objects
        return {
            f'pose objects: {len(poses)}': self._draw_poses(image, poses),
            f'keypoint objects: {len(objects)}': self._draw_keypoint_objects(image, objects),
        }


def add_objects(
    sample: PoseDataSample, image_hw: tuple[int, int], head: KAPAOHead
) -> PoseDataSample:
    """Adds the objects that ``head`` is trained on to a sample, in place of predictions.

    Crowd regions, which only test samples contain, are left out.

    Args:
        sample: Sample of the dataset; it is changed and returned.
        image_hw: Size (h, w) of the network input, px.
        head: Head of the model.
    """
    labels = sample.gt_instance_labels
    if 'bboxes' not in labels:  # a test image without annotations
        labels = InstanceData(
            bboxes=torch.zeros(0, 4),
            keypoints=torch.zeros(0, head.num_keypoints, 2),
            keypoints_visible=torch.zeros(0, head.num_keypoints),
            labels=torch.zeros(0, dtype=torch.long),
        )
    elif 'raw_ann_info' in sample:
        labels = labels[torch.tensor([not a.get('iscrowd') for a in sample.raw_ann_info])]
    fields = labels.bboxes, labels.keypoints, labels.keypoints_visible, labels.labels
    sizes = head.keypoint_sizes * max(image_hw)
    objects = make_objects(*([field] for field in fields), head.num_categories, sizes, image_hw)
    is_pose = objects.label < head.num_categories
    boxes = box_convert(objects.boxes, 'cxcywh', 'xyxy')
    sample.pred_instances = InstanceData(
        bboxes=boxes[is_pose].numpy(),
        keypoints=objects.keypoints[is_pose].numpy(),
        keypoints_visible=objects.visible[is_pose].numpy(),
        labels=objects.label[is_pose].numpy(),
    )
    types = objects.label[~is_pose] - head.num_categories
    sample.pred_keypoint_objects = InstanceData(
        bboxes=boxes[~is_pose].numpy(), labels=types.numpy(), scores=np.ones(len(types))
    )
    return sample


def enlarge(image: np.ndarray, sample: PoseDataSample) -> np.ndarray:
    """Returns an image (h, w, 3) enlarged by an integer factor if it is small.

    The objects of the sample are scaled in place.
    """
    zoom = math.ceil(MIN_SIDE / max(image.shape))
    sample.pred_instances.bboxes *= zoom
    sample.pred_instances.keypoints *= zoom
    sample.pred_keypoint_objects.bboxes *= zoom
    return image.repeat(zoom, 0).repeat(zoom, 1)
