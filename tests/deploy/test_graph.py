# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The graph, run by torch itself, against the model."""

import numpy as np
import pytest

from kapao_mm.engine.weights_only import TORCH_CAN

if not TORCH_CAN:
    pytest.skip('export needs torch 2.6 or later', allow_module_level=True)

import torch
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample

from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.deploy.graph import ExportGraph, class_nms, normalise
from kapao_mm.deploy.runtime import split_by_image

CHANGES = {
    'two suppressions': {},
    'one suppression': dict(pose_iou_thr=0.25),
    'one, keypoints above poses': dict(pose_iou_thr=0.25, keypoint_score_thr=0.6),
    'two, poses above keypoints': dict(pose_iou_thr=0.25, pose_score_thr=0.5),
    'limits': dict(max_candidates=60, max_objects=20),
    'limits, one suppression': dict(max_candidates=60, max_objects=20, pose_iou_thr=0.25),
}


def run(graph, images):
    """The objects of each image."""
    with torch.no_grad():
        outputs = graph(torch.from_numpy(images))._asdict()
    return split_by_image({name: value.numpy() for name, value in outputs.items()}, len(images))


def assert_same(found, expected):
    """The same objects, by falling confidence."""
    difference = compare_objects(found, expected)
    assert difference.position < 1e-3
    assert difference.score < 1e-6
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.point_scores, expected.point_scores, atol=1e-6)


@pytest.mark.parametrize('changes', CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize('num_keypoints', [4, [3, 2]], ids=str)
def test_finds_what_the_model_finds(
    make_model, make_images, detect, settings, num_keypoints, changes
):
    settings = settings | changes
    model = make_model(num_keypoints)
    graph = ExportGraph(model, settings)
    for shape in ((1, 64, 128), (3, 192, 256)):
        images = make_images(*shape)
        expected, num_candidates = detect(model, images, settings)
        found = run(graph, images)
        counts = [len(e.boxes) + len(e.point_boxes) for e in expected]
        assert num_candidates > 1.5 * sum(counts) > 20
        assert all(count == 0 for count in counts[1:2])  # black
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize('limit', ['max_candidates', 'max_objects'])
def test_the_limits_of_these_tests_bind(make_model, make_images, settings, limit):
    model, images = make_model([3, 2]), make_images(1, 192, 256)
    free = run(ExportGraph(model, settings), images)[0]
    bound = run(ExportGraph(model, settings | {limit: CHANGES['limits'][limit]}), images)[0]
    assert len(bound.boxes) < len(free.boxes)
    assert len(bound.point_boxes) < len(free.point_boxes)


def test_no_objects_at_all(make_model, make_images, settings):
    images = make_images(2, 64, 64)[1:]
    (found,) = run(ExportGraph(make_model(4), settings), images)
    shapes = [field.shape for field in found]
    assert shapes == [(0, 4), (0,), (0,), (0, 4, 2), (0, 4), (0,), (0,)]


def test_a_number_of_candidates_keeps_the_most_confident(make_model, make_images, detect, settings):
    model, images = make_model(4), make_images(1, 192, 256)
    expected, _ = detect(model, images, settings)
    enough = run(ExportGraph(model, settings, num_candidates=2000), images)
    assert_same(enough[0], expected[0])
    (few,) = run(ExportGraph(model, settings, num_candidates=40), images)
    limited = settings | dict(pose_iou_thr=0.25, max_candidates=40)  # of both kinds together
    (expected,), _ = detect(model, images, limited)
    np.testing.assert_allclose(few.point_scores, expected.point_scores, atol=1e-6)


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_normalises_as_the_preprocessor(make_images, bgr_to_rgb):
    preprocessor = PoseDataPreprocessor([1.0, 2, 3], [50.0, 60, 70], bgr_to_rgb=bgr_to_rgb)
    images = torch.from_numpy(make_images(2, 64, 128))
    data = dict(
        inputs=list(images.permute(0, 3, 1, 2)), data_samples=[PoseDataSample() for _ in images]
    )
    torch.testing.assert_close(
        normalise(images, preprocessor), preprocessor(data)['inputs'], rtol=0, atol=0
    )


def test_suppression_is_inside_a_class_and_an_image():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]]).repeat(2, 1, 1)
    scores = torch.tensor([[[0.9, 0.8, 0], [0, 0, 0.7]], [[0, 0.8, 0.7], [0, 0, 0]]])
    kept = class_nms(boxes, scores, 0.5, 300)
    assert kept.tolist() == [[True, False, True], [False, True, False]]
    assert class_nms(boxes, scores, 0.5, 1).tolist() == [[True, False, False], [False, True, False]]
