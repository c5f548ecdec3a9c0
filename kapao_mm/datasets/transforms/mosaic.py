# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Mosaic whose samples know their images."""

from mmpose.datasets.transforms import Mosaic
from mmpose.registry import TRANSFORMS


@TRANSFORMS.register_module()
class TracedMosaic(Mosaic):
    """MMPose's Mosaic, which forgets where three of its four images came from.

    Adds ``mosaic_paths``, the paths of the four, to the sample: a message about a batch can name
    them.
    """

    def apply_mix(self, results: dict) -> dict:
        """Mixes the images, see :class:`Mosaic`."""
        paths = [sample['img_path'] for sample in (results, *results['mixed_data_list'])]
        return {**super().apply_mix(results), 'mosaic_paths': paths}
