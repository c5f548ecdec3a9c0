# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Recognizes annotation files of other formats than COCO's, and says how to convert them."""

import codecs
import json
import math
import os.path as osp
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .values import are_numbers, is_list_of

HEAD = 4096  # bytes that show the format of a text file
FILES = 20  # number of files of a folder that are looked at
LARGEST_IN_FOLDER = 10**7  # bytes of a JSON file
SUFFIXES = ('.yaml', '.yml', '.json', '.csv', '.h5', '.xml', '.txt')  # the most telling first
POINT = 2  # px, maximum side of the box of a single point
SHOWN = 4  # number of categories in a message
CONVERT = 'convert it with kapao {}'
EXPORT = 'export {} there instead'
IN_COCO = EXPORT.format('the format COCO')


class Format(NamedTuple):
    """A format: its name, what to do with the file, and a function that recognizes the content."""

    name: str
    remedy: str
    applies: Callable[[Any], bool]


def _has(*keys: str) -> Callable[[Any], bool]:
    """Makes a function that returns whether an object has keys."""
    return lambda content: isinstance(content, dict) and all(key in content for key in keys)


def _lists(*keys: str) -> Callable[[Any], bool]:
    """Makes a function that returns whether a list starts with an object that has keys."""
    return lambda content: isinstance(content, list) and bool(content) and _has(*keys)(content[0])


def _is_via(content: Any) -> bool:
    values = content.values() if isinstance(content, dict) else ()
    return bool(values) and all(map(_has('filename', 'regions'), values))


def _is_animal_pose(content: Any) -> bool:
    images = content.get('images') if isinstance(content, dict) else None
    return isinstance(images, dict) and any(isinstance(name, str) for name in images.values())


VIA = EXPORT.format('"Annotations > Export Annotations (COCO format)"')
JSON_FORMATS = (
    Format(
        "Label Studio's own JSON",
        CONVERT.format('label-studio-to-coco'),
        lambda content: any(_lists('data', key)(content) for key in ('annotations', 'completions')),
    ),
    Format(
        "Label Studio's JSON-MIN",
        'export JSON there instead, and convert it with kapao label-studio-to-coco',
        _lists('id', 'annotator', 'lead_time'),
    ),
    Format('a project of VGG Image Annotator', VIA, _has('_via_img_metadata')),
    Format("VGG Image Annotator's own JSON", VIA, _is_via),
    Format(
        'a project of VGG Image Annotator 3',
        'label with a tool that writes the format COCO, such as CVAT',
        _has('project', 'attribute', 'file', 'metadata', 'view'),
    ),
    Format("Animal-Pose's own JSON", CONVERT.format('animalpose-to-coco'), _is_animal_pose),
    Format(
        'a file of labelme or X-AnyLabeling',
        'open the folder with X-AnyLabeling, export YOLO-Pose, and convert it with kapao '
        'yolo-to-coco',
        _has('shapes', 'imagePath'),
    ),
    Format("Datumaro's own JSON", EXPORT.format('coco_person_keypoints'), _has('items', 'infos')),
    Format('CreateML', IN_COCO, _lists('image', 'annotations')),
    Format(
        'a file of results',
        'give the annotation file (results go to kapao eval)',
        _lists('image_id', 'category_id', 'score'),
    ),
)


def _starts_with(pattern: str) -> Callable[[str], bool]:
    return re.compile(pattern).match


def _is_yolo_data(text: str) -> bool:
    keys = set(re.findall(r'^(\w+)\s*:', text, re.MULTILINE))
    return bool(keys & {'names', 'nc', 'kpt_shape'}) and bool(keys & {'train', 'val', 'path'})


def _is_yolo_labels(text: str) -> bool:
    """Returns whether all lines are a class and numbers, of which four are a box from 0 to 1."""
    lines = text.rstrip().splitlines() or ['']
    if lines[1:] and len(text) >= HEAD // 2:
        del lines[-1]  # it may be cut off
    try:
        rows = [[float(number) for number in line.split()] for line in lines]
    except ValueError:
        return False
    return all(
        len(row) >= 5 and row[0] == row[0] // 1 and 0 <= min(row[1:5]) <= max(row[1:5]) <= 1
        for row in rows
    )


XML = r'(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*'
YOLO = CONVERT.format('yolo-to-coco')
TEXT_FORMATS = (
    Format('CVAT XML', EXPORT.format('"COCO Keypoints 1.0"'), _starts_with(f'{XML}<annotations>')),
    Format(
        "Animal-Pose's XML",
        'convert the file keypoints.json of its release with kapao animalpose-to-coco',
        _starts_with(rf'(?s){XML}<annotation>.*<keypoints>'),
    ),
    Format(
        'Pascal VOC, which has no keypoints',
        EXPORT.format('keypoints in the format COCO'),
        _starts_with(f'{XML}<annotation[ >]'),
    ),
    Format(
        "DeepLabCut's CollectedData",
        'write it in COCO format with DeepLabCut 3 (its DLCLoader has a function to_coco)',
        _starts_with('scorer,|\N{REPLACEMENT CHARACTER}HDF'),
    ),
    Format("VGG Image Annotator's CSV", VIA, _starts_with('#?filename,file_size')),
    Format("YOLO's data.yaml", YOLO, _is_yolo_data),
    Format('a YOLO label file', f'{YOLO}, which reads data.yaml', _is_yolo_labels),
)


def refuse_foreign_file(path: str | Path) -> None:
    """Raises an error if a file that is not JSON, or a folder, is of another known format.

    Raises:
        InputError: It names the format and what to do. A file that is missing, unreadable or of an
            unknown format raises nothing here.
    """
    try:
        found = _in_folder(Path(path)) if osp.isdir(path) else _text_format(_head(Path(path)))
    except (OSError, ValueError):
        return
    if found:
        raise InputError(_message(path, found))


def refuse_foreign_content(path: str | Path, content: Any) -> None:
    """Raises an error if the content of a JSON file is not that of a COCO keypoint file.

    Raises:
        InputError: It names the format and what to do, or says that single points were labeled
            instead of skeletons. Content of an unknown format raises nothing here.
    """
    if found := _json_format(content):
        raise InputError(_message(path, found))
    if fault := _points_fault(content):
        raise InputError(f'annotation file {osp.abspath(path)} {fault}')


def _message(path: str | Path, found: Format) -> str:
    return f'{osp.abspath(path)} is {found.name}, not COCO format: {found.remedy}'


def _json_format(content: Any) -> Format | None:
    return next((each for each in JSON_FORMATS if each.applies(content)), None)


def _text_format(text: str) -> Format | None:
    return next((each for each in TEXT_FORMATS if each.applies(text)), None)


def _head(path: Path) -> str:
    """Reads the start of a text file without byte order mark and leading space."""
    with path.open('rb') as file:
        start = file.read(HEAD)
    return start.removeprefix(codecs.BOM_UTF8).decode('utf-8', 'replace').lstrip()


def _in_folder(folder: Path) -> Format | None:
    """Returns the format of the first file of a folder that has a known one."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    files.sort(key=lambda path: (SUFFIXES.index(path.suffix.lower()), path))
    return next(filter(None, map(_file_format, files[:FILES])), None)


def _file_format(path: Path) -> Format | None:
    if path.suffix.lower() != '.json':
        return _text_format(_head(path))
    is_small = path.stat().st_size < LARGEST_IN_FOLDER
    return _json_format(json.loads(path.read_bytes())) if is_small else None


def _points_fault(content: Any) -> str | None:
    """Returns what is wrong if points were labeled instead of skeletons, or None.

    Points have no keypoint names in their categories, and each annotation is a single point: it has
    no box of any size, or every keypoint has a category of its own.
    """
    lists = content if isinstance(content, dict) else {}
    categories, annotations = (lists.get(key) for key in ('categories', 'annotations'))
    if not (is_list_of(categories, _is_dict) and is_list_of(annotations, _is_dict)):
        return None
    if not (annotations and categories) or any(each.get('keypoints') for each in categories):
        return None
    counts = set(map(_count, annotations))
    are_several = len({str(annotation.get('category_id')) for annotation in annotations}) > 1
    are_flat = all(map(_is_flat, annotations))
    own_category = are_several and (counts == {1} or (are_flat and counts <= {0, 1}))
    if not own_category and not (are_flat and counts == {1}):
        return None
    names = [str(category.get('name')) for category in categories]
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return (
        f'has single points ({len(annotations)} annotations of {", ".join(names[:SHOWN])}{more}), '
        'but no skeletons, so it does not say which points are of one object: label each object '
        'with a skeleton (in CVAT "Setup skeleton"), or with a box and keypoints in it, and export '
        'COCO keypoints'
        + ('' if are_flat else '; or write the keypoint of each category into its list keypoints')
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _count(annotation: dict) -> float:
    keypoints = annotation.get('keypoints') or []
    return len(keypoints) / 3 if isinstance(keypoints, list) else math.nan


def _is_flat(annotation: dict) -> bool:
    """Returns whether an annotation has no box, or one that is not larger than a point."""
    box = annotation.get('bbox')
    return not box or (are_numbers(box) and len(box) == 4 and max(box[2:]) <= POINT)
