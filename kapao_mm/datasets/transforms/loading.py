# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reading of images."""

import os.path as osp

from mmpose.datasets.transforms import LoadImage
from mmpose.registry import TRANSFORMS

from kapao_mm.errors import InputError


@TRANSFORMS.register_module()
class CheckedLoadImage(LoadImage):
    """LoadImage that says what is wrong with a file; MMPose asks for corrupt ones if they exist.

    Raises:
        InputError: If the file is missing or not an image.
    """

    def transform(self, results: dict) -> dict:
        """Reads ``img_path`` into ``img`` (h, w, 3) uint8 BGR, unless ``img`` is given."""
        if 'img' in results:
            return super().transform(results)
        try:
            return super().transform(results)
        except Exception as error:  # of the file backend or the decoder
            path = osp.abspath(results['img_path'])
            fault = 'cannot be read as an image' if osp.exists(path) else 'does not exist'
            raise InputError(f'image {path} {fault}') from error
