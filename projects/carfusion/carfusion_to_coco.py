# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts the released files of CarFusion to COCO keypoint annotations in ROOT/annotations.

    ROOT/train/CAMERA/images/NAME.jpg    (ROOT/test has the same layout)
    ROOT/train/CAMERA/gt/NAME.txt        for each keypoint: x, y, keypoint (1..14), car, visibility
    ROOT/train/CAMERA/bb/NAME.txt        for each car: x1, y1, x2, y2, car (not in all releases)

Text files have a line for each keypoint or car, with values separated by commas or blanks. The
visibility is 1 for visible keypoints, 2 for those hidden by the car itself, 3 for those hidden by
another object. The tool follows the description of the dataset and has not been tested on the real
data; a line in another format is an error.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of the released dataset')
    parser.add_argument(
        '--splits', nargs='+', default=['train', 'test'], help='its parts [train test]'
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
from PIL import Image

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.reader import write_annotations

METAINFO = Path(__file__).parents[2] / 'configs/_base_/datasets/carfusion.py'
COCO_VISIBILITY = {1: 2, 2: 1, 3: 1}
# Margin of a box around keypoints on each side, relative to its longer side, because the car
# extends beyond its keypoints.
MARGIN = 0.1


def read_rows(path: Path, columns: int) -> Iterator[tuple[str, list[float]]]:
    """Yields the place of each row of a text file, for messages, and its numbers.

    Raises:
        InputError: If a row does not consist of ``columns`` finite numbers.
    """
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        fields, where = line.replace(',', ' ').split(), f'{path}, line {number}'
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if len(values) != columns or not all(map(math.isfinite, values)):
            if fields:
                raise InputError(f'{where}: {line!r} is not {columns} numbers')
            continue
        yield where, values


def whole(value: float, name: str, where: str) -> int:
    """Converts a whole number to int.

    Raises:
        InputError: If the number is not whole.
    """
    if not value.is_integer():
        raise InputError(f'{where}: {name} {value:g} is not a whole number')
    return int(value)


def read_keypoints(path: Path, count: int) -> dict[int, np.ndarray]:
    """Reads the keypoints of each car.

    Returns:
        Keypoints by car, each (count, 3): x and y in px of the image, and COCO's visibility.

    Raises:
        InputError: If a row is invalid, or a car has a keypoint twice.
    """
    cars = {}
    for where, (x, y, *numbers) in read_rows(path, 5):
        keypoint, car, visibility = (
            whole(number, name, where)
            for number, name in zip(numbers, ('keypoint', 'car', 'visibility'), strict=True)
        )
        if not 1 <= keypoint <= count:
            raise InputError(f'{where}: keypoint {keypoint} is not from 1 to {count}')
        if visibility not in COCO_VISIBILITY:
            raise InputError(f'{where}: visibility {visibility} is not 1, 2 or 3')
        keypoints = cars.setdefault(car, np.zeros((count, 3)))
        if keypoints[keypoint - 1, 2]:
            raise InputError(f'{where}: car {car} has keypoint {keypoint} twice')
        keypoints[keypoint - 1] = x, y, COCO_VISIBILITY[visibility]
    return cars


def read_boxes(path: Path) -> dict[int, np.ndarray]:
    """Reads the box of each car, (4,) xyxy px; returns an empty dict if there is no file.

    Raises:
        InputError: If a row is invalid, or a car has two boxes.
    """
    boxes = {}
    for where, (*corners, car) in read_rows(path, 5) if path.exists() else ():
        car = whole(car, 'car', where)
        if car in boxes:
            raise InputError(f'{where}: car {car} has two boxes')
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise InputError(f'{where}: the box {corners} of car {car} has no area')
        boxes[car] = np.array(corners)
    return boxes


def box_around(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """Returns a box (4,) xyxy px around the labeled keypoints, clipped to the image.

    Args:
        keypoints: Keypoints, (K, 3): x, y, visibility.
        size: Size (w, h) of the image, px.

    Returns:
        The box; None if it has no area, as for a single keypoint or keypoints outside the image.
    """
    points = keypoints[keypoints[:, 2] > 0, :2]
    low, high = points.min(0), points.max(0)
    margin = MARGIN * (high - low).max()
    box = np.concatenate([low - margin, high + margin]).clip(0, size * 2)
    return box if (box[2:] > box[:2]).all() else None


def read_image_size(path: Path) -> tuple[int, int]:
    """Reads the size (w, h) px of an image from its header.

    Raises:
        InputError: If the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise InputError(f'image {path} cannot be read as an image') from error


def frames(camera: Path, counts: Counter) -> Iterator[tuple[Path, Path, Path]]:
    """Yields the image, gt and bb file of each annotated image.

    Args:
        camera: Folder of a camera.
        counts: Counter of images without a gt file; changed in place.

    Raises:
        InputError: If a folder is missing, or a text file has no image.
    """
    for folder in ('images', 'gt'):
        if not (camera / folder).is_dir():
            raise InputError(f'{camera} has no folder {folder!r}')
    images = {path.stem: path for path in (camera / 'images').glob('*.jpg')}
    for path in sorted([*camera.glob('gt/*.txt'), *camera.glob('bb/*.txt')]):
        if path.stem not in images:
            raise InputError(f'{path} has no image {camera / "images" / path.stem}.jpg')
    for name, image in sorted(images.items()):
        gt = camera / f'gt/{name}.txt'
        if gt.exists():
            yield image, gt, camera / f'bb/{name}.txt'
        else:
            counts['images without a gt file'] += 1


def convert_car(keypoints: np.ndarray, box: np.ndarray) -> dict:
    """Converts keypoints (K, 3) and box (4,) xyxy of a car to a COCO annotation."""
    sides = box[2:] - box[:2]
    return dict(
        category_id=1,
        bbox=[*box[:2].tolist(), *sides.tolist()],
        area=float(sides.prod()),
        iscrowd=0,
        keypoints=keypoints.ravel().tolist(),
        num_keypoints=int((keypoints[:, 2] > 0).sum()),
    )


def convert_split(root: Path, split: str) -> tuple[dict, Counter, Counter]:
    """Converts a split of the dataset.

    Returns:
        Annotations in COCO format with file names relative to ``root``, counts of the converted
        data, and counts of the data left out.

    Raises:
        InputError: If files are missing or invalid.
    """
    names = list(read_metainfo(dict(from_file=str(METAINFO)))['keypoint_name2id'])
    cameras = sorted(path for path in (root / split).glob('*') if path.is_dir())
    if not cameras:
        raise InputError(f'{root / split} has no folders of cameras; see --help for the layout')
    images, cars, origins, left_out = [], [], Counter(), Counter()
    for image, gt, bb in (frame for camera in cameras for frame in frames(camera, left_out)):
        width, height = size = read_image_size(image)
        name = image.relative_to(root).as_posix()
        images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))
        keypoints, boxes = read_keypoints(gt, len(names)), read_boxes(bb)
        for number in sorted(keypoints.keys() | boxes.keys()):
            labels = keypoints.get(number, np.zeros((len(names), 3)))
            box = boxes[number] if number in boxes else box_around(labels, size)
            if box is None:
                left_out['cars without a box'] += 1
                continue
            origins['boxes of bb' if number in boxes else 'boxes around keypoints'] += 1
            cars.append(dict(id=len(cars) + 1, image_id=len(images), **convert_car(labels, box)))
    labelled = [car['num_keypoints'] for car in cars]
    counts = {
        'cameras': len(cameras),
        'images': len(images),
        'cars': len(cars),
        'of them without keypoints': labelled.count(0),
        'keypoints': sum(labelled),
    }
    categories = [dict(id=1, name='car', keypoints=names)]
    content = dict(images=images, annotations=cars, categories=categories)
    return content, Counter(counts) + origins, left_out


def main() -> None:
    """Converts all splits, and prints what was converted and left out."""
    args = parse_args()
    for split in args.splits:
        content, counts, left_out = convert_split(args.root, split)
        path = args.root / f'annotations/car_keypoints_{split}.json'
        write_annotations(path, content)
        found, missed = (
            ', '.join(f'{count} {what}' for what, count in counter.items()) or 'nothing'
            for counter in (counts, left_out)
        )
        print(f'{path}: {found}; left out: {missed}')
    print(
        f'Next: kapao train configs/kapao/kapao_s_carfusion.py --cfg-options data_root={args.root}'
    )


if __name__ == '__main__':
    with exit_on_input_error():
        main()
