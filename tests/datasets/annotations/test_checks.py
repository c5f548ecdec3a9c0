# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.checks import Finding, fatal_faults, without_faulty
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.errors import InputError

NAN, INF = float('nan'), float('inf')


def messages(content, metainfo, **options) -> list[str]:
    return [str(fault) for fault in fatal_faults(content, read_metainfo(metainfo), **options)]


def two_categories(triples: dict) -> dict:
    disc = triples | dict(
        keypoint_info={0: dict(name='hub', swap='')}, joint_weights=[1.0], sigmas=[0.05]
    )
    return dict(dataset_name='two', categories=dict(triple=triples, disc=disc))


@pytest.mark.parametrize('test_mode', [False, True])
def test_a_sound_file_has_no_faults(coco_file, triples, test_mode):
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
    """Breaks the second entry, which must be named first, and be all that is broken."""
    entry = content[kind][1]
    if value is MISSING:
        del entry[key]
    else:
        entry[key] = value
    parsed = read_metainfo(metainfo)
    first, *more = fatal_faults(content, parsed, test_mode)
    assert message in str(first)
    # Without its image an annotation has none.
    assert all(kind == 'images' and 'does not list: 13' in str(fault) for fault in more)
    assert not fatal_faults(without_faulty(content, [first, *more]), parsed, test_mode)


def test_only_the_first_ids_are_written_but_all_are_known():
    finding = Finding('images', 'images of cats', 'add dogs', list(range(10)))
    assert str(finding) == 'images of cats: 0, 1, 2 and 7 more; add dogs'
    assert str(finding._replace(ids=[3, 4])) == 'images of cats: 3, 4; add dogs'
    assert len(finding.ids) == 10


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
def test_faults_of_the_whole_file_come_alone(coco_file, triples, change, message, test_mode):
    content = change(coco_file)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if value is not MISSING}
    (found,) = messages(content, triples, test_mode=test_mode)
    assert found.startswith(message)


def test_training_needs_annotations_and_tests_need_categories(coco_file, triples):
    """COCO's test sets have no annotations; nothing is found again without categories."""
    images = dict(images=coco_file['images'], categories=coco_file['categories'])
    assert messages(images, triples) == messages({**images, 'annotations': None}, triples)
    assert not messages(images, triples, test_mode=True)
    del coco_file['categories']
    assert not messages(coco_file, triples)
    (found,) = messages(coco_file, triples, test_mode=True)
    assert found.startswith("it has no list of objects 'categories'")
    (found,) = messages(coco_file | dict(categories=[]), triples, test_mode=True)
    assert found.startswith('it lists no categories')


def test_empty_annotation_lists_are_no_fault(coco_file, triples):
    coco_file['annotations'] = []
    assert not messages(coco_file, triples) + messages(coco_file, triples, test_mode=True)


def test_any_listed_category_is_that_of_a_model_of_one(coco_file, triples):
    coco_file['categories'] = [dict(id=i) for i in (1, 54, 900)]  # with gaps, and without names
    coco_file['annotations'][1]['category_id'] = 900
    assert not messages(coco_file, triples)


def test_of_several_categories_each_has_its_own_keypoints(coco_file, triples):
    metainfo = two_categories(triples)
    coco_file['categories'].append(dict(id=5, name='disc'))
    coco_file['annotations'][2] |= dict(category_id=5, keypoints=[1, 1, 2])
    assert not messages(coco_file, metainfo)
    coco_file['annotations'][0]['category_id'] = 5
    (found,) = messages(coco_file, metainfo)
    assert found.startswith("annotations with 3 keypoints, the metainfo of 'disc' has 1: 11")


def test_of_several_categories_others_are_named(coco_file, triples):
    metainfo = two_categories(triples)
    coco_file['categories'].append(dict(id=5, name='cat'))
    assert not messages(coco_file, metainfo)
    coco_file['annotations'][2]['category_id'] = 5
    (found,) = messages(coco_file, metainfo)
    assert found.startswith('annotations of categories other than triple, disc, ')
    assert ': 13; ' in found


def test_several_categories_need_their_names(coco_file, triples):
    metainfo = two_categories(triples)
    coco_file['categories'].append(dict(id=5))
    (found,) = messages(coco_file, metainfo)
    assert found.startswith("categories without 'name': 5")
    del coco_file['categories']
    (found,) = messages(coco_file, metainfo)
    assert found.startswith("it has no list of objects 'categories'")


def test_flips_that_do_not_come_back_are_named(coco_file, triples):
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
def test_any_values_are_judged_and_what_remains_is_sound(coco_file, triples, changes):
    content, parsed = copy.deepcopy(coco_file), read_metainfo(triples)
    for (kind, place), number, value in changes:
        entry = content[kind][place]
        entry[sorted(entry)[number % len(entry)]] = value
    faults = fatal_faults(content, parsed)
    if not any(fault.kind == 'file' for fault in faults):
        assert not fatal_faults(without_faulty(content, faults), parsed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON | st.dictionaries(st.sampled_from(['images', 'annotations']), JSON))
def test_any_json_is_judged(triples, content):
    assert messages(content, triples)


@pytest.mark.parametrize(
    ('text', 'message'),
    [(None, 'No such file or directory'), ('{"images": [', 'is not JSON'), ('\x80', 'is not JSON')],
)
def test_unreadable_files_are_named(tmp_path, text, message):
    path = tmp_path / 'a.json'
    if text:
        path.write_text(text, encoding='latin-1')
    with pytest.raises(InputError, match=f'annotation file {path}.*{message}'):
        read_annotations(str(path))


def test_files_are_read(tmp_path, coco_file):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(coco_file))
    assert read_annotations(str(path)) == coco_file
