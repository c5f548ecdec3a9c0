# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The last transform: what model and metric get."""

import cv2
import torch
from mmpose.datasets.transforms import PackPoseInputs
from mmpose.registry import TRANSFORMS

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr, round_pixels


@TRANSFORMS.register_module()
class PackKAPAOInputs(PackPoseInputs):
    """PackPoseInputs with the labels of KAPAO.

    ``gt_instance_labels``: ``bboxes`` (n, 4) and ``keypoints`` (n, K, 2) in input px,
    ``keypoints_visible`` (n, K) in {0, 1}, float32 tensors, and ``labels`` (n,) int64, the
    categories 0..C-1; absent for test images without them.

    The image may be floating-point, as transforms of colors leave it: it is rounded to uint8.

    Args:
        pack_transformed: Pack labels in input px also where evaluation wants them in
            original-image px, for tools that draw them onto the input.
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

    def __init__(self, pack_transformed: bool = False) -> None:
        super().__init__(meta_keys=self.meta_keys, pack_transformed=pack_transformed)

    def transform(self, results: dict) -> dict:
        """Packs image and labels.

        Raises:
            InputError: If colors were normalized, or the image is not understood otherwise.
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
        # MMPose copies pixel by pixel to (3, h, w); it gets none to copy.
        packed = super().transform({**results, 'img': image[:0]})
        packed['inputs'] = torch.empty((image.shape[2], *image.shape[:2]), dtype=torch.uint8)
        cv2.split(image, list(packed['inputs'].numpy()))
        return packed
