# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Last transform of a pipeline, which packs the inputs of the model and the metric."""

import cv2
import torch
from mmpose.datasets.transforms import PackPoseInputs
from mmpose.registry import TRANSFORMS

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr, round_pixels


@TRANSFORMS.register_module()
class PackKAPAOInputs(PackPoseInputs):
    """Packs the image and the labels that KAPAO needs, as MMPose's PackPoseInputs does.

    ``gt_instance_labels`` has ``bboxes`` (n, 4) and ``keypoints`` (n, K, 2) in px of the network
    input, ``keypoints_visible`` (n, K) in {0, 1}, all float32 tensors, and ``labels`` (n,) int64,
    the categories 0..C-1. These are absent for test images without annotations.

    A floating-point image, as color transforms may return it, is rounded to uint8.

    Args:
        pack_transformed: Whether to pack the labels in px of the network input also in a test
            pipeline, whose labels are in px of the original image. Tools that draw labels onto the
            network input need this.
    """

    label_mapping_table = dict(
        bbox='bboxes',
        keypoints='keypoints',
        keypoints_visible='keypoints_visible',
        category_id='labels',
    )

    # Without MMPose's `category_id`, which its CocoMetric would use as category of predictions.
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

    def __init__(self, pack_transformed: bool = False) -> None:
        super().__init__(meta_keys=self.meta_keys, pack_transformed=pack_transformed)

    def transform(self, results: dict) -> dict:
        """Packs image and labels.

        Raises:
            InputError: If the pipeline normalized the image, or the image has an unsupported
                format.
        """
        if 'img_norm_cfg' in results:
            raise InputError(
                'the pipeline normalizes images: leave that to model.data_preprocessor, and take '
                'Normalize out of the pipeline'
            )
        image = as_bgr(round_pixels(results['img']))
        if self.pack_transformed and 'transformed_keypoints' in results:
            moved = {key: results[f'transformed_{key}'] for key in ('bbox', 'keypoints')}
            results = {**results, **moved}
        # MMPose's conversion to (3, h, w) is slow; it gets an empty image, cv2.split does the work.
        packed = super().transform({**results, 'img': image[:0]})
        packed['inputs'] = torch.empty((image.shape[2], *image.shape[:2]), dtype=torch.uint8)
        cv2.split(image, list(packed['inputs'].numpy()))
        return packed
