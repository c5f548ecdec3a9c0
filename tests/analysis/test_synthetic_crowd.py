# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.analysis.synthetic_crowd import filter_by_score, make_crowds
from kapao_mm.functional.postprocess import predict_in_image
from kapao_mm.structures import InferenceSettings
from kapao_mm.utils.config import load_config

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py')


@pytest.mark.parametrize(
    ('crowd', 'people', 'candidates'),
    [('single', 1, 2915), ('group', 9, 3356), ('crowd', 60, 6042)],
)
def test_numbers_resemble_those_of_the_golden_crowds(shared_dir, cfg, crowd, people, candidates):
    golden = json.loads((shared_dir / 'golden/postprocess.json').read_text())[f'{crowd}_val']
    settings = InferenceSettings.from_test_cfg(cfg.model.test_cfg, 'evaluation')
    crowds = make_crowds(people)
    assert (crowds.scores > 0.001).sum() == pytest.approx(candidates, rel=0.05)
    found = filter_by_score(crowds, settings, CPU)
    (objects,) = MODELS.build(cfg.model.head).detect(found, settings)
    assert len(objects.pose_objects.bboxes) == pytest.approx(golden['n_person'], rel=0.15)
    assert len(objects.keypoint_objects.bboxes) == pytest.approx(golden['n_kp'], rel=0.25, abs=3)
    image = dict(scale=np.full(2, 0.5), origin=np.zeros(2), image_size=(640, 640))
    fused = predict_in_image(objects, **image, keypoint_counts=[17], settings=settings)
    counted = (fused.keypoint_scores > 0).sum()
    assert counted == pytest.approx(golden['n_fused'], rel=0.25, abs=3)


def test_every_image_has_its_own_crowd_and_a_seed_repeats_it():
    crowds = make_crowds(3, num_images=2, seed=1)
    assert not torch.equal(crowds.bboxes[0], crowds.bboxes[1])
    for ours, again in zip(crowds, make_crowds(3, num_images=2, seed=1), strict=True):
        assert torch.equal(ours, again)
    assert not torch.equal(crowds.bboxes, make_crowds(3, num_images=2, seed=2).bboxes)


def test_people_have_the_keypoint_objects_of_their_category():
    one, two = (make_crowds(20, keypoint_counts=counts) for counts in ([3], [1, 2]))
    assert one.keypoints.shape[2:] == two.keypoints.shape[2:] == (3, 2)
    assert set(one.labels[0].tolist()) == {0, 1, 2, 3}
    labels = two.labels[two.scores > 0.02].bincount(minlength=5)
    assert labels[0] + labels[1] == 20 * 4
    assert labels[2] == labels[0] / 4 * 3  # three candidates a keypoint, four a pose
    assert labels[3] == labels[4] == labels[1] / 4 * 3


def test_crowds_fill_the_input():
    boxes = make_crowds(200, input_hw=(64, 128)).bboxes[0].unflatten(1, (2, 2))
    assert boxes.mean(1).amax(0).tolist() == pytest.approx([128, 64], rel=0.3)
    sides = boxes[:, 1] - boxes[:, 0]
    assert (sides > 0).all() and sides.max() < 64


def test_candidates_below_their_threshold_are_left_out(inference_settings):
    crowds = make_crowds(5)
    settings = inference_settings(pose_score_thr=0.5, keypoint_score_thr=0.3)
    found = filter_by_score(crowds, settings, CPU)
    expected = crowds.scores[crowds.scores > torch.where(crowds.labels < 1, 0.5, 0.3)]
    assert torch.equal(found.scores[0], expected.sort(descending=True).values)


def test_images_with_fewer_candidates_are_padded_with_the_score_0():
    crowds = make_crowds(20, num_images=3, keypoint_counts=[1, 9])
    counts = (crowds.scores > 0).sum(1)
    assert counts.max() == crowds.scores.shape[1] > counts.min()
