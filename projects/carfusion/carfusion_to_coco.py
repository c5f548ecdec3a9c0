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
from kapao_mm.datasets.annotations.reader import write_annotations
from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error

METAINFO = Path(__file__).parent / 'configs/metainfo.py'
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


def read_rows(path: Path, columns: int) -> Iterator[tuple[str, list[float]]]:
    """Yields the position of each row of a text file, for messages, and its numbers.

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
    labeled = keypoints[keypoints[:, 2] > 0, :2]
    top_left, bottom_right = labeled.min(0), labeled.max(0)
    margin = MARGIN * (bottom_right - top_left).max()
    box = np.concatenate([top_left - margin, bottom_right + margin]).clip(0, size * 2)
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
            counts['images without a gt file (left out)'] += 1


def convert_cars(image: Path, gt: Path, bb: Path, count: int, counts: Counter) -> Iterator[dict]:
    """Yields a COCO annotation, without ids, for each car of an image that has a box.

    Args:
        image: Image file.
        gt: File of the keypoints.
        bb: File of the boxes, which may be missing.
        count: Number of keypoint types.
        counts: Counter of boxes by their origin; changed in place.

    Raises:
        InputError: If a file is invalid.
    """
    size, keypoints, boxes = read_image_size(image), read_keypoints(gt, count), read_boxes(bb)
    for number in sorted(keypoints.keys() | boxes.keys()):
        labels = keypoints.get(number, np.zeros((count, 3)))
        box = boxes[number] if number in boxes else box_around(labels, size)
        if box is None:
            counts['cars without a box (left out)'] += 1
            continue
        counts['boxes of bb' if number in boxes else 'boxes around keypoints'] += 1
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
    for image, gt, bb in (frame for camera in cameras for frame in frames(camera, counts)):
        width, height = read_image_size(image)
        name = image.relative_to(root).as_posix()
        images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))
        for car in convert_cars(image, gt, bb, len(names), counts):
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
    config = 'projects/carfusion/configs/kapao_s_carfusion.py'
    print(f'Next: kapao train {config} --cfg-options data_root={args.root}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
