# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.instances import gather_instances
from kapao_mm.datasets.annotations.object_sizes import choose_fusion_distance, find_small_objects
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.utils.config import load_config


@pytest.fixture
def instances(coco_file, triples):
    """Makes a function that returns instances with boxes (w, h) in an image of 384 x 288 px."""

    def make(*sizes, **changes):
        template = coco_file['annotations'][0]
        annotations = [
            template | dict(id=i, bbox=[9, 9, *size]) | changes for i, size in enumerate(sizes, 1)
        ]
        images = [dict(id=1, file_name='1.png', width=384, height=288)]
        content = coco_file | dict(images=images, annotations=annotations)
        return gather_instances(content, read_metainfo(triples))

    return make


@pytest.fixture
def head(repo):
    return load_config(repo / 'configs/_base_/models/kapao_n.py').model.head


def find(*args):
    return [(list(f.ids), f.remedy) for f in find_small_objects(*args)]


@pytest.mark.parametrize(
    ('size', 'input_size', 'wanted'),
    [
        ((8, 8), 384, 768),  # 16 px
        ((8, 8), 640, 768),
        ((8, 8), 768, None),
        ((8, 8), 1280, None),
        ((16, 9), 384, None),
        ((9, 16), 384, None),
        ((15, 15), 384, 448),  # a multiple of 64
        ((4, 30), 384, 512),  # as wide as a quarter of the narrowest anchor, 19 px
        ((5, 30), 384, None),
        ((300, 200), 384, None),
        ((2, 200), 384, None),  # too long and thin at any size
    ],
)
def test_objects_too_small_for_the_input_are_found(instances, head, size, input_size, wanted):
    found = find(instances(size, (60, 60), (50, 80)), input_size, head)
    if wanted:
        remedy = f'input_size={wanted} or more is enough for 98% of all objects'
        assert found == [([1], remedy)]
        assert not find(instances(size), wanted, head)
    else:
        assert not found


def test_few_small_objects_need_no_larger_input(instances, head):
    found = find(instances((8, 8), *[(60, 60)] * 99), 384, head)
    assert found == [([1], 'they are few, less than 2% of all objects')]


def test_crowd_regions_and_boxes_without_area_are_not_small_objects(instances, head):
    assert not find(instances((8, 8), iscrowd=1), 384, head)
    assert not find(instances((0, 8), (-5, 5)), 384, head)
    assert not find(instances(), 384, head)


def test_keypoint_objects_smaller_than_a_cell_are_found(instances, head):
    ((ids, remedy),) = find(instances((60, 60)), 128, head)  # 0.05 of it
    assert ids == ['6.4 px'] and 'input_size=192' in remedy
    assert not find(instances((60, 60)), 192, head)


def test_fusion_distance_is_proportional_to_the_object_size(instances):
    assert choose_fusion_distance(instances((109, 109))) == 50
    assert choose_fusion_distance(instances((218, 54.5))) == 50
    assert choose_fusion_distance(instances((10, 10))) == 5
    assert choose_fusion_distance(instances((1, 1))) == 1
    assert choose_fusion_distance(instances()) == 50


def test_fusion_distance_depends_on_objects_with_keypoints(instances):
    sizes = [(109, 109)] * 3
    for changes in (dict(iscrowd=1), dict(keypoints=[0] * 9)):
        assert choose_fusion_distance(instances((10, 10), *sizes, **changes)) == 50  # none
    both = instances(*sizes, *[(10, 10)] * 2)
    assert choose_fusion_distance(both) == 50
    categories = np.array([0, 0, 0, 1, 1])
    assert choose_fusion_distance(both._replace(categories=categories)) == 5  # the smaller


@pytest.mark.parametrize(
    ('metainfo', 'path', 'distance'),
    [
        ('coco', 'coco_subset/annotations/person_keypoints_train.json', 50),
        ('coco', 'coco_subset/annotations/person_keypoints_val.json', 50),
        ('wheels', 'vehicle_wheels/train.json', 45),
        ('ap10k', 'ap10k_sample/test_ap10k.json', 259),
    ],
)
def test_fusion_distance_of_real_files(repo, shared_dir, monkeypatch, metainfo, path, distance):
    monkeypatch.chdir(repo)
    content = read_annotations(shared_dir / 'data' / path)
    parsed = read_metainfo(dict(from_file=f'configs/_base_/datasets/{metainfo}.py'))
    assert choose_fusion_distance(gather_instances(content, parsed)) == distance
