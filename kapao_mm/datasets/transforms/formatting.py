# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The last transform: what model and metric get."""

from mmpose.datasets.transforms import PackPoseInputs
from mmpose.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackKAPAOInputs(PackPoseInputs):
    """PackPoseInputs with the labels of KAPAO.

    ``gt_instance_labels``: ``bboxes`` (n, 4) and ``keypoints`` (n, K, 2) in input px,
    ``keypoints_visible`` (n, K) in {0, 1}; float32 tensors, absent for test images without them.
    """

    label_mapping_table = dict(
        bbox='bboxes', keypoints='keypoints', keypoints_visible='keypoints_visible'
    )

    # MMPose's default also packs `category_id`, an array for bottom-up data, which CocoMetric
    # writes as the category of every prediction; without it the category is 1.
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
