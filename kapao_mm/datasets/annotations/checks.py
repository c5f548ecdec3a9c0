# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds errors in a COCO-format annotation file before training or evaluation starts.

MMPose and COCO's tools raise a KeyError for most of these errors, and silently drop or overwrite
entries for the others.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..metainfo import category_ids
from .box_categories import find_box_categories
from .issues import AnnotationIssue, Rule, find_issues
from .keypoint_names import name_faults
from .subset import keep_images
from .values import are_numbers, has_id, is_list_of, is_name, is_number, valid_ids

LISTS = ('images', 'annotations', 'categories')
LARGEST_SIDE = 2**31 - 1  # px
COCO_FORMAT = 'write it in COCO format, an object with the lists images, annotations and categories'
KEYPOINT_FILE = 'use a file of keypoint annotations (COCO: person_keypoints_*.json), or add'

ID_RULES = (  # the name of the list is added in front; context: number of entries with each id
    Rule(
        'whose id is not a whole number',
        'number them 1, 2, 3, ... wherever the file names their ids',
        lambda entry, count: not has_id(entry),
    ),
    Rule(
        'that share their id with others',
        'give each its own',
        lambda entry, count: has_id(entry) and count[entry['id']] > 1,
    ),
)
IMAGE_RULES = (
    Rule(
        "images without 'file_name'",
        'write their paths inside the image folder',
        lambda image: not is_name(image.get('file_name')),
    ),
    Rule(
        "images without 'width' and 'height' in whole px",
        'write their sizes',
        lambda image: not (_is_side(image.get('width')) and _is_side(image.get('height'))),
    ),
)
UNLISTED_IMAGE = Rule(  # context: ids of the images of the file
    'annotations of images that the file does not list',
    'list the images, or take the annotations out',
    lambda a, ids: not (has_id(a, 'image_id') and a['image_id'] in ids),
)
UNLISTED_CATEGORY = Rule(  # context: ids of the categories of the file
    "annotations whose 'category_id' is none of the file's categories",
    'list the category, or correct them',
    lambda a, ids: not _is_of_category(a, ids),
)
LABEL_RULES = (
    Rule("annotations without 'bbox'", f'{KEYPOINT_FILE} it', lambda a: a.get('bbox') is None),
    Rule(
        "annotations whose 'bbox' is not four finite numbers",
        'write x, y, width and height in px',
        lambda a: a.get('bbox') is not None and not _is_box(a['bbox']),
    ),
    Rule(
        "annotations without 'keypoints'",
        f'{KEYPOINT_FILE} them',
        lambda a: a.get('keypoints') is None,
    ),
    Rule(
        "annotations whose 'keypoints' are not a list of finite numbers",
        'write x, y and visibility of each in one list, 0, 0, 0 for one that is not labeled',
        lambda a: a.get('keypoints') is not None and not are_numbers(a['keypoints']),
    ),
    Rule(
        "annotations whose 'iscrowd' is not 0 or 1",
        'write 1 for a region with many objects that are not labeled one by one, otherwise 0',
        lambda a: a.get('iscrowd', 0) not in (0, 1),
    ),
    Rule(
        "annotations whose 'area' is not a number",
        'write the area of the object in px, or take it out',
        lambda a: not is_number(a.get('area', 0)),
    ),
)
CATEGORY_NAME = Rule(
    "categories without 'name'", 'write their names', lambda c: not is_name(c.get('name'))
)
CATEGORY_RULES = (
    CATEGORY_NAME,
    Rule(
        "categories whose 'keypoints' are not a list of names",
        'write the name of each keypoint type',
        lambda c: not is_list_of(c.get('keypoints') or [], is_name),
    ),
    Rule(
        "categories whose 'skeleton' is not a list of pairs of numbers",
        'write each link as [keypoint, keypoint], counted from 1, or take it out',
        lambda c: not is_list_of(c.get('skeleton') or [], _is_link),
    ),
)


def fatal_faults(content: Any, metainfo: dict, test_mode: bool = False) -> list[AnnotationIssue]:
    """Finds the errors that make training or evaluation impossible or wrong.

    Args:
        content: Content of a COCO-format file.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
        test_mode: Whether the file is used for evaluation, which needs ``categories`` but may lack
            ``annotations`` (COCO's test sets). Otherwise it is used for training.

    Returns:
        The errors. Single entries are checked only if the lists of the file are valid.
    """
    return file_faults(content, metainfo, test_mode) or [
        *_flip_faults(metainfo),
        *image_faults(content['images']),
        *annotation_faults(content),
        *metainfo_faults(content, metainfo),
    ]


def without_faulty(content: dict, faults: Iterable[AnnotationIssue]) -> dict:
    """Returns the content without the images and annotations that have errors.

    Annotations of removed images are removed, too. No error may concern the whole file.
    """
    faulty = {(fault.kind, index) for fault in faults for index in fault.indices}
    images, annotations = (
        [entry for i, entry in enumerate(content.get(kind, [])) if (kind, i) not in faulty]
        for kind in ('images', 'annotations')
    )
    return keep_images(content | dict(annotations=annotations), images)


def categories_by_id(content: dict, metainfo: dict) -> dict[int, int]:
    """Returns a dict from category ids of the file to category indices of the model."""
    found = category_ids(metainfo | dict(CLASSES=_listed_categories(content)))
    return {number: index for index, numbers in enumerate(found) for number in numbers}


def structure_faults(content: Any, needed: Sequence[str]) -> list[AnnotationIssue]:
    """Checks that the lists of a file contain objects, and that the needed ones exist."""
    if not isinstance(content, dict):
        what = f'it is a {type(content).__name__}, not an object'
        return [AnnotationIssue('file', what, COCO_FORMAT)]
    return [
        AnnotationIssue('file', f'it has no list of objects {key!r}', COCO_FORMAT)
        for key in LISTS
        if (key in needed or key in content)
        and not is_list_of(content.get(key), lambda entry: isinstance(entry, dict))
    ]


def empty_faults(content: dict, needed: Iterable[str]) -> list[AnnotationIssue]:
    """Checks that lists of a file are not empty."""
    empty = [key for key in needed if not content[key]]
    remedy = 'list those of the annotations'
    return [AnnotationIssue('file', f'it lists no {key}', remedy) for key in empty]


def file_faults(content: Any, metainfo: dict, test_mode: bool) -> list[AnnotationIssue]:
    """Finds errors in the lists of a file and in its categories, see :func:`fatal_faults`."""
    several = len(metainfo['categories']) > 1
    filled = ['images', *['categories'] * (test_mode or several)]
    needed = filled if test_mode else [*filled, 'annotations']
    if faults := structure_faults(content, needed) or empty_faults(content, filled):
        return faults
    categories = content.get('categories', [])
    faults = id_faults('categories', categories)
    faults += find_issues('categories', categories, [CATEGORY_NAME] * several)
    return [fault._replace(kind='file') for fault in faults]


def id_faults(kind: str, entries: list[dict]) -> list[AnnotationIssue]:
    """Finds entries whose id is not an integer or is used more than once."""
    count = Counter(entry['id'] for entry in entries if has_id(entry))
    rules = (rule._replace(what=f'{kind} {rule.what}') for rule in ID_RULES)
    return find_issues(kind, entries, rules, count)


def image_faults(images: list[dict]) -> list[AnnotationIssue]:
    """Checks images for id, file name and size."""
    return id_faults('images', images) + find_issues('images', images, IMAGE_RULES)


def category_faults(categories: list[dict]) -> list[AnnotationIssue]:
    """Checks categories from which a metainfo or a merged file will be made."""
    faults = id_faults('categories', categories)
    return faults + find_issues('categories', categories, CATEGORY_RULES)


def annotation_faults(content: dict) -> list[AnnotationIssue]:
    """Checks annotations without a metainfo."""
    entries, category_ids = content.get('annotations', []), valid_ids(_listed_categories(content))
    return [
        *id_faults('annotations', entries),
        *find_issues('annotations', entries, [UNLISTED_IMAGE], valid_ids(content['images'])),
        *find_issues('annotations', entries, [UNLISTED_CATEGORY], category_ids),
        *find_issues('annotations', entries, LABEL_RULES),
    ]


def metainfo_faults(content: dict, metainfo: dict) -> list[AnnotationIssue]:
    """Checks that annotations fit the metainfo."""
    annotations, known = content.get('annotations', []), categories_by_id(content, metainfo)
    others = valid_ids(_listed_categories(content)) - known.keys()
    names = ', '.join(category['name'] for category in metainfo['categories'])
    other_category = Rule(
        f'annotations of categories other than {names}, those of the metainfo',
        'name categories alike in both, or take the annotations out',
        lambda a: _is_of_category(a, others),
    )
    faults = find_issues('annotations', annotations, [other_category])
    faults += _mixed_faults(content, metainfo)
    for index, category in enumerate(metainfo['categories']):
        ids = {number for number in known if known[number] == index}
        faults += _count_faults(annotations, category, ids)
    return faults or name_faults(content, metainfo, known)


def _mixed_faults(content: dict, metainfo: dict) -> list[AnnotationIssue]:
    """Finds annotations of box categories that a metainfo of one category would make poses of."""
    ids = find_box_categories(content) if len(metainfo['categories']) == 1 else set()
    names = ', '.join(str(c.get('name')) for c in content.get('categories', []) if c['id'] in ids)
    rule = Rule(
        f'annotations of the categories without keypoints {names}, but the metainfo has one '
        'category for all annotations',
        'make a config with kapao new-dataset, or one without them with its --category',
        lambda a: _is_of_category(a, ids),
    )
    return find_issues('annotations', content.get('annotations', []), [rule])


def _count_faults(annotations: list[dict], category: dict, ids: set[int]) -> list[AnnotationIssue]:
    """Finds annotations, by category id, whose number of keypoints differs from the metainfo."""
    count = len(category['keypoint_ids'])

    def has_other_count(a: dict) -> bool:
        keypoints = a.get('keypoints')
        return _is_of_category(a, ids) and are_numbers(keypoints) and len(keypoints) != 3 * count

    rule = Rule('', 'give the metainfo that describes this file', has_other_count)
    faults = find_issues('annotations', annotations, [rule])
    lengths = {len(annotations[i]['keypoints']) for fault in faults for i in fault.indices}
    found = ' or '.join(f'{length / 3:g}' for length in sorted(lengths))
    what = f'annotations with {found} keypoints, the metainfo of {category["name"]!r} has {count}'
    return [fault._replace(what=what) for fault in faults]


def _flip_faults(metainfo: dict) -> list[AnnotationIssue]:
    """Finds keypoint types whose left/right swap is not mutual."""
    flip, names = metainfo['flip_indices'], metainfo['keypoint_id2name']
    one_way = [names[i] for i in range(len(flip)) if flip[flip[i]] != i]
    what = f'keypoint types of {metainfo["dataset_name"]!r} that do not swap with each other'
    remedy = "write each one's name as swap of the other"
    return [AnnotationIssue('metainfo', what, remedy, one_way)] if one_way else []


def _listed_categories(content: dict) -> list[dict]:
    """Returns the categories of a file; if it lists none, one for each id in its annotations."""
    used = (a['category_id'] for a in content.get('annotations', []) if has_id(a, 'category_id'))
    return content.get('categories') or [dict(id=number) for number in dict.fromkeys(used)]


def _is_of_category(annotation: dict, ids: set[int]) -> bool:
    return has_id(annotation, 'category_id') and annotation['category_id'] in ids


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _is_box(value: Any) -> bool:
    return are_numbers(value) and len(value) == 4


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and [type(end) for end in value] == [int, int]
