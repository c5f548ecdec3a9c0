# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Gives good and bad images of many kinds to the pipeline, the inferencer and the runtime.

All three must have the same result: the network input that PIL's decoding gives, or an InputError.
"""

import contextlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import torch
from _helpers import REPO
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmpose.registry import DATASETS, TRANSFORMS
from PIL import Image, ImageOps

from kapao_mm import register_all_modules
from kapao_mm.apis import KAPAOInferencer
from kapao_mm.apis.predict_files import predict_files
from kapao_mm.deploy import runtime as runtime_module
from kapao_mm.deploy.metadata import ModelMetadata
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox, resize_and_pad
from kapao_mm.media.inputs import open_inputs
from kapao_mm.structures import InferenceSettings, Metainfo

SIDE = 64  # of the network input, px
STEPS = (
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=SIDE, move_labels=False),
    dict(type='PackKAPAOInputs'),
)
Rng = np.random.Generator


class Case(NamedTuple):
    """An image and the expected result.

    Attributes:
        given: File or array.
        expected: Decoded image, BGR (h, w, 3); None if an error is expected; ``...`` if any result
            is accepted as long as all are equal.
        tolerance: Accepted mean difference of pixels, for lossy formats.
    """

    given: Any
    expected: Any
    tolerance: float = 0.0


def picture(rng: Rng, height: int = 0, width: int = 0) -> np.ndarray:
    """Makes a smooth image, RGB (h, w, 3)."""
    height, width = height or int(rng.integers(8, 90)), width or int(rng.integers(8, 90))
    small = rng.integers(0, 256, (3, 3, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path: Path, image: Image.Image, format: str, **options: Any) -> Path:
    """Writes a PIL image in a format that may differ from the suffix."""
    content = io.BytesIO()
    image.save(content, format, **options)
    path.write_bytes(content.getvalue())
    return path


def good_file(rng: Rng, path: Path, mode: str, format: str, **options: Any) -> Case:
    """A file that must be read as PIL reads it."""
    save(path, Image.fromarray(picture(rng)).convert(mode), format, **options)
    with Image.open(path) as read:
        expected = np.array(ImageOps.exif_transpose(read).convert('RGB'))[..., ::-1]
    return Case(path, expected, tolerance=6.0 if format in ('JPEG', 'WEBP') else 1.0)


def rotated(rng: Rng, path: Path, orientation: int) -> Case:
    """A photograph with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return good_file(rng, path, 'RGB', 'JPEG', exif=exif, quality=95)


def deep(rng: Rng, path: Path, suffix: str, color: bool) -> Case:
    """A file of 16 bits."""
    image = picture(rng)[..., ::-1] if color else picture(rng)[..., :1].repeat(3, 2)
    pixels = (image if color else image[..., 0]).astype(np.uint16) * 257
    path = path.with_suffix(suffix)
    cv2.imwrite(str(path), pixels)
    return Case(path, image)


def cut(rng: Rng, path: Path, format: str) -> Case:
    """A file whose end is missing."""
    save(path, Image.fromarray(picture(rng, 80, 80)), format)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0, 0.9))])
    return Case(path, None)


def damaged(rng: Rng, path: Path, format: str) -> Case:
    """A file with changed bytes, which may still be an image."""
    save(path, Image.fromarray(picture(rng, 80, 80)), format)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), int(rng.integers(1, 20))):
        content[place] = int(rng.integers(0, 256))
    path.write_bytes(content)
    return Case(path, ...)


def bomb(rng: Rng, path: Path) -> Case:
    """A PNG of a few bytes whose header states a huge size."""
    size = b''.join(int(s).to_bytes(4, 'big') for s in rng.integers(20_000, 2_000_000, 2))
    chunks = [b'IHDR' + size + bytes([8, 0, 0, 0, 0]), b'IDAT' + zlib.compress(bytes(99))]
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + b''.join(
            (len(c) - 4).to_bytes(4, 'big') + c + zlib.crc32(c).to_bytes(4, 'big') for c in chunks
        )
    )
    return Case(path, None)


def bad_path(rng: Rng, path: Path, make: Callable[[Path], Any]) -> Case:
    """A path at which ``make`` creates something that is not an image."""
    make(path)
    return Case(path, None)


def noise(rng: Rng, path: Path, start: bytes = b'') -> Case:
    """A file of random bytes."""
    path.write_bytes(start + rng.bytes(2000))
    return Case(path, None)


def sized(rng: Rng, path: Path, height: int, width: int) -> Case:
    """A PNG of an extreme size."""
    image = np.resize(rng.integers(0, 256, (1, 7, 3), np.uint8), (height, width, 3))
    save(path, Image.fromarray(image), 'PNG')
    return Case(path, image[..., ::-1])


def named(rng: Rng, path: Path, name: bytes) -> Case:
    """A good image with an unusual name."""
    path, image = path.with_name(os.fsdecode(name)), picture(rng)
    return Case(save(path, Image.fromarray(image), 'PNG'), image[..., ::-1])


def array(rng: Rng, path: Path, change: Callable[[np.ndarray], Any], works: bool) -> Case:
    """An array or PIL image made from a BGR image; gray ones keep only the first channel."""
    image = picture(rng)[..., ::-1].copy()
    image[0, 0] = 255, 255, 254  # shows that the range of floats is 0..255
    given = change(image)
    if not works:
        return Case(given, None)
    shape = np.shape(given)
    is_gray = len(shape) == 2 or shape[2] == 1
    return Case(given, image[..., :1].repeat(3, 2) if is_gray else image)


BAD_PATHS = {
    'empty': Path.touch,
    'text': lambda path: path.write_bytes(b'no image at all\n' * 20),
    'missing': lambda path: None,
    'folder': Path.mkdir,
    'pipe': os.mkfifo,
    'link loop': lambda path: path.symlink_to(path),
    'dangling link': lambda path: path.symlink_to('nowhere'),
}
GOOD_ARRAYS = {
    'gray (h, w)': lambda image: image[..., 0],
    'gray (h, w, 1)': lambda image: image[..., :1],
    'BGRA': lambda image: np.dstack([image, image[..., 0]]),
    'float32': lambda image: image.astype(np.float32),
    'float64 fractions': lambda image: (image - 0.3).clip(0),
    'uint16': lambda image: image.astype(np.uint16) * 257,
    'int64': lambda image: image.astype(np.int64),
    'not contiguous': np.asfortranarray,
    'rotated view': lambda image: image[::-1, ::-1].copy()[::-1, ::-1],
    'read only': lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    'PIL': lambda image: Image.fromarray(image[..., ::-1].copy()),
}
BAD_ARRAYS = {
    'float 0..1': lambda image: image / 256,
    'uint16 of 8 bits': lambda image: image.astype(np.uint16),
    'NaN': lambda image: image * np.nan,
    'infinite': lambda image: image + np.inf,
    'negative': lambda image: image - 300.0,
    'complex': lambda image: image + 1j,
    'objects': lambda image: image.astype(object),
    'channels first': lambda image: image.transpose(2, 0, 1),
    'two channels': lambda image: image[..., :2],
    'no rows': lambda image: image[:0],
    'number': lambda image: np.array(3, np.uint8),
    'None': lambda image: None,
}
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF')
MODES = [
    *((mode, format) for mode in ('RGB', 'L') for format in FORMATS[:5]),
    *(('P', 'PNG'), ('1', 'PNG'), ('LA', 'PNG'), ('RGBA', 'PNG'), ('P', 'TIFF'), ('CMYK', 'TIFF')),
]
SIZES = ((1, 1), (1, 900), (900, 1), (2, 70000), (70000, 2), (7, 3))
NAMES = (b'\xff\xfe \xe4.png', b'n' * 251 + b'.png', b' [*] %s "\'\n?.png')
CASES: dict[str, Callable[[Rng, Path], Case]] = {
    **{f'{m} {f}': partial(good_file, mode=m, format=f) for m, f in MODES},
    **{f'orientation {o}': partial(rotated, orientation=o) for o in range(1, 9)},
    **{
        f'16 bits {suffix} {color}': partial(deep, suffix=suffix, color=color)
        for suffix in ('.png', '.tif')
        for color in (False, True)
    },
    **{f'cut {f}': partial(cut, format=f) for f in FORMATS},
    **{f'damaged {f}': partial(damaged, format=f) for f in FORMATS},
    'bomb': bomb,
    'noise': noise,
    'start of a JPEG': partial(noise, start=b'\xff\xd8\xff\xe0'),
    'name with a zero': lambda rng, path: Case(path.with_name('a\0.png'), None),
    **{name: partial(bad_path, make=make) for name, make in BAD_PATHS.items()},
    **{f'{h} x {w} px': partial(sized, height=h, width=w) for h, w in SIZES},
    **{f'name {name[:9]}': partial(named, name=name) for name in NAMES},
    **{name: partial(array, change=change, works=True) for name, change in GOOD_ARRAYS.items()},
    **{name: partial(array, change=change, works=False) for name, change in BAD_ARRAYS.items()},
}
FOLDER = [
    *map(CASES.get, ('RGB PNG', 'empty', 'cut JPEG', 'bomb', 'link loop', 'folder', 'pipe')),
    *(partial(named, name=name) for name in (NAMES[1], b'\xff.png')),
]


class Readers:
    """Pipeline, inferencer and runtime; each turns an image into the network input (H, W, 3)."""

    def __init__(self, folder: Path) -> None:
        register_all_modules()
        MMLogger.get_current_instance().setLevel('CRITICAL')
        self.seen: np.ndarray | None = None
        self.pipeline = Compose([TRANSFORMS.build(dict(step)) for step in STEPS])
        self.inferencer = self._make_inferencer()
        self.runtime = self._make_runtime(folder)

    def _make_inferencer(self) -> KAPAOInferencer:
        cfg = Config.fromfile(REPO / 'configs/kapao/kapao_n_coco.py')
        widths = [32, 64, 96, 128]
        cfg.model.backbone.widen_factor = 0.125
        cfg.model.neck.in_channels = cfg.model.head.in_channels = widths
        cfg.test_dataloader.dataset.pipeline = list(STEPS)
        torch.manual_seed(0)
        inferencer = KAPAOInferencer(cfg, device='cpu', random_weights=True)
        step = inferencer.model.test_step

        def record(data: dict) -> list:
            self.seen = data['inputs'][0].permute(1, 2, 0).numpy()
            return step(data)

        inferencer.model.test_step = record
        return inferencer

    def _make_runtime(self, folder: Path) -> runtime_module.KAPAORuntime:
        metadata = ModelMetadata(
            config='attack',
            use='demo',
            settings=InferenceSettings(0.5, 0.45, 0.5, 0.45, 0.2, 50, 30000, 300),
            input_size=SIDE,
            square_input=False,
            metainfo=Metainfo(
                categories=[dict(name='mast', keypoint_ids=[0, 1])],
                keypoint_names=['top', 'base'],
                flip_pairs=[],
                sigmas=[0.1, 0.1],
                skeleton_links=[[0, 1]],
                keypoint_colors=[(255, 0, 0)] * 2,
                link_colors=[(0, 255, 0)],
            ),
        )
        one, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
        found = dict(
            pose_objects_image=one,
            pose_objects_bboxes=np.array([[4.0, 4, 60, 60]]),
            pose_objects_scores=np.ones(1),
            pose_objects_labels=one,
            pose_objects_keypoints=np.array([[[9.0, 9], [40, 40]]]),
            keypoint_objects_image=none,
            keypoint_objects_bboxes=np.zeros((0, 4)),
            keypoint_objects_scores=np.zeros(0),
            keypoint_objects_labels=none,
        )

        def network(batch: np.ndarray) -> dict[str, np.ndarray]:
            self.seen = batch[0]
            return found

        path = folder / 'model.onnx'
        path.touch()
        backend = {'.onnx': lambda *args: (metadata.to_json(), network)}
        with mock.patch.dict(runtime_module.BACKENDS, backend):
            return runtime_module.KAPAORuntime(path)

    def by_pipeline(self, given: Any) -> np.ndarray:
        """Reads an image with the pipeline of a config."""
        is_path = isinstance(given, Path)
        data = self.pipeline(dict(img_path=str(given)) if is_path else dict(img=given))
        return data['inputs'].permute(1, 2, 0).numpy()

    def by_inferencer(self, given: Any) -> np.ndarray:
        """Reads an image with the inferencer, and draws the prediction."""
        result = next(self.inferencer([given], return_vis=True))
        prediction, drawn = result['predictions'][0], result['visualization'][0]
        assert drawn.shape == (prediction['height'], prediction['width'], 3)
        return self.seen

    def by_runtime(self, given: Any) -> np.ndarray:
        """Reads an image with the runtime, and draws the prediction."""
        (result,) = self.runtime([given])
        drawn = result.plot(stages=isinstance(given, Path))
        if isinstance(given, Path):
            assert json.loads(result.to_json())['image'] == str(given)
        assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
        return self.seen

    def check(self, case: Case) -> None:
        """Reads an image in all three ways, and raises if a result is wrong or they differ."""
        found, errors = [], []
        for way in (self.by_pipeline, self.by_inferencer, self.by_runtime):
            try:
                found.append(way(case.given))
            except InputError as error:
                errors.append(error)
        if errors:
            assert not found, f'refused by only some: {errors[0]}'
            assert case.expected is None or case.expected is ..., f'refused: {errors[0]}'
            raise errors[0]
        assert case.expected is not None, 'accepted'
        assert all(np.array_equal(other, found[0]) for other in found), 'the results differ'
        if case.expected is not ...:
            box = letterbox(case.expected.shape[1::-1], SIDE)
            expected = resize_and_pad(np.ascontiguousarray(case.expected), box)
            assert found[0].shape == expected.shape, f'{found[0].shape}, not {expected.shape}'
            difference = np.abs(found[0].astype(int) - expected).mean()
            assert difference <= case.tolerance, f'colors are off by {difference:.1f}'

    def check_folder(self, rng: Rng, folder: Path) -> None:
        """Predicts a folder of good and bad files; the good ones must be predicted."""
        given = [make(rng, folder / f'{i}.png') for i, make in enumerate(FOLDER)]
        good = sum(case.expected is not None for case in given)
        out, text = folder / 'out', io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            sources = open_inputs(str(folder))
            counts = predict_files(self.runtime, sources, self.runtime.options(), out)
        written = sorted(path.suffix for path in out.iterdir())
        assert counts.errors and written == ['.jpg'] * good + ['.json'] * good, written


def check_annotated_size(rng: Rng, folder: Path) -> None:
    """Loads an image from an annotation file that may have another size for it."""
    image = picture(rng)
    height, width = image.shape[:2]
    save(folder / 'a.png', Image.fromarray(image), 'PNG')
    sizes = [(width, height), (height, width), (1, 1), (width + 1, height), (9000, 9000)]
    annotated = sizes[rng.integers(len(sizes))]
    content = dict(
        images=[dict(id=1, file_name='a.png', width=annotated[0], height=annotated[1])],
        annotations=[],
        categories=[dict(id=1, name='person')],
    )
    (folder / 'a.json').write_text(json.dumps(content))
    dataset = DATASETS.build(
        dict(
            type='KeypointDataset',
            metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
            data_root=str(folder),
            ann_file='a.json',
            data_prefix=dict(img=''),
            pipeline=list(STEPS),
            test_mode=bool(rng.integers(2)),
            image_cache=None,
        )
    )
    data = dataset[0]['data_samples']
    assert data.ori_shape == (height, width) and annotated == (width, height)


def attempts(count: int, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields all cases, and again with other random numbers, until there are ``count`` attempts."""
    readers = Readers(folder)
    number = 0
    while number < count:
        for name in [*CASES, 'annotated size', 'folder run']:
            rng, place = np.random.default_rng([seed, number]), folder / str(number)
            place.mkdir()
            number += 1
            if name == 'annotated size':
                yield name, lambda rng=rng, place=place: check_annotated_size(rng, place)
            elif name == 'folder run':
                yield name, lambda rng=rng, place=place: readers.check_folder(rng, place)
            else:
                case = CASES[name](rng, place / 'a.png')
                yield name, lambda case=case: readers.check(case)
