# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.checks import fatal_faults, without_faulty
from kapao_mm.datasets.annotations.issues import AnnotationIssue
from kapao_mm.datasets.annotations.reader import read_annotations

NAN, INF = float('nan'), float('inf')


def messages(content, metainfo, **options) -> list[str]:
    return [str(fault) for fault in fatal_faults(content, read_metainfo(metainfo), **options)]


@pytest.mark.parametrize('test_mode', [False, True])
def test_correct_file_has_no_faults(coco_file, triples, test_mode):
    assert not messages(coco_file, triples, test_mode=test_mode)


@pytest.mark.parametrize(
    ('metainfo', 'path'),
    [
        ('coco', 'coco_subset/annotations/person_keypoints_train.json'),
        ('coco', 'coco_subset/annotations/person_keypoints_val.json'),
        ('crowdpose', 'crowdpose_sample/test_crowdpose.json'),
        ('ap10k', 'ap10k_sample/test_ap10k.json'),
        ('wheels', 'vehicle_wheels/train.json'),
        ('wheels', 'vehicle_wheels/val.json'),
    ],
)
def test_real_files_have_no_faults(repo, shared_dir, metainfo, path, monkeypatch):
    monkeypatch.chdir(repo)
    content = read_annotations(str(shared_dir / 'data' / path))
    for test_mode in (False, True):
        source = dict(from_file=f'configs/_base_/datasets/{metainfo}.py')
        assert not messages(content, source, test_mode=test_mode)


MISSING = object()


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('id', 'a', "images whose id is not a whole number: images[1] (id 'a')"),
        ('id', 2.0, 'images whose id is not a whole number: images[1] (id 2.0)'),
        ('id', True, 'images whose id is not a whole number: images[1] (id True)'),
        ('id', MISSING, 'images whose id is not a whole number: images[1] (id None)'),
        ('id', 2**63, 'images whose id is not a whole number: images[1] (id 9223372036854775808)'),
        ('id', 1, 'images that share their id with others: 1'),
        ('file_name', MISSING, "images without 'file_name': 2"),
        ('file_name', '', "images without 'file_name': 2"),
        ('file_name', 7, "images without 'file_name': 2"),
        ('width', MISSING, "images without 'width' and 'height' in whole px: 2"),
        ('height', 0, "images without 'width' and 'height' in whole px: 2"),
        ('height', '50', "images without 'width' and 'height' in whole px: 2"),
        ('width', 40.5, "images without 'width' and 'height' in whole px: 2"),
    ],
)
def test_faults_of_images(coco_file, triples, key, value, message, test_mode):
    check_fault(coco_file, triples, 'images', key, value, message, test_mode)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('id', '12', "annotations whose id is not a whole number: annotations[1] (id '12')"),
        ('id', MISSING, 'annotations whose id is not a whole number: annotations[1] (id None)'),
        ('id', 11, 'annotations that share their id with others: 11'),
        ('image_id', 9, 'annotations of images that the file does not list: 12'),
        ('image_id', '1', 'annotations of images that the file does not list: 12'),
        ('image_id', MISSING, 'annotations of images that the file does not list: 12'),
        ('category_id', 7, "annotations whose 'category_id' is none of the file's categories: 12"),
        ('category_id', '1', "whose 'category_id' is none of the file's categories: 12"),
        ('category_id', MISSING, "whose 'category_id' is none of the file's categories: 12"),
        ('bbox', MISSING, "annotations without 'bbox': 12; use a file of keypoint annotations"),
        ('bbox', None, "annotations without 'bbox': 12"),
        ('bbox', [1, 2, 3], "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', [1, 2, 3, NAN], "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', [1, 2, INF, -INF], "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', [1, 2, 3, None], "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', [1, 2, 3, 10**400], "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', '1234', "annotations whose 'bbox' is not four finite numbers: 12"),
        ('bbox', {}, "annotations whose 'bbox' is not four finite numbers: 12"),
        ('keypoints', MISSING, "annotations without 'keypoints': 12; use a file of keypoint"),
        ('keypoints', None, "annotations without 'keypoints': 12"),
        ('keypoints', [[1, 2, 2]] * 3, "whose 'keypoints' are not a list of finite numbers: 12"),
        ('keypoints', [1, 2, NAN] * 3, "whose 'keypoints' are not a list of finite numbers: 12"),
        ('keypoints', [1, 2, '2'] * 3, "whose 'keypoints' are not a list of finite numbers: 12"),
        ('keypoints', {}, "whose 'keypoints' are not a list of finite numbers: 12"),
        ('keypoints', [1, 2, 2] * 2, "with 2 keypoints, the metainfo of 'triples' has 3: 12"),
        ('keypoints', [1] * 10, "with 3.33333 keypoints, the metainfo of 'triples' has 3: 12"),
        ('keypoints', [], "with 0 keypoints, the metainfo of 'triples' has 3: 12"),
    ],
)
def test_faults_of_annotations(coco_file, triples, key, value, message, test_mode):
    check_fault(coco_file, triples, 'annotations', key, value, message, test_mode)


def check_fault(content, metainfo, kind, key, value, message, test_mode):
    """Breaks the second entry; this must be the first fault and leave no others."""
    entry = content[kind][1]
    if value is MISSING:
        del entry[key]
    else:
        entry[key] = value
    parsed = read_metainfo(metainfo)
    first, *more = fatal_faults(content, parsed, test_mode)
    assert message in str(first)
    # An invalid image is not listed, either.
    assert all(kind == 'images' and 'does not list: 13' in str(fault) for fault in more)
    assert not fatal_faults(without_faulty(content, [first, *more]), parsed, test_mode)


def test_message_has_the_first_ids_and_the_number_of_others():
    issue = AnnotationIssue('images', 'images of cats', 'add dogs', list(range(10)))
    assert str(issue) == 'images of cats: 0, 1, 2 and 7 more; add dogs'
    assert issue.counted() == '10 images of cats (0, 1, 2 and 7 more); add dogs'
    assert str(issue._replace(ids=[3, 4])) == 'images of cats: 3, 4; add dogs'
    assert (
        str(issue._replace(ids=[]))
        == issue._replace(ids=[]).counted()
        == 'images of cats; add dogs'
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c['images'], 'it is a list, not an object; write it in COCO format'),
        (lambda c: c | dict(images=MISSING), "it has no list of objects 'images'"),
        (lambda c: c | dict(images={'1': {}}), "it has no list of objects 'images'"),
        (lambda c: c | dict(images=['1.png']), "it has no list of objects 'images'"),
        (lambda c: c | dict(images=[]), 'it lists no images'),
        (lambda c: c | dict(annotations=None), "it has no list of objects 'annotations'"),
        (lambda c: c | dict(categories=dict(id=1)), "it has no list of objects 'categories'"),
        (lambda c: c | dict(categories=[{}]), 'categories whose id is not a whole number'),
        (lambda c: c | dict(categories=[dict(id=1)] * 2), 'categories that share their id'),
    ],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_fault_of_the_whole_file_is_the_only_one(coco_file, triples, change, message, test_mode):
    content = change(coco_file)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if value is not MISSING}
    (found,) = messages(content, triples, test_mode=test_mode)
    assert found.startswith(message)


def test_training_needs_annotations_and_testing_needs_categories(coco_file, triples):
    """COCO's test sets have no annotations."""
    images = dict(images=coco_file['images'], categories=coco_file['categories'])
    assert messages(images, triples) == messages({**images, 'annotations': None}, triples)
    assert not messages(images, triples, test_mode=True)
    del coco_file['categories']
    assert not messages(coco_file, triples)
    (found,) = messages(coco_file, triples, test_mode=True)
    assert found.startswith("it has no list of objects 'categories'")
    (found,) = messages(coco_file | dict(categories=[]), triples, test_mode=True)
    assert found.startswith('it lists no categories')


def test_empty_list_of_annotations_is_allowed(coco_file, triples):
    coco_file['annotations'] = []
    assert not messages(coco_file, triples) + messages(coco_file, triples, test_mode=True)


def test_all_listed_categories_belong_to_a_single_category_of_the_model(coco_file, triples):
    coco_file['categories'] = [dict(id=i) for i in (1, 54, 900)]  # with gaps, and without names
    coco_file['annotations'][1]['category_id'] = 900
    assert not messages(coco_file, triples)


def test_each_category_has_its_own_number_of_keypoints(coco_file, two_categories):
    coco_file['categories'].append(dict(id=5, name='disc'))
    coco_file['annotations'][2] |= dict(category_id=5, keypoints=[1, 1, 2])
    assert not messages(coco_file, two_categories)
    coco_file['annotations'][0]['category_id'] = 5
    (found,) = messages(coco_file, two_categories)
    assert found.startswith("annotations with 3 keypoints, the metainfo of 'disc' has 1: 11")


def test_annotations_of_unknown_categories_are_found(coco_file, two_categories):
    coco_file['categories'].append(dict(id=5, name='cat'))
    assert not messages(coco_file, two_categories)
    coco_file['annotations'][2]['category_id'] = 5
    (found,) = messages(coco_file, two_categories)
    assert found.startswith('annotations of categories other than triple, disc, ')
    assert ': 13; ' in found


def test_several_categories_need_names(coco_file, two_categories):
    coco_file['categories'].append(dict(id=5))
    (found,) = messages(coco_file, two_categories)
    assert found.startswith("categories without 'name': 5")
    del coco_file['categories']
    (found,) = messages(coco_file, two_categories)
    assert found.startswith("it has no list of objects 'categories'")


def test_left_right_swaps_that_are_not_mutual_are_found(coco_file, triples):
    triples['keypoint_info'][2]['swap'] = 'top'
    (found,) = messages(coco_file, triples)
    assert found.startswith(
        "keypoint types of 'triples' that do not swap with each other: left_end, right_end; "
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['id', 'x']), inner)
    ),
    max_leaves=5,
)


PLACES = [('images', 0), ('images', 2), ('annotations', 0), ('annotations', 2), ('categories', 0)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 7), JSON), max_size=3))
def test_any_values_can_be_checked_and_removed(coco_file, triples, changes):
    content, parsed = copy.deepcopy(coco_file), read_metainfo(triples)
    for (kind, place), number, value in changes:
        entry = content[kind][place]
        entry[sorted(entry)[number % len(entry)]] = value
    faults = fatal_faults(content, parsed)
    if not any(fault.kind == 'file' for fault in faults):
        assert not fatal_faults(without_faulty(content, faults), parsed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON | st.dictionaries(st.sampled_from(['images', 'annotations']), JSON))
def test_any_json_can_be_checked(triples, content):
    assert messages(content, triples)
