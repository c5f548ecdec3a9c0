# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import mmengine
import numpy as np
import pytest

from kapao_mm.datasets.metainfo import category_ids, keypoint_category_ids, read_metainfo
from kapao_mm.errors import InputError

CAT = dict(
    dataset_name='cats',
    keypoint_info={
        0: dict(name='nose', color=[1, 2, 3], type='upper', swap=''),
        1: dict(name='left_ear', type='upper', swap='right_ear'),
        2: dict(name='right_ear', type='lower', swap='left_ear'),
    },
    skeleton_info={0: dict(link=('nose', 'left_ear'))},
    joint_weights=[1.0, 1.0, 2.0],
    sigmas=[0.02, 0.03, 0.04],
)
CAR = dict(
    dataset_name='cars',
    keypoint_info={0: dict(name='nose', swap='tail'), 1: dict(name='tail', swap='nose')},
    skeleton_info={0: dict(link=('tail', 'nose'))},
    joint_weights=[3.0, 4.0],
    sigmas=[0.05, 0.06],
)
BOTH = dict(dataset_name='both', categories=dict(cat=CAT, car=CAR))


def test_one_category_has_all_keypoints_and_the_name_of_the_dataset():
    assert read_metainfo(CAT)['categories'] == [dict(name='cats', keypoint_ids=[0, 1, 2])]


def test_several_categories_are_concatenated():
    joined, cat, car = (read_metainfo(metainfo) for metainfo in (BOTH, CAT, CAR))
    assert joined.keys() == cat.keys()
    assert joined['categories'] == [
        dict(name='cat', keypoint_ids=[0, 1, 2]),
        dict(name='car', keypoint_ids=[3, 4]),
    ]
    names = ['cat/nose', 'cat/left_ear', 'cat/right_ear', 'car/nose', 'car/tail']
    assert joined['keypoint_id2name'] == dict(enumerate(names))
    assert joined['keypoint_name2id'] == {name: i for i, name in enumerate(names)}
    assert joined['num_keypoints'] == 5
    assert joined['flip_indices'] == [0, 2, 1, 4, 3]
    assert set(joined['flip_pairs']) == {(1, 2), (2, 1), (3, 4), (4, 3)}
    assert joined['skeleton_links'] == [(0, 1), (4, 3)]
    assert joined['num_skeleton_links'] == 2
    assert (joined['upper_body_ids'], joined['lower_body_ids']) == ([0, 1], [2])
    for key in ('sigmas', 'dataset_keypoint_weights', 'keypoint_colors', 'skeleton_link_colors'):
        np.testing.assert_array_equal(joined[key], np.concatenate([cat[key], car[key]]))


def test_skeleton_may_be_empty():
    bare = CAR | dict(skeleton_info={})
    joined = read_metainfo(BOTH | dict(categories=dict(cat=CAT, car=bare)))
    assert joined['skeleton_links'] == [(0, 1)]
    assert joined['skeleton_link_colors'].shape == (1, 3)


def test_categories_of_a_file_are_found_by_name_unless_there_is_one():
    found = [dict(id=9, name='car'), dict(id=4, name='cat'), dict(id=7, name='dog')]
    assert category_ids(read_metainfo(BOTH) | dict(CLASSES=found)) == [[4], [9]]
    assert category_ids(read_metainfo(CAT) | dict(CLASSES=found)) == [[9, 4, 7]]
    assert category_ids(read_metainfo(BOTH)) == [[], []]


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(sigmas=[0.1] * 4), 'metainfo cats has 3 keypoints but 4 sigmas'),
        (dict(joint_weights=[0.1] * 4), 'metainfo cats has 3 keypoints but 4 joint_weights'),
        (
            dict(skeleton_info={0: dict(link=('nose', 'tail'))}),
            "metainfo cats has no keypoint named 'tail'",
        ),
        (
            dict(keypoint_info={**CAT['keypoint_info'], 0: dict(name='nose', swap='snout')}),
            "metainfo cats has no keypoint named 'snout'",
        ),
        (
            dict(
                keypoint_info={**CAT['keypoint_info'], 0: dict(name='right_ear')}, skeleton_info={}
            ),
            'metainfo cats: number the keypoints 0 to 2 in order, each with a different name',
        ),
        (
            dict(keypoint_info={i + 1: entry for i, entry in CAT['keypoint_info'].items()}),
            'metainfo cats: number the keypoints 0 to 2 in order',
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        read_metainfo(CAT | changed)
    with pytest.raises(InputError, match=message):
        read_metainfo(dict(dataset_name='one', categories=dict(cat=CAT | changed)))


@pytest.mark.parametrize('key', ['dataset_name', 'keypoint_info', 'skeleton_info', 'sigmas'])
def test_missing_key_is_reported(key):
    with pytest.raises(InputError, match=f'needs .*{key}'):
        read_metainfo({name: value for name, value in CAT.items() if name != key})


@pytest.mark.parametrize('metainfo', [dict(categories=dict(cat=CAT)), BOTH | dict(categories={})])
def test_several_categories_need_a_name_and_an_entry(metainfo):
    with pytest.raises(InputError, match='needs dataset_name and categories'):
        read_metainfo(metainfo)


def test_missing_file_and_file_without_metainfo_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f'metainfo file {tmp_path}/octopus.py does not exist'):
        read_metainfo(dict(from_file='octopus.py'))
    (tmp_path / 'squid.py').write_text('arms = 10\n')
    with pytest.raises(InputError, match=r'metainfo squid\.py needs dataset_name'):
        read_metainfo(dict(from_file='squid.py'))


@pytest.mark.parametrize('prefix', ['', '/gone/'])
@pytest.mark.parametrize(('name', 'count'), [('coco', 17), ('wheels', 5)])
def test_shipped_files_are_found_from_any_folder(tmp_path, monkeypatch, name, count, prefix):
    monkeypatch.chdir(tmp_path)
    metainfo = dict(from_file=f'{prefix}configs/_base_/datasets/{name}.py')
    assert read_metainfo(metainfo)['num_keypoints'] == count


def test_shipped_file_of_the_same_name_is_used_with_a_warning(log):
    read_metainfo(dict(from_file='mine/wheels.py'))
    assert 'metainfo file mine/wheels.py does not exist: ' in log.text


@pytest.mark.parametrize('suffix', ['json', 'yaml', 'yml'])
def test_json_and_yaml_files_are_read(tmp_path, suffix):
    path = tmp_path / f'cats.{suffix}'
    mmengine.dump(dict(dataset_info=CAT), path)
    found, expected = read_metainfo(dict(from_file=str(path))), read_metainfo(CAT)
    found['skeleton_links'] = [tuple(link) for link in found['skeleton_links']]  # lists in JSON
    assert str(found) == str(expected)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('dataset_info = 1 / 0', 'cannot be read: ZeroDivisionError'),
        ('dataset_info = [', 'cannot be read: SyntaxError'),
        ('raise SystemExit', 'cannot be read: SystemExit'),
        ('dataset_info = 3', 'needs dataset_name'),
        ("dataset_info = dict(keypoint_info={0: 'nose'})", 'keypoint_info 0 has no name'),
    ],
)
def test_broken_file_is_reported(tmp_path, text, message):
    (tmp_path / 'broken.py').write_text(text)
    with pytest.raises(InputError, match=f'broken.py.*{message}'):
        read_metainfo(dict(from_file=str(tmp_path / 'broken.py')))


@pytest.mark.parametrize(
    'changed',
    [
        dict(keypoint_info=['nose']),
        dict(keypoint_info={0: dict(color=1)}),
        dict(skeleton_info={0: dict(color=1)}),
        dict(skeleton_info={0: dict(link=3)}),
        dict(sigmas='none'),
        dict(sigmas=None),
        dict(sigmas=[0.1, 0.1, 0]),
        dict(sigmas=[0.1, 0.1, float('nan')]),
        dict(joint_weights=[[1], [2, 3]]),
    ],
)
def test_values_of_wrong_types_are_refused(changed):
    with pytest.raises(InputError, match='metainfo cats'):
        read_metainfo(CAT | changed)


def test_category_with_an_empty_metainfo_has_no_keypoints():
    three = dict(dataset_name='three', categories=dict(cat=CAT, ball={}, car=CAR))
    joined, both = read_metainfo(three), read_metainfo(BOTH)
    assert joined['categories'] == [
        dict(name='cat', keypoint_ids=[0, 1, 2]),
        dict(name='ball', keypoint_ids=[]),
        dict(name='car', keypoint_ids=[3, 4]),
    ]
    for key in both.keys() - {'dataset_name', 'categories'}:
        np.testing.assert_equal(joined[key], both[key])
    joined['CLASSES'] = [dict(id=i, name=name) for i, name in enumerate(('ball', 'car', 'cat'))]
    assert keypoint_category_ids(joined) == {1, 2}


NOTHING = dict(
    dataset_name='balls', keypoint_info={}, skeleton_info={}, joint_weights=[], sigmas=[]
)


@pytest.mark.parametrize(
    'metainfo', [NOTHING, dict(dataset_name='balls', categories=dict(ball={}, cage={}))]
)
def test_metainfo_without_any_keypoints_is_refused(metainfo):
    with pytest.raises(InputError, match='metainfo balls has no keypoints.*a detector'):
        read_metainfo(metainfo)
