# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts the released files of CarFusion to COCO keypoint annotations in ROOT/annotations.

    ROOT/train/CAMERA/images/NAME.jpg    (ROOT/test has the same layout)
    ROOT/train/CAMERA/gt/NAME.txt        for each keypoint: x, y, keypoint (1..14), car, visibility
    ROOT/train/CAMERA/bb/NAME.txt        for each car: x1, y1, x2, y2, car (not in all releases)

Text files have a line for each keypoint or car, with values separated by commas or blanks. The
visibility is 1 for visible keypoints, 2 for those hidden by the car itself, 3 for those hidden by
another object. The tool follows the description of the dataset and was never run on the real data;
a line in another format is an error.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.image_sizes import ORIENTATION
from kapao_mm.datasets.annotations.reader import write_annotations
from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error

METAINFO = Path(__file__).parent / 'configs/metainfo.py'
CONFIG = 'projects/carfusion/configs/kapao_s_carfusion.py'
COCO_VISIBILITY = {1: 2, 2: 1, 3: 1}
# Margin of a box around keypoints on each side, relative to its longer side, because the car
# extends beyond its keypoints.
MARGIN = 0.1


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of the released dataset')
    parser.add_argument(
        '--splits', nargs='+', default=['train', 'test'], help='parts to convert [train test]'
    )
    return parser.parse_args()


def read_rows(path: Path, whole: tuple[int, ...]) -> Iterator[tuple[str, list[float]]]:
    """Yields the position of each row of a text file, for messages, and its five numbers.

    Args:
        path: The text file.
        whole: Columns whose numbers must be integers.

    Raises:
        InputError: If a row has another format.
    """
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        where, fields = f'{path}, line {number}', line.replace(',', ' ').split()
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if fields and not (len(values) == 5 and all(map(math.isfinite, values))):
            raise InputError(f'{where}: {line!r} is not 5 numbers')
        for column in whole if fields else ():
            if not values[column].is_integer():
                raise InputError(f'{where}: {values[column]:g} is not a whole number')
        if fields:
            yield where, values


def read_keypoints(path: Path, count: int) -> dict[int, np.ndarray]:
    """Reads the keypoints of each car: x and y in px, COCO's visibility, (count, 3)."""
    cars = {}
    for where, (x, y, keypoint, car, visibility) in read_rows(path, whole=(2, 3, 4)):
        if not 1 <= keypoint <= count:
            raise InputError(f'{where}: keypoint {keypoint:g} is not from 1 to {count}')
        if visibility not in COCO_VISIBILITY:
            raise InputError(f'{where}: visibility {visibility:g} is not 1, 2 or 3')
        row = cars.setdefault(int(car), np.zeros((count, 3)))[int(keypoint) - 1]
        if row[2]:
            raise InputError(f'{where}: car {car:g} has keypoint {keypoint:g} twice')
        row[:] = x, y, COCO_VISIBILITY[visibility]
    return cars


def read_boxes(path: Path) -> dict[int, np.ndarray]:
    """Reads the box of each car, (4,) xyxy px; returns an empty dict if there is no file."""
    boxes = {}
    for where, (*corners, car) in read_rows(path, whole=(4,)) if path.exists() else ():
        if car in boxes:
            raise InputError(f'{where}: car {car:g} has two boxes')
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise InputError(f'{where}: the box {corners} of car {car:g} has no area')
        boxes[int(car)] = np.array(corners)
    return boxes


def box_around(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """Returns a box (4,) xyxy px around the labeled keypoints (K, 3), clipped to the image.

    Returns None if it has no area, as for a single keypoint or keypoints outside the image.
    """
    labeled = keypoints[keypoints[:, 2] > 0, :2]
    top_left, bottom_right = labeled.min(0), labeled.max(0)
    margin = MARGIN * (bottom_right - top_left).max()
    box = np.concatenate([top_left - margin, bottom_right + margin]).clip(0, size * 2)
    return box if (box[2:] > box[:2]).all() else None


def read_image_size(path: Path) -> tuple[int, int]:
    """Reads the size (w, h) px of an image, turned by its EXIF orientation, from its header."""
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(ORIENTATION, 1) > 4
            return image.size[::-1] if is_turned else image.size
    except OSError as error:
        raise InputError(f'image {path} cannot be read as an image') from error


def find_images(camera: Path) -> list[Path]:
    """Returns the images of a camera, and checks that each text file has one."""
    for folder in ('images', 'gt'):
        if not (camera / folder).is_dir():
            raise InputError(f'{camera} has no folder {folder!r}')
    images = {path.stem: path for path in sorted(camera.glob('images/*.jpg'))}
    for path in sorted([*camera.glob('gt/*.txt'), *camera.glob('bb/*.txt')]):
        if path.stem not in images:
            raise InputError(f'{path} has no image {camera / "images" / path.stem}.jpg')
    return list(images.values())


def convert_cars(image: Path, count: int, counts: Counter) -> Iterator[dict]:
    """Yields a COCO annotation, without ids, for each car of an image that has a box.

    Args:
        image: Image file.
        count: Number of keypoint types.
        counts: Numbers of boxes by their origin; changed in place.
    """
    gt, bb = (image.parents[1] / folder / f'{image.stem}.txt' for folder in ('gt', 'bb'))
    size, keypoints, boxes = read_image_size(image), read_keypoints(gt, count), read_boxes(bb)
    for car in sorted(keypoints.keys() | boxes.keys()):
        labels = keypoints.get(car, np.zeros((count, 3)))
        box = boxes[car] if car in boxes else box_around(labels, size)
        if box is None:
            counts['cars without a box (left out)'] += 1
            continue
        counts['boxes of bb' if car in boxes else 'boxes around keypoints'] += 1
        sides = box[2:] - box[:2]
        yield dict(
            category_id=1,
            bbox=[*box[:2].tolist(), *sides.tolist()],
            area=float(sides.prod()),
            iscrowd=0,
            keypoints=labels.ravel().tolist(),
            num_keypoints=int((labels[:, 2] > 0).sum()),
        )


def convert_split(root: Path, split: str) -> tuple[dict, Counter]:
    """Converts a split of the dataset.

    Returns:
        Annotations in COCO format with file names relative to ``root``, and counts of the converted
        data and of those left out.

    Raises:
        InputError: If files are missing or invalid.
    """
    names = list(read_metainfo(dict(from_file=str(METAINFO)))['keypoint_name2id'])
    cameras = sorted(path for path in (root / split).glob('*') if path.is_dir())
    if not cameras:
        raise InputError(f'{root / split} has no folders of cameras; see --help for the layout')
    images, cars, counts = [], [], Counter(cameras=len(cameras))
    for path in (path for camera in cameras for path in find_images(camera)):
        if not (path.parents[1] / f'gt/{path.stem}.txt').exists():
            counts['images without a gt file (left out)'] += 1
            continue
        width, height = read_image_size(path)
        name = path.relative_to(root).as_posix()
        images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))
        for car in convert_cars(path, len(names), counts):
            cars.append(dict(id=len(cars) + 1, image_id=len(images), **car))
    counts.update(images=len(images), cars=len(cars))
    categories = [dict(id=1, name='car', keypoints=names)]
    return dict(images=images, annotations=cars, categories=categories), counts


def main() -> None:
    """Converts all splits, and prints what was converted and left out."""
    args = parse_args()
    for split in args.splits:
        content, counts = convert_split(args.root, split)
        path = args.root / f'annotations/car_keypoints_{split}.json'
        write_annotations(path, content)
        print(f'{path}: {", ".join(f"{count} {what}" for what, count in counts.items())}')
    print(f'Next: kapao train {CONFIG} --cfg-options data_root={args.root}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
