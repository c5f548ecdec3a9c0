# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Cache of decoded images in RAM or in a file, so that training decodes each image only once."""

import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import mmcv
import numpy as np
from filelock import FileLock
from mmengine.dist import all_gather_object
from mmengine.logging import print_log

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import PARTIAL, atomic_path

from .annotations.image_sizes import describe_mismatch
from .transforms import CheckedLoadImage

SPARE = 0.1  # share of the free space that the cache must leave free


class ImageCache:
    """Cache of decoded images, shrunk to the size to which training shrinks them anyway.

    The cache is filled when it is created and is read-only afterwards. Forked workers share it. In
    RAM each training process has its own copy. A file is filled by the first process while the
    others wait, and later runs use it again as long as no image changes. (A folder on a RAM disk,
    such as /dev/shm on Linux, holds one copy for all processes.)

    Args:
        paths: Paths of the n images.
        sizes: Sizes (w, h) of the images by the annotation file, (n, 2) int px.
        place: ``'ram'``, or the folder for the file, which gets a subfolder of its own.
        limit: Maximum size (w, h) px, see :func:`shrunk_sizes`; None keeps the size of all images.
        name: First part of the name of the subfolder; a hash of the content follows.

    Raises:
        InputError: If the cache does not fit or cannot be written, or an image is missing, corrupt
            or not of the annotated size.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sizes: np.ndarray,
        place: str,
        limit: tuple[int, int] | None = None,
        name: str = 'images',
    ) -> None:
        self._paths = paths
        self._sizes = sizes
        self._kept_sizes, self._scales = shrunk_sizes(sizes, limit)
        self._starts = np.concatenate(([0], (self._kept_sizes.prod(1) * 3).cumsum()))  # (n + 1,)
        self._num_bytes = int(self._starts[-1])
        self._slots = {path: i for i, path in enumerate(paths)}
        in_ram = place == 'ram'
        self._pixels = self._fill_memory() if in_ram else self._open_file(Path(place), name)

    def __getitem__(self, path: str) -> tuple[np.ndarray, float]:
        """Returns a read-only image (h, w, 3) uint8 BGR, and the scale to apply to its labels."""
        slot = self._slots[path]
        return self._view(self._pixels, slot), float(self._scales[slot])

    def __deepcopy__(self, memo: dict) -> 'ImageCache':
        """Returns itself, so that copies of a dataset, such as subsets, share the images."""
        return self

    def __reduce__(self) -> str:
        raise InputError(
            'image_cache is shared by forked workers; set env_cfg.mp_cfg.mp_start_method=fork'
        )

    def _view(self, pixels: np.ndarray, slot: int) -> np.ndarray:
        width, height = self._kept_sizes[slot]
        return pixels[self._starts[slot] : self._starts[slot + 1]].reshape(height, width, 3)

    def _fill_memory(self) -> np.ndarray:
        hosts = all_gather_object(socket.gethostname())
        self._check_space(free_memory(), 'RAM', hosts.count(socket.gethostname()))
        pixels = np.empty(self._num_bytes, np.uint8)
        self._fill(pixels)
        pixels.flags.writeable = False
        return pixels

    def _open_file(self, folder: Path, name: str) -> np.ndarray:
        path = folder / f'{name}-{self._key()}' / 'pixels.npy'
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix('.lock')):  # ends with the process that holds it
                if path.exists():
                    print_log(f'image cache: {len(self._paths):,} images in {path}', 'current')
                else:
                    self._fill_file(path)
            return np.asarray(np.load(path, mmap_mode='r'))
        except OSError as error:
            raise InputError(f'image_cache {path} cannot be used: {error.strerror}') from error

    def _fill_file(self, path: Path) -> None:
        for left_behind in path.parent.glob(f'.*{PARTIAL}'):  # by a killed process
            shutil.rmtree(left_behind)
        self._check_space(shutil.disk_usage(path.parent).free, str(path.parent.parent))
        with atomic_path(path) as temporary:
            pixels = np.lib.format.open_memmap(temporary, 'w+', np.uint8, (self._num_bytes,))
            with temporary.open('r+b') as file:  # otherwise a full disk would kill the process
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            self._fill(pixels)

    def _key(self) -> str:
        """Returns a hash of everything that the content of the cache depends on."""
        with ThreadPoolExecutor() as pool:
            stamps = list(pool.map(_stamp, self._paths))
        content = [self._sizes.tolist(), self._kept_sizes.tolist(), stamps]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _check_space(self, free: int, where: str, copies: int = 1) -> None:
        """Logs the size, and raises InputError if the copies need more than the free bytes."""
        size = f'{self._num_bytes / 1e9:,.1f} GB'
        each = f' for each of {copies} processes' if copies > 1 else ''
        estimate = (
            f'{len(self._paths):,} images, {size} in {where}{each}; {free / 1e9:,.1f} GB free'
        )
        if self._num_bytes * copies > free * (1 - SPARE):
            raise InputError(
                f'image cache: {estimate}, of which {SPARE:.0%} must stay free. Set image_cache to '
                "a folder on a larger disk, to 'ram' if that is larger, or to None; a smaller "
                'input_size needs less'
            )
        print_log(f'image cache: {estimate}', 'current')

    def _fill(self, pixels: np.ndarray) -> None:
        count = len(self._paths)
        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(partial(self._store, pixels), range(count)), 1):
                if done % math.ceil(count / 10) == 0 or done == count:
                    print_log(f'image cache: {done:,} of {count:,} images read', 'current')

    def _store(self, pixels: np.ndarray, slot: int) -> None:
        """Stores an image, loaded as in the pipeline and shrunk as in Mosaic."""
        image = CheckedLoadImage().transform(dict(img_path=self._paths[slot]))['img']
        found, expected = image.shape[1::-1], tuple(self._sizes[slot].tolist())
        if found != expected:
            fault = describe_mismatch(found, expected, self._paths[slot])
            raise InputError(f'image cache: {fault}; correct them')
        kept = tuple(self._kept_sizes[slot].tolist())
        self._view(pixels, slot)[:] = image if found == kept else mmcv.imresize(image, kept)


def shrunk_sizes(sizes: np.ndarray, limit: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Computes the sizes to which Mosaic shrinks images, with the same rounding as Mosaic.

    Images that are smaller than the limit keep their size, which needs less space. An image also
    keeps its size if rounding would make its longer side one px shorter than the limit, because
    Mosaic would resize it once more.

    Args:
        sizes: Sizes (w, h) of the images, (n, 2) int px.
        limit: ``img_scale`` (w, h) of MMPose's Mosaic, px; None keeps all sizes.

    Returns:
        The new sizes (w, h), (n, 2) int px, and the scales to apply to the labels, (n,) float64.
    """
    if limit is None:
        return sizes, np.ones(len(sizes))
    scales = (np.array(limit) / sizes).min(1)
    shrunk = (sizes * scales[:, None]).astype(int).clip(1)  # at least 1 px
    shrinks = (scales < 1) & ((np.array(limit) / shrunk).min(1) == 1)
    return np.where(shrinks[:, None], shrunk, sizes), np.where(shrinks, scales, 1.0)


def free_memory() -> int:
    """Returns the available RAM in bytes, including reclaimable page cache (Linux only)."""
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise InputError('image_cache: the free RAM is unknown on this system; set it to a folder')


def _stamp(path: str) -> tuple[str, int, int] | tuple[str]:
    """Returns path, size and modification time of a file, which change if it is replaced.

    For a missing file it returns only the path; loading the image raises the error.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return (os.path.abspath(path),)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns
