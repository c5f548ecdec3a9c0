# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Decoded images in one buffer, in RAM or in a file, so that training decodes each of them once."""

import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import mmcv
import numpy as np
from mmengine.dist import all_gather_object
from mmengine.logging import print_log

from kapao_mm.errors import InputError

from .image_sizes import describe_mismatch
from .transforms import CheckedLoadImage

SPARE = 0.1  # part of the free space that the cache leaves to others


class ImageCache:
    """Decoded images, shrunk where training shrinks them anyway.

    It is filled when it is made, and read only from then on. Forked workers share it. In RAM each
    process of a machine has its own; a file is filled by the first process that asks for it while
    the others wait, and is found again by later runs as long as no image changes. (A folder in a
    RAM disk, /dev/shm on Linux, holds one copy for all processes.)

    Args:
        paths: of the n images.
        sizes: their (w, h) by the annotations, (n, 2) int.
        place: ``'ram'``, or the folder of the file.
        limit: (w, h) of :func:`shrunk_sizes`; None keeps every image at its size.
        name: of the file, in front of the key of its content.

    Raises:
        InputError: it does not fit, or an image is missing, corrupt or not of its size.
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
        self._slots = {path: i for i, path in enumerate(paths)}
        if place == 'ram':
            self._pixels = self._fill_memory()
        else:
            self._pixels = self._open_file(Path(place), name)

    def __getitem__(self, path: str) -> tuple[np.ndarray, float]:
        """The image of a path, (h, w, 3) uint8 BGR, read-only, and the scale of its labels."""
        slot = self._slots[path]
        return self._view(self._pixels, slot), float(self._scales[slot])

    def __deepcopy__(self, memo: dict) -> 'ImageCache':
        """Itself: a copied dataset, such as a subset, shares the images."""
        return self

    def __reduce__(self) -> str:
        raise InputError(
            'image_cache is shared by forked workers; set env_cfg.mp_cfg.mp_start_method=fork'
        )

    @property
    def num_bytes(self) -> int:
        """Size of all images."""
        return int(self._starts[-1])

    def _view(self, pixels: np.ndarray, slot: int) -> np.ndarray:
        width, height = self._kept_sizes[slot]
        return pixels[self._starts[slot] : self._starts[slot + 1]].reshape(height, width, 3)

    def _fill_memory(self) -> np.ndarray:
        processes = all_gather_object(socket.gethostname()).count(socket.gethostname())
        self._check_space(free_memory(), 'RAM', processes)
        pixels = np.frombuffer(mmap.mmap(-1, self.num_bytes), np.uint8)
        self._fill(pixels)
        pixels.flags.writeable = False
        return pixels

    def _open_file(self, folder: Path, name: str) -> np.ndarray:
        path = folder / f'{name}-{self._key()}.cache'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(path.with_suffix('.lock'), 'w') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process is dead
                if path.exists():
                    print_log(f'image cache: {len(self._paths):,} images in {path}', 'current')
                else:
                    self._fill_file(path)
            return np.asarray(np.memmap(path, np.uint8, 'r'))
        except OSError as error:
            raise InputError(f'image_cache {path} cannot be used: {error.strerror}') from error

    def _fill_file(self, path: Path) -> None:
        """Writes the file under another name, so that there is never half a cache."""
        half = path.with_suffix('.partial')
        half.unlink(missing_ok=True)
        self._check_space(shutil.disk_usage(path.parent).free, str(path.parent))
        with open(half, 'w+b') as file:
            os.posix_fallocate(file.fileno(), 0, self.num_bytes)  # a full disk would kill later
            pixels = np.memmap(file, np.uint8, 'r+')
            self._fill(pixels)
            pixels.flush()
        half.rename(path)

    def _key(self) -> str:
        """A hash of what the content depends on."""
        with ThreadPoolExecutor() as pool:
            stamps = list(pool.map(_stamp, self._paths))
        content = [self._sizes.tolist(), self._kept_sizes.tolist(), stamps]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _check_space(self, free: int, where: str, copies: int = 1) -> None:
        """Says how large the cache will be, and raises if that is too large."""
        size = f'{self.num_bytes / 1e9:,.1f} GB'
        each = f' for each of {copies} processes' if copies > 1 else ''
        estimate = (
            f'{len(self._paths):,} images, {size} in {where}{each}; {free / 1e9:,.1f} GB free'
        )
        if self.num_bytes * copies > free * (1 - SPARE):
            raise InputError(
                f'image cache: {estimate}, of which {SPARE:.0%} are spared. Set image_cache to a '
                "folder on a larger disk, to 'ram' where that is larger, or to None; a smaller "
                'input_size needs less'
            )
        print_log(f'image cache: {estimate}', 'current')

    def _fill(self, pixels: np.ndarray) -> None:
        count = len(self._paths)
        store = partial(self._store, pixels)
        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(store, range(count)), 1):
                if done % math.ceil(count / 10) == 0 or done == count:
                    print_log(f'image cache: {done:,} of {count:,} images read', 'current')

    def _store(self, pixels: np.ndarray, slot: int) -> None:
        """Reads an image as the pipeline would, and shrinks it as Mosaic would."""
        image = CheckedLoadImage().transform(dict(img_path=self._paths[slot]))['img']
        found, expected = image.shape[1::-1], tuple(self._sizes[slot].tolist())
        if found != expected:
            fault = describe_mismatch(found, expected, self._paths[slot])
            raise InputError(f'image cache: {fault}; correct them')
        kept = tuple(self._kept_sizes[slot].tolist())
        self._view(pixels, slot)[:] = image if found == kept else mmcv.imresize(image, kept)


def shrunk_sizes(sizes: np.ndarray, limit: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of images that are no larger than Mosaic makes them, with its arithmetic.

    An image that Mosaic would resize once more keeps its size: where rounding leaves its long side
    one px short of the limit. Smaller images keep theirs, which needs less space.

    Args:
        sizes: (w, h), (n, 2) int.
        limit: ``img_scale`` of MMPose's Mosaic, (w, h); None keeps every size.

    Returns:
        The sizes (w, h), (n, 2) int, and the scales of their labels, (n,) float64.
    """
    if limit is None:
        return sizes, np.ones(len(sizes))
    scales = (np.array(limit) / sizes).min(1)
    shrunk = (sizes * scales[:, None]).astype(int).clip(1)  # none of 0 px
    shrinks = (scales < 1) & ((np.array(limit) / shrunk).min(1) == 1)
    return np.where(shrinks[:, None], shrunk, sizes), np.where(shrinks, scales, 1.0)


def free_memory() -> int:
    """Bytes of RAM that processes can still take, page cache included (Linux)."""
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise InputError('image_cache: the free RAM is unknown here; set it to a folder')


def _stamp(path: str) -> tuple[str, int, int] | tuple[str]:
    """What changes when an image is replaced; reading says what is wrong with a missing one."""
    try:
        stat = os.stat(path)
    except OSError:
        return (os.path.abspath(path),)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns
