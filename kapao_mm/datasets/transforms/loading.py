# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Transform that reads images."""

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmpose.datasets.transforms import LoadImage
from mmpose.registry import TRANSFORMS

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.utils.image_files import decode_image, read_image


@TRANSFORMS.register_module()
class CheckedLoadImage(LoadImage):
    """Loads an image, with clear errors for bad files and support for more kinds of arrays.

    The arguments are those of MMPose's LoadImage, except ``ignore_empty``, which is not supported:
    no image is ever skipped.

    Raises:
        InputError: If ``ignore_empty`` is set. When called, also if the file is missing or is not
            an image, if its size differs from the annotation file (:class:`SizeCheck`), or if the
            given ``img`` is not an image.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.ignore_empty:
            raise InputError('CheckedLoadImage leaves out no image: take ignore_empty out of it')

    def transform(self, results: dict) -> dict:
        """Reads ``img_path`` into ``img`` (h, w, 3) uint8 BGR.

        If ``img`` is given, it is converted with :func:`as_bgr` instead. ``size_check`` and
        ``annotated_size``, which a dataset may add to the sample, are removed.
        """
        check = results.pop('size_check', None)
        annotated_size = results.pop('annotated_size', None)
        if 'img' in results:
            image = as_bgr(results['img'])
            results.setdefault('img_path', None)
        else:
            image = self._read(results['img_path'])
            if check is not None:
                check(image.shape[1::-1], annotated_size, results['img_path'], results['img_id'])
        size = image.shape[:2]
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results.update(img_shape=size, ori_shape=size)
        return results

    def _read(self, path: str) -> np.ndarray:
        """Reads an image from a file or from another file backend of MMEngine."""
        # The result is 8 bits BGR in any case, and 'unchanged' would ignore the EXIF orientation.
        color = 'color' if self.color_type == 'unchanged' else self.color_type
        is_plain = (color, self.imdecode_backend) == ('color', 'cv2')
        if is_plain and self.backend_args is None and '://' not in path:
            return read_image(Path(path))
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            if is_plain:
                return decode_image(content, path)
            return as_bgr(mmcv.imfrombytes(content, color, backend=self.imdecode_backend))
        except InputError:
            raise
        except Exception as error:  # from the file backend or the decoder
            raise InputError(f'image {path} cannot be read as an image: {error}') from error
