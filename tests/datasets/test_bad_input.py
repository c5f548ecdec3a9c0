# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Unusual annotation files work in training and evaluation, or give one clear error."""

import copy
import json
import random

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmpose.registry import DATASETS, METRICS, MODELS

from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

INPUT = 64  # px


@pytest.fixture
def build(tmp_path, repo, triples):
    """Makes a function that writes a file and its images, and builds the dataset of the configs."""
    cfg = load_config(repo / 'configs/_base_/datasets/keypoint_loaders.py', dict(input_size=INPUT))

    def build(content, test_mode: bool = False, **options):
        rng = np.random.default_rng(0)
        for image in content['images'] if isinstance(content, dict) else ():
            pixels = rng.integers(0, 255, (image['height'], image['width'], 3), np.uint8)
            cv2.imwrite(str(tmp_path / image['file_name']), pixels)
        (tmp_path / 'a.json').write_text(json.dumps(content))
        loader = cfg.val_dataloader if test_mode else cfg.train_dataloader
        return DATASETS.build(
            {**loader.dataset, 'metainfo': triples, 'ann_file': str(tmp_path / 'a.json')}
            | dict(data_prefix=dict(img=str(tmp_path)))
            | options
        )

    return build


def check_training(dataset) -> None:
    """Loads each sample a few times."""
    np.random.seed(0)
    for i in range(3 * len(dataset)):
        sample = dataset[i % len(dataset)]
        labels = sample['data_samples'].gt_instance_labels
        n = len(labels.bboxes)
        assert sample['inputs'].shape == (3, INPUT, INPUT)
        assert labels.keypoints.shape == (n, 3, 2) and labels.labels.tolist() == [0] * n
        assert labels.bboxes.isfinite().all() and labels.keypoints.isfinite().all()
        assert (labels.keypoints_visible <= 1).all()


def evaluate(dataset, content: dict, **options) -> dict:
    """Evaluates the annotations as predictions."""
    metric = METRICS.build(dict(type='KAPAOMetric', **options))
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        people = [
            ann
            for ann in content['annotations']
            if ann['image_id'] == sample.img_id and not ann.get('iscrowd')
        ]
        keypoints = np.array([p['keypoints'] for p in people], float).reshape(-1, 3, 3)
        boxes = np.array([p['bbox'] for p in people], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        poses = dict(
            keypoints=keypoints[..., :2],
            keypoint_scores=np.ones(keypoints.shape[:2]),
            bboxes=boxes,
            bbox_scores=np.ones(len(people)),
            labels=np.zeros(len(people), int),
        )
        metric.process([], [dict(img_id=sample.img_id, pred_instances=poses)])
    return metric.evaluate(len(dataset))


def check_evaluation(dataset, content: dict, ap: float = 1.0, **options) -> None:
    found = evaluate(dataset, content, **options)
    assert found['coco/AP'] == found['coco/box AP'] == pytest.approx(ap)


def check_both(build, content: dict) -> None:
    check_training(build(content))
    check_evaluation(build(content, test_mode=True), content)


@pytest.mark.slow
def test_ordinary_file_works(build, coco_file):
    check_both(build, coco_file)


def rle(compressed: bool) -> dict:
    if not compressed:
        return dict(counts=[10, 100, 1890], size=[50, 40])
    mask = np.zeros((50, 40), np.uint8, order='F')
    mask[5:35, 5:25] = 1
    encoded = pycocotools.mask.encode(mask)
    return encoded | dict(counts=encoded['counts'].decode())


POLYGON = [[5, 5, 25, 5, 25, 35]]
SEGMENTATIONS = [POLYGON, [], rle(True), rle(False), None, 'missing']


@pytest.mark.slow
@pytest.mark.parametrize('first', range(len(SEGMENTATIONS)))
def test_image_may_have_segmentations_of_all_kinds(build, coco_file, first):
    template = coco_file['annotations'][0]
    coco_file['annotations'] = [
        dict(template, id=number, segmentation=segmentation)
        for number, segmentation in enumerate(SEGMENTATIONS[first:] + SEGMENTATIONS[:first], 1)
    ]
    del coco_file['annotations'][-1 - first]['segmentation']
    check_both(build, coco_file)


@pytest.mark.slow
def test_category_ids_may_have_gaps(build, coco_file):
    coco_file['categories'] = [dict(id=i, name=f'species_{i}') for i in (3, 54, 900)]
    for annotation, number in zip(coco_file['annotations'], (900, 3, 900), strict=True):
        annotation['category_id'] = number
    check_both(build, coco_file)


@pytest.mark.slow
def test_file_without_annotations_trains_on_empty_images(build, coco_file, log):
    coco_file['annotations'] = []
    dataset = build(coco_file)
    assert '3 images, 0 instances' in log.text
    check_training(dataset)
    check_evaluation(build(coco_file, test_mode=True), coco_file, ap=-1)  # no objects


@pytest.mark.slow
@pytest.mark.parametrize('size', [(1, 1), (1, 50), (40, 1), (1, 200), (200, 1)])
def test_images_with_a_side_of_one_px(build, coco_file, size):
    coco_file['images'][1].update(width=size[0], height=size[1])
    coco_file['annotations'][2].update(
        bbox=[0, 0, *size], keypoints=[0.5, 0.5, 2, 0, 0, 0, 0, 0, 0], area=size[0] * size[1]
    )
    check_both(build, coco_file)


@pytest.mark.slow
def test_boxes_without_area_are_left_out_of_training(build, coco_file, log):
    coco_file['annotations'][1].update(bbox=[5, 5, 0, 30], area=0)
    extra = [dict(coco_file['annotations'][0], id=14, bbox=[90, 90, 9, 9])]
    extra += [dict(coco_file['annotations'][0], id=15, iscrowd=1)]
    coco_file['annotations'] += extra
    dataset = build(coco_file)
    assert (
        '3 images, 2 instances, 0 of them without labeled keypoints; '
        'left out: 2 boxes without area inside the image, 1 crowd regions' in log.text
    )
    check_training(dataset)
    build(coco_file, test_mode=True)[0]


def test_keypoints_of_boxes_without_area_are_evaluated(build, coco_file):
    coco_file['annotations'][1].update(bbox=[5, 5, 0, 30], keypoints=[30, 30, 2] * 3)
    found = evaluate(build(coco_file, test_mode=True), coco_file)
    assert found['coco/AP'] == pytest.approx(1)
    assert found['coco/box AR'] == pytest.approx(2 / 3)  # a box without area overlaps with no other


def test_unusual_visibilities_are_labeled_if_above_zero(build, coco_file):
    coco_file['annotations'][0]['keypoints'] = [10, 10, 3, 5, 20, -1, 0, 0, 0.0]
    dataset = build(coco_file)
    check_training(dataset)
    assert (dataset.get_data_info(0)['keypoints_visible'] > 0)[0].tolist() == [True, False, False]


@pytest.mark.slow
def test_annotation_with_id_zero_is_evaluated(build, coco_file):
    coco_file['annotations'][0]['id'] = 0  # "no match" in COCO's tools
    check_both(build, coco_file)


@pytest.mark.slow
def test_file_without_optional_keys_works(build, coco_file):
    light = copy.deepcopy(coco_file)
    for annotation in light['annotations']:
        for key in ('num_keypoints', 'area', 'iscrowd'):
            del annotation[key]
    light['categories'] = [dict(id=1, name='triple')]
    check_training(build(light))
    check_evaluation(build(light, test_mode=True), light, use_area=False)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('kind', 'key', 'value', 'message'),
    [
        ('annotations', 'id', 1.5, 'id is not a whole number: annotations[1] (id 1.5); number'),
        ('annotations', 'bbox', None, "annotations without 'bbox': 12; use a file of keypoint"),
        ('annotations', 'keypoints', [1] * 6, "with 2 keypoints, the metainfo of 'triples' has 3"),
        ('categories', 'id', [1], 'id is not a whole number: categories[0] (id [1]); number'),
    ],
)
def test_fault_is_one_error(build, coco_file, tmp_path, kind, key, value, message, test_mode):
    coco_file[kind][-2 if kind == 'annotations' else 0][key] = value
    with pytest.raises(InputError) as error:
        build(coco_file, test_mode)
    assert str(error.value).startswith(f'annotation file {tmp_path}/a.json: ')
    assert message in str(error.value)
    assert 'kapao check-dataset' in str(error.value)


def test_first_of_several_kinds_of_faults_is_named(build, coco_file):
    del coco_file['annotations'][0]['bbox']
    coco_file['annotations'][1]['keypoints'] = 'x'
    with pytest.raises(InputError, match=r"without 'bbox': 11; .* \(1 more kinds of faults\)"):
        build(coco_file)


def test_fault_of_the_whole_file_is_one_error(build, coco_file, tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path}/a.json: it is a list, not an object'):
        build(coco_file['annotations'])
    with pytest.raises(InputError, match=f'{tmp_path}/a.json: it lists no images'):
        build(coco_file | dict(images=[]))


@pytest.mark.slow
def test_coordinates_of_unlabeled_keypoints_change_nothing(build, coco_file, tiny_config):
    model = MODELS.build(load_config(tiny_config, {'model.head.num_keypoints': 3}).model)
    found = []
    for x, y in ((0, 0), (20, 20), (-7, 400), (1e9, -1e9), (float('nan'), None)):
        for annotation in coco_file['annotations']:
            annotation['keypoints'] = [10, 10, 2, 5, 20, 1, x, y, 0]
        coco_file['annotations'][1]['keypoints'] = [x, y, 0] * 3
        dataset = build(coco_file)
        for seed in (np.random.seed, random.seed):
            seed(0)
        batch = pseudo_collate([dataset[i] for i in range(3) for _ in range(3)])
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        total = sum(loss.sum() for loss in losses.values())
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        moved = copy.deepcopy(coco_file)
        for annotation in moved['annotations']:
            annotation['keypoints'] = [11, 10, 2, 5, 22, 1, 9, 9, 0]
        metrics = evaluate(build(coco_file, test_mode=True), moved)
        found.append(([*losses.values(), *gradients], metrics))
    (expected, expected_metrics), *others = found
    assert 0 < expected_metrics['coco/AP'] < 1
    for tensors, metrics in others:
        assert metrics == expected_metrics
        for tensor, other in zip(tensors, expected, strict=True):
            assert tensor is other or torch.equal(tensor, other)
