# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws the pose objects and keypoint objects that a head is trained on, to check a dataset."""

import math
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample
from torchvision.ops import box_convert

from kapao_mm.functional.drawing import draw_keypoint_objects, draw_prediction
from kapao_mm.functional.drawing_style import Layers, Style
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.task_modules.objects import make_objects
from kapao_mm.structures import KeypointObjects, Prediction
from kapao_mm.structures.data_sample import from_data_sample, to_data_sample

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
        zoom = math.ceil(MIN_SIDE / max(image.shape))
        prediction = objects_of(item['data_samples'], image.shape[:2], self.head, zoom)
        sample = to_data_sample(prediction, PoseDataSample())
        image = image.repeat(zoom, 0).repeat(zoom, 1)
        self.add_datasample(name, image, sample, draw_gt=False, **options)
        return len(prediction), len(prediction.keypoint_objects.bboxes)

    def _draw_prediction(
        self, image: np.ndarray, data_sample: PoseDataSample, style: Style, *_: Any
    ) -> dict[str, np.ndarray]:
        prediction = from_data_sample(data_sample)
        objects = prediction.keypoint_objects
        return {
            f'pose objects: {len(prediction)}': draw_prediction(
                image, prediction, style, Layers(scores=False)
            ),
            f'keypoint objects: {len(objects.bboxes)}': draw_keypoint_objects(
                image, objects, style
            ),
        }


def objects_of(
    sample: PoseDataSample, image_hw: tuple[int, int], head: KAPAOHead, zoom: int = 1
) -> Prediction:
    """Returns the objects that ``head`` is trained on, as if they were predicted.

    Crowd regions, which only test samples contain, are left out.

    Args:
        sample: Sample of the dataset.
        image_hw: Size (h, w) of the network input, px.
        head: Head of the model.
        zoom: Factor of all coordinates.
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
    boxes = (box_convert(objects.boxes, 'cxcywh', 'xyxy') * zoom).numpy()
    is_pose = (objects.label < head.num_categories).numpy()
    keypoints = objects.keypoints.numpy()[is_pose] * zoom
    visible = objects.visible.numpy()[is_pose]
    label = objects.label.numpy()
    return Prediction(
        bboxes=boxes[is_pose],
        bbox_scores=np.ones(is_pose.sum()),
        labels=label[is_pose],
        keypoints=keypoints,
        keypoint_scores=visible.astype(float),
        keypoints_visible=visible,
        pose_keypoints=keypoints,
        keypoint_objects=KeypointObjects(
            boxes[~is_pose], np.ones((~is_pose).sum()), label[~is_pose] - head.num_categories
        ),
    )
