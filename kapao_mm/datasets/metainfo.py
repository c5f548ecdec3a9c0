# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the metainfo of a dataset: keypoint names, skeleton, left/right pairs, categories."""

from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

import mmpose
import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmpose.datasets.datasets.utils import parse_pose_metainfo

from kapao_mm.errors import InputError
from kapao_mm.utils.plain_yaml import read_yaml_as_data
from kapao_mm.utils.project_files import project_dir

# Folders with metainfo files that are found from any working directory: those of this project (in
# a checkout or a wheel), then MMPose's.
SHIPPED = [
    folder / 'configs/_base_/datasets'
    for folder in (project_dir(), Path(mmpose.__file__).parent / '.mim')
]


def read_metainfo(metainfo: dict) -> dict[str, Any]:
    """Reads and parses the metainfo of one or several categories of pose objects.

    With several categories their keypoint types are concatenated and named ``category/type``.

    Args:
        metainfo: Metainfo in MMPose's format, or ``dict(from_file='...')`` with the path of a file
            that contains it. A Python file is executed, a JSON or YAML file is read as data. Files
            of this project and of MMPose (``configs/_base_/datasets/coco.py``) are found from any
            folder. For several categories it is ``dict(dataset_name='...',
            categories=dict(person=dict(from_file='...'), ball=dict(), ...))``, with a metainfo for
            each category name of the annotation file. An empty one means that the category has no
            keypoints, only a box.

    Returns:
        The metainfo as parsed by MMPose, with the additional key ``categories``: a list of dicts
        with ``name`` and ``keypoint_ids``, the indices of the keypoint types of the category. A
        single category has the name of the dataset.

    Raises:
        InputError: If a file or key is missing; no category has keypoints; sigmas or weights do not
            match the number of keypoints; a left/right pair or a link of the skeleton names an
            unknown keypoint; or keypoints are not numbered in order or share a name.
    """
    if 'categories' not in metainfo:
        parsed = _read_category(metainfo)
        _check_any_keypoints(parsed)
        ids = list(range(parsed['num_keypoints']))
        return {**parsed, 'categories': [dict(name=parsed['dataset_name'], keypoint_ids=ids)]}
    if 'dataset_name' not in metainfo or not metainfo['categories']:
        raise InputError('a metainfo of several categories needs dataset_name and categories')
    parts = {
        name: _read_category(part) if part else without_keypoints()
        for name, part in metainfo['categories'].items()
    }
    joined = _join(metainfo['dataset_name'], parts)
    _check_any_keypoints(joined)
    return joined


def without_keypoints() -> dict[str, Any]:
    """Returns the parsed metainfo of a category without keypoints, see :func:`read_metainfo`."""
    lists = ('upper_body_ids', 'lower_body_ids', 'flip_indices', 'flip_pairs', 'skeleton_links')
    return dict(
        num_keypoints=0,
        keypoint_id2name={},
        num_skeleton_links=0,
        **{key: [] for key in lists},
        keypoint_colors=np.zeros((0, 3), np.uint8),
        skeleton_link_colors=np.zeros((0, 3), np.uint8),
        dataset_keypoint_weights=np.zeros(0, np.float32),
        sigmas=np.zeros(0, np.float32),
    )


def keypoint_category_ids(metainfo: dict[str, Any]) -> set[int]:
    """Returns the category ids of an annotation file whose categories have keypoint types.

    Args:
        metainfo: As in :func:`category_ids`.
    """
    found = zip(metainfo['categories'], category_ids(metainfo), strict=True)
    return {number for category, ids in found if category['keypoint_ids'] for number in ids}


def _check_any_keypoints(parsed: dict[str, Any]) -> None:
    if not parsed['num_keypoints']:
        raise InputError(
            f'metainfo {parsed["dataset_name"]} has no keypoints, only boxes: train a detector '
            'without poses instead (MMDetection), or add a category with keypoints'
        )


def category_ids(metainfo: dict[str, Any]) -> list[list[int]]:
    """Returns the category ids of an annotation file that belong to each category of the model.

    Args:
        metainfo: Metainfo of a dataset, as returned by :func:`read_metainfo`, with the file's list
            of categories in ``CLASSES``.

    Returns:
        List of ids for each category. A single category has the ids of all categories of the file
        (for example, 54 species as one category). With several, ids are assigned by name.
    """
    categories, found = metainfo['categories'], metainfo.get('CLASSES', [])
    if len(categories) == 1:
        return [[entry['id'] for entry in found]]
    return [
        [entry['id'] for entry in found if entry.get('name') == category['name']]
        for category in categories
    ]


def check_keypoint_counts(counts: Sequence[int], metainfo: dict[str, Any], loader: str) -> None:
    """Checks that a head has the keypoint types of a dataset.

    Args:
        counts: Number of keypoint types of each category of the head.
        metainfo: Metainfo of the dataset; without ``categories``, as in MMPose's own datasets, it
            is one category.
        loader: Key of the dataloader in the config, for messages.

    Raises:
        InputError: If the numbers differ.
    """
    expected = [metainfo['num_keypoints']]
    if 'categories' in metainfo:
        expected = [len(category['keypoint_ids']) for category in metainfo['categories']]
    if list(counts) != expected:
        wrong, right = (each[0] if len(each) == 1 else each for each in (list(counts), expected))
        raise InputError(
            f'model.head.num_keypoints is {wrong}, but the dataset of {loader} '
            f'({metainfo["dataset_name"]}) has {right} keypoints; '
            f'set model.head.num_keypoints={right}, or use the config of the dataset'
        )


def _read_category(metainfo: dict) -> dict[str, Any]:
    """Parses the metainfo of one category, see :func:`read_metainfo`."""
    source = metainfo.get('from_file', metainfo.get('dataset_name'))
    info = _read_file(source) if 'from_file' in metainfo else metainfo
    needed = (
        f'metainfo {source} needs dataset_name, keypoint_info, skeleton_info, joint_weights and '
        'sigmas (in a file: of a dict dataset_info)'
    )
    for key, part in (('keypoint_info', 'name'), ('skeleton_info', 'link')):
        if not isinstance(info.get(key), dict):
            raise InputError(needed)
        for number, entry in info[key].items():
            if not isinstance(entry, dict) or part not in entry:
                raise InputError(f'metainfo {source}: {key} {number} has no {part}: add it')
    try:
        parsed = parse_pose_metainfo(info)
    except AssertionError as error:  # from MMPose, without a message
        raise InputError(needed) from error
    except KeyError as error:
        raise InputError(
            f'metainfo {source} has no keypoint named {error}, but a left/right pair (swap) or a '
            'link of its skeleton does; write the names as in keypoint_info'
        ) from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f'metainfo {source} has a value of the wrong type: {error}') from error
    _check_parsed(parsed, source)
    # MMPose gives the shape (0,) if there are no links.
    parsed['skeleton_link_colors'] = parsed['skeleton_link_colors'].reshape(-1, 3)
    return parsed


def _check_parsed(parsed: dict[str, Any], source: str) -> None:
    """Raises InputError if keypoints are not numbered in order, or a list does not fit them."""
    count = parsed['num_keypoints']
    numbers = list(parsed['keypoint_id2name']), sorted(parsed['keypoint_name2id'].values())
    if any(found != list(range(count)) for found in numbers):
        raise InputError(
            f'metainfo {source}: number the keypoints 0 to {count - 1} in order, each with a '
            'different name'
        )
    for key, name in (('sigmas', 'sigmas'), ('dataset_keypoint_weights', 'joint_weights')):
        if parsed[key].shape != (count,):
            raise InputError(
                f'metainfo {source} has {count} keypoints but {parsed[key].size} {name}: give one '
                'for each'
            )
    sigmas = parsed['sigmas']
    if not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise InputError(f'metainfo {source}: sigmas must be above 0, they are {sigmas}')


def _read_file(source: str) -> dict[str, Any]:
    """Reads the ``dataset_info`` of a metainfo file, see :func:`read_metainfo`."""
    path = Path(source).expanduser()
    shipped = (folder / path.name for folder in SHIPPED)
    found = next((file for file in (path, *shipped) if file.is_file()), None)
    if found is None:
        raise InputError(
            f'metainfo file {path.absolute()} does not exist, nor does one of that name in this '
            "project's or MMPose's configs/_base_/datasets/"
        )
    if found != path and not str(path).endswith(f'configs/_base_/datasets/{path.name}'):
        print_log(f'metainfo file {path} does not exist: {found} is used', 'current', WARNING)
    read_yaml_as_data()
    try:
        info = Config.fromfile(found).get('dataset_info', {})
    except (Exception, SystemExit) as error:  # the code in it may raise anything
        raise InputError(
            f'metainfo file {found.absolute()} cannot be read: {type(error).__name__}: {error}'
        ) from error
    info = info if isinstance(info, dict) else {}
    for key in ('keypoint_info', 'skeleton_info'):  # keys of JSON are strings
        if isinstance(info.get(key), dict):
            info[key] = {_number(name): value for name, value in info[key].items()}
    return info


def _number(key: int | str) -> int | str:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _join(dataset_name: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Joins the parsed metainfos of several categories, see :func:`read_metainfo`."""
    starts, categories, names = [], [], []
    for category, part in parts.items():
        starts.append(len(names))
        names += [f'{category}/{name}' for name in part['keypoint_id2name'].values()]
        categories.append(dict(name=category, keypoint_ids=list(range(starts[-1], len(names)))))
    joined: dict[str, Any] = dict(
        dataset_name=dataset_name,
        num_keypoints=len(names),
        keypoint_id2name=dict(enumerate(names)),
        keypoint_name2id={name: i for i, name in enumerate(names)},
        num_skeleton_links=sum(part['num_skeleton_links'] for part in parts.values()),
        categories=categories,
    )
    for key in ('upper_body_ids', 'lower_body_ids', 'flip_indices', 'flip_pairs', 'skeleton_links'):
        shifted = zip(starts, parts.values(), strict=True)
        joined[key] = [_shift(ids, start) for start, part in shifted for ids in part[key]]
    for key in ('keypoint_colors', 'skeleton_link_colors', 'dataset_keypoint_weights', 'sigmas'):
        joined[key] = np.concatenate([part[key] for part in parts.values()])
    return joined


def _shift(ids: int | tuple[int, ...], start: int) -> int | tuple[int, ...]:
    return ids + start if isinstance(ids, int) else tuple(i + start for i in ids)
