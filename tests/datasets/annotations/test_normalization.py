# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Kinds of files that tools and people write are read as the file that they mean."""

import copy
import gzip
import json

import cv2
import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.new_data import read_new_annotations
from kapao_mm.datasets.annotations.new_metainfo import find_categories
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric

NAN = float('nan')


def set_all(kind, key, value):
    """Makes a change of a key of all entries of a list; ``value`` may be a function of the old."""

    def change(content):
        for entry in content[kind]:
            entry[key] = value(entry.get(key)) if callable(value) else value

    return change


def set_ids(kind, key, new):
    """Makes a change of the ids of a list and of the references to them."""

    def change(content):
        set_all(kind, 'id', new)(content)
        if key:
            set_all('annotations', key, new)(content)

    return change


def set_first(kind, **values):
    return lambda content: content[kind][0].update(values)


def remove(kind, *keys):
    return lambda content: [entry.pop(key) for key in keys for entry in content[kind]]


def set_skeleton(*links):
    return set_all('categories', 'skeleton', [list(link) for link in links])


def add_empty(**values):
    """Adds annotations with a box of size 0 that mean nothing."""
    empty = dict(id=99, image_id=3, category_id=1, bbox=[0, 0, 0, 0], keypoints=[])
    return lambda content: content['annotations'].append(empty | values)


def nothing(content):
    pass


UNLABELED = set_first('annotations', keypoints=[0] * 9, num_keypoints=0)
TOP_ONLY = [10, 10, 2, 0, 0, 0, 0, 0, 0]
ONE = set_first('annotations', keypoints=TOP_ONLY, num_keypoints=1)
NO_COUNT = remove('annotations', 'num_keypoints')


def one(*keypoints):
    return set_first('annotations', keypoints=list(keypoints), num_keypoints=1)


# Name: the change of a correct file, the change that it means, and what is said about it.
KINDS = {
    'no keypoints': (
        lambda content: (
            content['annotations'][0].pop('keypoints')
            and content['annotations'][0].update(num_keypoints=0)
        ),
        UNLABELED,
        "1 annotations without 'keypoints' (11); no keypoint is labeled: training learns their box",
    ),
    'null keypoints': (
        set_first('annotations', keypoints=None, num_keypoints=0),
        UNLABELED,
        "1 annotations without 'keypoints' (11)",
    ),
    'empty keypoints': (
        set_first('annotations', keypoints=[], num_keypoints=0),
        UNLABELED,
        "1 annotations without 'keypoints' (11)",
    ),
    'empty box': (add_empty(), nothing, '1 annotations with a box of size 0 and no labeled'),
    'empty box with unlabeled keypoints': (
        add_empty(keypoints=[4, 4, 0] * 3),
        nothing,
        '1 annotations with a box of size 0 and no labeled keypoint (99); left out',
    ),
    'no num_keypoints': (NO_COUNT, NO_COUNT, None),
    'null num_keypoints': (
        set_all('annotations', 'num_keypoints', None),
        NO_COUNT,
        '3 annotations',
    ),
    'text as num_keypoints': (set_all('annotations', 'num_keypoints', '2'), NO_COUNT, 'counted'),
    'wrong num_keypoints': (set_all('annotations', 'num_keypoints', 3), NO_COUNT, 'counted again'),
    'no iscrowd': (remove('annotations', 'iscrowd'), remove('annotations', 'iscrowd'), None),
    'true and false': (set_all('annotations', 'iscrowd', False), nothing, "whose 'iscrowd' is"),
    'NaN': (one(10, 10, 2, NAN, NAN, 0, NAN, 5, 0), ONE, '1 annotations with NaN or null as'),
    'null': (
        one(10, 10, 2, None, None, 0, 0, 0, 0),
        ONE,
        'coordinates of unlabeled keypoints (11)',
    ),
    'NaN as visibility': (one(10, 10, 2, *[NAN] * 6), ONE, 'keypoints without visibility'),
    'negative visibility': (
        one(10, 10, 2, 0, 0, -1, 0, 0, -1),
        ONE,
        '1 annotations with negative visibilities (11); read as 0, not labeled',
    ),
    'no visibility': (
        one(10, 10, 5, 20, 0, 0),
        one(10, 10, 2, 5, 20, 2, 0, 0, 0),
        '1 annotations with keypoints without visibility (11); read as 2, labeled, or as 0 without',
    ),
    'null as visibility': (one(10, 10, None, 0, 0, None, 0, 0, 0), ONE, 'keypoints without visib'),
    'sizes with decimals': (
        set_all('images', 'width', float),
        nothing,
        "3 images whose 'width' or 'height' has decimals (1, 2, 3); read as whole numbers",
    ),
    'sizes of -1': (
        set_all('images', 'height', -1),
        nothing,
        "3 images whose 'width' or 'height' is missing, null, 0 or negative (1, 2, 3); read from",
    ),
    'no sizes': (remove('images', 'width', 'height'), nothing, 'read from their files in '),
    'backslashes': (
        set_all('images', 'file_name', lambda name: f'images\\{name}'),
        nothing,
        "3 images whose 'file_name' has backslashes or is a path of another machine (1, 2, 3); s",
    ),
    'paths of Windows': (
        set_all('images', 'file_name', lambda name: f'D:\\data\\images\\{name}'),
        nothing,
        'searched by name in ',
    ),
    'absolute paths': (
        set_all('images', 'file_name', lambda name: f'/home/her/data/{name}'),
        nothing,
        'searched by name in ',
    ),
    'skeleton from 0': (
        set_skeleton([0, 1], [2, 0]),
        set_skeleton([1, 2], [3, 1]),
        "1 categories whose 'skeleton' counts from 0 (1); read as counted from 1",
    ),
    'links out of range': (
        set_skeleton([1, 2], [4, 1], [0, 3], [2, -1]),
        set_skeleton([1, 2]),
        "1 categories whose 'skeleton' has links to keypoints that do not exist (1); these links",
    ),
    'float ids of images': (
        set_ids('images', 'image_id', float),
        nothing,
        "3 images whose 'id' is a text or a number with decimals (1.0, 2.0, 3.0); read as whole n",
    ),
    'texts as ids of images': (
        set_ids('images', 'image_id', lambda number: f'photo {number}'),
        nothing,
        "3 images whose 'id' is a text or a number with decimals ('photo 1', 'photo 2', 'photo 3')"
        '; numbered 1, 2, 3, ... in their order',
    ),
    'digits as ids of images': (set_ids('images', 'image_id', '{:012}'.format), nothing, 'whole'),
    'texts as ids of annotations': (
        set_ids('annotations', None, 'uuid-{}'.format),
        lambda content: [a.update(id=i) for i, a in enumerate(content['annotations'], 1)],
        '3 annotations whose',
    ),
    'texts as ids of categories': (
        set_ids('categories', 'category_id', lambda number: 'triple'),
        nothing,
        '1 categories whose',
    ),
    'references as texts': (
        set_all('annotations', 'image_id', str),
        nothing,
        "3 annotations whose 'image_id' is a text or a number with decimals ('1', '1', '2')",
    ),
}


@pytest.fixture
def folder(tmp_path, coco_file):
    """A folder with the images of the file, 40 x 50 px."""
    rng = np.random.default_rng(0)
    for image in coco_file['images']:
        pixels = rng.integers(0, 255, (image['height'], image['width'], 3), np.uint8)
        cv2.imwrite(str(tmp_path / image['file_name']), pixels)
    return tmp_path


@pytest.fixture
def write(folder, coco_file):
    """Makes a function that writes a changed copy of the file and returns its path."""

    def write(change, name='a.json'):
        content = copy.deepcopy(coco_file)
        change(content)
        (folder / name).write_text(json.dumps(content))
        return folder / name

    return write


def records_of(content):
    """Returns the labels of a file as results, a bit beside them."""
    return [
        dict(
            image_id=a['image_id'],
            category_id=a['category_id'],
            keypoints=[value + 0.7 for value in a['keypoints']],
            bbox=a['bbox'],
            score=1 / (2 + i),
        )
        for i, a in enumerate(content['annotations'])
    ]


def training_samples(path, triples):
    config = dict(type='KeypointDataset', metainfo=triples, ann_file=str(path), pipeline=[])
    dataset = DATASETS.build(config | dict(data_prefix=dict(img=str(path.parent))))
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def score(path, triples, **options):
    metric = KAPAOMetric(ann_file=str(path), **options)
    metric.dataset_meta = read_metainfo(triples)
    return metric.score(records_of(metric.coco.dataset), 'the labels')


@pytest.mark.parametrize('kind', KINDS)
def test_kind_of_file_is_read_as_what_it_means(write, kind, tmp_path):
    change, meaning, message = KINDS[kind]
    path, said = write(change), []
    content = read_annotations(path, say=said.append, images=tmp_path)
    expected = read_annotations(write(meaning, 'b.json'), say=print)
    assert content == expected
    assert len(said) == (message is not None)
    if message:
        assert said[0].startswith(f'annotation file {path}: ') and message in said[0]
    assert read_new_annotations(path) == content
    assert len(find_categories(content, 'a.json')) == 1


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_training_and_evaluation_equal_those_of_the_file_that_is_meant(write, triples, kind):
    change, meaning, _ = KINDS[kind]
    path, meant = write(change), write(meaning, 'b.json')
    samples = zip(training_samples(path, triples), training_samples(meant, triples), strict=True)
    for sample, expected in samples:
        assert sample['img_path'] == expected['img_path']
        for key in ('bbox', 'keypoints', 'keypoints_visible', 'category_id'):
            np.testing.assert_array_equal(sample[key], expected[key])
    assert score(path, triples) == score(meant, triples)


@pytest.mark.parametrize('kind', ['images', 'categories', 'annotations'])
def test_evaluation_is_the_same_with_ids_from_0(write, coco_file, triples, kind):
    key = dict(images='image_id', categories='category_id', annotations=None)[kind]
    first = coco_file[kind][0]['id']
    moved = write(set_ids(kind, key, lambda number: number - first))
    assert score(moved, triples) == score(write(nothing, 'b.json'), triples)
    assert len(training_samples(moved, triples)) == 3


def test_annotations_without_keypoints_are_truths_of_boxes_only(write, triples):
    path = write(KINDS['no keypoints'][0])
    found = score(path, triples)
    assert found['box AP'] == pytest.approx(1)
    sample = training_samples(path, triples)[0]
    assert sample['bbox'].shape == (2, 4)
    assert sample['keypoints_visible'].any(1).tolist() == [False, True]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (set_first('annotations', keypoints=[NAN, 3, 2] * 3), 'not a list of finite numbers'),
        (set_first('annotations', keypoints=[9, 9, 2] * 2), 'with 2 keypoints, the metainfo'),
        (set_first('images', id='1', width=40), None),
        (set_ids('images', 'image_id', lambda number: 'same'), 'id is not a whole number'),
        (set_first('images', id=1.5), 'id is not a whole number'),
        (set_all('annotations', 'keypoints', None), "annotations without 'keypoints'"),
    ],
)
def test_unclear_values_are_kept_for_the_checks(write, coco_file, triples, change, message):
    path = write(change)
    if message is None:
        assert training_samples(path, triples)
        return
    if "without 'keypoints'" in message:  # also the category has none: this is no keypoint file
        content = json.loads(path.read_text())
        del content['categories'][0]['keypoints']
        path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        training_samples(path, triples)


def test_category_without_keypoints_beside_one_that_has_them_is_kept(write):
    def add_ball(content):
        content['categories'].append(dict(id=2, name='ball'))
        ball = dict(id=14, image_id=3, category_id=2, bbox=[1, 1, 9, 9])
        content['annotations'] += [ball, ball | dict(id=15, keypoints=[])]

    said = []
    content = read_annotations(write(add_ball), say=said.append)
    assert [a['keypoints'] for a in content['annotations'][3:]] == [[], []]
    assert not said


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_file_packed_by_gzip_is_read(tmp_path, coco_file, encoding):
    path = tmp_path / 'a.json.gz'
    packed = gzip.compress(json.dumps(coco_file).encode(encoding))
    path.write_bytes(packed)
    assert read_annotations(path) == coco_file
    for broken in (packed[:-30], packed[:12] + b'\xff' * 40 + packed[12:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match='is not JSON .gzip cannot unpack it'):
            read_annotations(path)


def test_names_that_lead_to_the_same_file_are_kept(write, tmp_path):
    def change(content):
        for image, part in zip(content['images'], 'abb', strict=True):
            image['file_name'] = f'/data/{part}/1.png'
        content['images'][2]['file_name'] = 'C:\\data\\2.png'

    found = read_annotations(write(change), images=tmp_path)['images']
    assert [image['file_name'] for image in found] == ['/data/a/1.png', '/data/b/1.png', '2.png']


def test_longest_ending_of_a_path_that_exists_is_taken(write, tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/1.png').write_bytes((tmp_path / '1.png').read_bytes())
    path = write(set_first('images', file_name='E:\\a\\b\\1.png'))
    assert read_annotations(path, images=tmp_path)['images'][0]['file_name'] == 'b/1.png'


def test_size_is_that_of_the_upright_image(write, tmp_path):
    exif = b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    jpeg = cv2.imencode('.jpg', np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    (tmp_path / 'turned.jpg').write_bytes(jpeg[:2] + segment + jpeg[2:])
    path = write(set_first('images', file_name='turned.jpg', width=-1, height=None))
    image = read_annotations(path, images=tmp_path)['images'][0]
    assert (image['width'], image['height']) == (20, 30)


def test_size_of_a_missing_image_is_an_error_only_where_it_is_needed(write, triples):
    path = write(set_first('images', file_name='none.png', width=-1))
    with pytest.raises(InputError, match="images without 'width' and 'height' in whole px: 1"):
        training_samples(path, triples)
    assert score(path, triples)['AP'] > 0
