# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The last transform: what model and metric get."""

import cv2
import numpy as np
import torch
from mmpose.datasets.transforms import PackPoseInputs
from mmpose.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackKAPAOInputs(PackPoseInputs):
    """PackPoseInputs with the labels of KAPAO.

    ``gt_instance_labels``: ``bboxes`` (n, 4) and ``keypoints`` (n, K, 2) in input px,
    ``keypoints_visible`` (n, K) in {0, 1}, float32 tensors, and ``labels`` (n,) int64, the
    categories 0..C-1; absent for test images without them.
    """

    label_mapping_table = dict(
        bbox='bboxes',
        keypoints='keypoints',
        keypoints_visible='keypoints_visible',
        category_id='labels',
    )

    # MMPose's default also has `category_id`, which its CocoMetric takes for that of predictions.
    meta_keys = (
        'id',
        'img_id',
        'img_path',
        'crowd_index',
        'ori_shape',
        'img_shape',
        'input_size',
        'input_center',
        'input_scale',
        'flip_indices',
        'raw_ann_info',
        'dataset_name',
        'mosaic_paths',
    )

    def __init__(self) -> None:
        super().__init__(meta_keys=self.meta_keys)

    def transform(self, results: dict) -> dict:
        """Packs image and labels."""
        image = np.ascontiguousarray(results['img'])
        # MMPose copies pixel by pixel to (3, h, w); it gets none to copy.
        packed = super().transform({**results, 'img': image[:0]})
        packed['inputs'] = torch.empty((image.shape[2], *image.shape[:2]), dtype=torch.uint8)
        cv2.split(image, list(packed['inputs'].numpy()))
        return packed
