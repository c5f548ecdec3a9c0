# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest

CAT = dict(id=3, name='cat', keypoints=['nose', 'tail'])
CAR = dict(id=3, name='car', keypoints=['hood'])


def content(category, image_ids=(5, 9)):
    """Makes a file of two images, with an annotation in the first."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=4, height=4) for i in image_ids],
        annotations=[
            dict(id=1, image_id=image_ids[0], category_id=category['id'], bbox=[0, 0, 1, 1])
        ],
        categories=[category],
    )


@pytest.fixture
def merge(run_tool, tmp_path):
    """Makes a function that merges files, and returns the result or the error message."""

    def merge(**contents):
        args = []
        for name, value in contents.items():
            (tmp_path / name).mkdir()
            (tmp_path / f'{name}.json').write_text(json.dumps(value))
            args += ['--add', f'{name}.json', name]
        message = run_tool('dataset_converters/merge_coco.py', tmp_path, 'new/all.json', *args)
        return message or json.loads((tmp_path / 'new/all.json').read_text())

    return merge


def test_ids_are_renumbered_and_other_values_are_kept(merge, capsys):
    merged = merge(cats=content(CAT), cars=content(CAR))
    assert [image['id'] for image in merged['images']] == [1, 2, 3, 4]
    names = ['cats/5.jpg', 'cats/9.jpg', 'cars/5.jpg', 'cars/9.jpg']
    assert [image['file_name'] for image in merged['images']] == names
    assert all(image['width'] == 4 for image in merged['images'])
    found = [(a['id'], a['image_id'], a['category_id']) for a in merged['annotations']]
    assert found == [(1, 1, 1), (2, 3, 2)]
    assert merged['categories'] == [CAT | dict(id=1), CAR | dict(id=2)]
    assert '4 images, 2 annotations\n  1 cat: 1 annotations\n  2 car: 1' in capsys.readouterr().out


def test_image_lists_the_categories_that_were_not_annotated(merge):
    both = content(CAT) | dict(categories=[CAT, CAR | dict(id=4)])
    both['images'][1]['not_exhaustive_category_ids'] = [4]
    merged = merge(cats=content(CAT), both=both)
    found = [image['not_exhaustive_category_ids'] for image in merged['images']]
    assert found == [[2], [2], [], [2]]


def test_categories_with_the_same_name_are_merged(merge):
    merged = merge(a=content(CAT), b=content(CAT | dict(id=7)))
    assert [category['name'] for category in merged['categories']] == ['cat']
    assert [a['category_id'] for a in merged['annotations']] == [1, 1]


def test_category_with_other_keypoints_is_refused(merge):
    message = merge(a=content(CAT), b=content(CAT | dict(keypoints=['nose'])))
    assert "b.json: category 'cat' has other keypoints" in message


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_file_without_a_list_is_refused(merge, tmp_path, key):
    broken = content(CAT)
    del broken[key]
    found = merge(a=broken)
    assert found.startswith(f'error: annotation file {tmp_path}/a.json: it has no list of objects')
    assert repr(key) in found


@pytest.mark.parametrize(
    ('kind', 'changed', 'message'),
    [
        ('images', dict(id=9), 'images that share their id with others: 9'),
        ('images', dict(file_name=None), "images without 'file_name': 5"),
        ('annotations', dict(id=1.5), 'annotations whose id is not a whole number'),
        ('categories', dict(id=None), 'categories whose id is not a whole number'),
        ('categories', dict(name=None), "categories without 'name': 3"),
        ('categories', dict(keypoints='nose'), "categories whose 'keypoints' are not a list"),
        ('categories', dict(skeleton=[[1]]), "categories whose 'skeleton' is not a list of pairs"),
        ('images', dict(file_name='a\0b'), "images without 'file_name': 5"),
        ('images', dict(not_exhaustive_category_ids=[9]), "'not_exhaustive_category_ids' are not"),
        ('images', dict(not_exhaustive_category_ids=3), "'not_exhaustive_category_ids' are not"),
        ('annotations', dict(image_id=[5]), 'annotations of images that the file does not list: 1'),
        ('annotations', dict(image_id=77), 'annotations of images that the file does not list: 1'),
        ('annotations', dict(category_id=77), "whose 'category_id' is none of the file's cat"),
    ],
)
def test_wrong_references_and_ids_are_refused(merge, kind, changed, message):
    broken = content(CAT)
    broken[kind][0] = broken[kind][0] | changed
    found = merge(a=broken)
    assert 'a.json: ' in found
    assert message in found


def test_source_is_not_overwritten(run_tool, tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(content(CAT)))
    message = run_tool(
        'dataset_converters/merge_coco.py', tmp_path, 'a.json', '--add', 'a.json', '.'
    )
    assert message == f'error: {tmp_path}/a.json is one of the files to merge; give another name'


def test_missing_image_folder_is_refused(run_tool, tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(content(CAT)))
    message = run_tool(
        'dataset_converters/merge_coco.py', tmp_path, 'b.json', '--add', 'a.json', 'nowhere'
    )
    assert message == f'error: image folder {tmp_path}/nowhere does not exist'


def test_file_without_categories_for_its_annotations_is_refused(merge):
    assert "'category_id' is none of the file's categories: 1" in merge(
        a=content(CAT) | dict(categories=[])
    )


@pytest.mark.parametrize('keypoints', [{}, dict(keypoints=[])])
def test_category_without_keypoints_is_merged_beside_others(merge, keypoints):
    ball = dict(id=3, name='ball')
    merged = merge(cats=content(CAT), balls=content(ball), more=content(ball | keypoints))
    assert [category['name'] for category in merged['categories']] == ['cat', 'ball']
    assert [a['category_id'] for a in merged['annotations']] == [1, 2, 2]
