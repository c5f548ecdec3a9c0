# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Image files that a command line names, and the picture and JSON file for each."""

import argparse
import glob
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kapao_mm.errors import InputError

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

Predictor = Callable[[Path], tuple[dict[str, Any], np.ndarray]]


def add_image_options(parser: argparse.ArgumentParser, out_dir: str) -> None:
    """Adds the images, ``--out-dir`` with its default, and ``--objects``."""
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, folders or patterns')
    parser.add_argument(
        '--out-dir', type=Path, default=out_dir, help='where pictures and JSON go [%(default)s]'
    )
    parser.add_argument(
        '--objects', action='store_true', help='draw pose objects and keypoint objects as well'
    )


def predict_files(given: list[str], out_dir: Path, load: Callable[[], Predictor]) -> bool:
    """Predicts image by image, and says of each what was found and where it is.

    One that cannot be read is named and does not stop the others.

    Args:
        given: images, folders and patterns.
        out_dir: where pictures and JSON files go.
        load: makes the predictor, once there is something for it: of a file its
            :func:`prediction_dict`, and the picture of it, BGR (H, W, 3) uint8.

    Returns:
        Whether all that is given was predicted.

    Raises:
        InputError: ``out_dir`` cannot be made, or has the images; and what ``load`` raises.
    """
    found = list(dict.fromkeys(find_images(given)))
    images = [item for item in found if isinstance(item, Path)]
    errors = [item for item in found if isinstance(item, InputError)]
    for error in errors:
        print(f'error: {error}', file=sys.stderr)
    if out_dir.resolve() in {image.resolve().parent for image in images}:
        raise InputError(f'--out-dir {out_dir} is where images come from, and would overwrite them')
    if not images:
        return False
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'--out-dir {out_dir} cannot be made: {error.strerror}') from error
    predict = load()
    for name, image in name_outputs(images).items():
        try:
            prediction, picture = predict(image)
        except InputError as error:
            print(f'error: {error}', file=sys.stderr)
            errors.append(error)
            continue
        print(f'{image}: {_write(prediction, picture, out_dir / name)}', flush=True)
    print(f'pictures and JSON are in {out_dir.absolute()}')
    return not errors


def find_images(given: list[str]) -> Iterator[Path | InputError]:
    """The images of files, folders and patterns; an error stands for one that names none."""
    for name in given:
        path = Path(name)
        if path.is_dir():
            fault = f'folder {path.absolute()} has no images ({" ".join(IMAGE_SUFFIXES)})'
            yield from _only_images(path.iterdir()) or [InputError(fault)]
        elif path.exists():
            yield path
        else:
            fault = f'image {path.absolute()} does not exist'
            yield from _only_images(map(Path, glob.glob(name, recursive=True))) or [
                InputError(fault)
            ]


def _only_images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def name_outputs(images: list[Path]) -> dict[str, Path]:
    """Images by their name without suffix, numbered where another has the same."""
    named: dict[str, Path] = {}
    for image in images:
        name, number = image.stem, 1
        while name in named:
            number += 1
            name = f'{image.stem}_{number}'
        named[name] = image
    return named


def read_image(path: Path) -> np.ndarray:
    """Reads an image as MMPose's LoadImage does: turned as its EXIF orientation says.

    Returns:
        BGR, (H, W, 3) uint8.

    Raises:
        InputError: the file is missing or not an image.
    """
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except FileNotFoundError as error:
        raise InputError(f'image {path.absolute()} does not exist') from error
    except (OSError, cv2.error):  # OpenCV refuses an empty file
        image = None
    if image is None:
        raise InputError(f'image {path.absolute()} cannot be read as an image')
    return image


def _write(prediction: dict[str, Any], picture: np.ndarray, output: Path) -> str:
    """Writes OUTPUT.json and OUTPUT.jpg; returns what was found and where it is."""
    Path(f'{output}.json').write_text(json.dumps(prediction))
    Path(f'{output}.jpg').write_bytes(cv2.imencode('.jpg', picture)[1])
    fused = sum(sum(pose['fused']) for pose in prediction['poses'])
    return (
        f'{len(prediction["poses"])} poses, '
        f'{len(prediction["keypoint_objects"])} keypoint objects, {fused} fused -> {output}.jpg'
    )
