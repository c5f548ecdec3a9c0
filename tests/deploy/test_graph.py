# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the graph, run by torch itself, with the model."""

from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.engine.weights_only import TORCH_CAN

if not TORCH_CAN:
    pytest.skip('export needs torch 2.6 or later', allow_module_level=True)

import torch
from mmpose.models import PoseDataPreprocessor
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.deploy.graph import ExportGraph, normalize
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.structures import split_by_image
from kapao_mm.utils.config import load_config

CHANGES = {
    'two suppressions': {},
    'one suppression': dict(pose_iou_thr=0.25),
    'one, keypoints above poses': dict(pose_iou_thr=0.25, keypoint_score_thr=0.6),
    'two, poses above keypoints': dict(pose_iou_thr=0.25, pose_score_thr=0.5),
    'limits': dict(max_candidates=60, max_objects=20),
    'limits, one suppression': dict(max_candidates=60, max_objects=20, pose_iou_thr=0.25),
}


def run(graph, images):
    with torch.no_grad():
        outputs = graph(torch.from_numpy(images))
    return split_by_image([x.numpy() for x in outputs], len(images))


def assert_same(found, expected):
    difference = compare_objects(found, expected)
    assert difference.position < 1e-3
    assert difference.score < 1e-6
    for ours, theirs in zip(found, expected, strict=True):  # in the same order
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)


@pytest.mark.parametrize('changes', CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize('num_keypoints', [4, [3, 2], [3, 0, 1]], ids=str)
def test_the_graph_finds_what_the_model_finds(
    make_model, make_images, detect, settings, num_keypoints, changes
):
    settings = replace(settings, **changes)
    model = make_model(num_keypoints)
    graph = ExportGraph(model, settings)
    for shape in ((1, 64, 128), (3, 192, 256)):
        images = make_images(*shape)
        expected, num_candidates = detect(model, images, settings)
        found = run(graph, images)
        counts = [sum(len(objects.bboxes) for objects in image) for image in expected]
        assert num_candidates > 1.2 * sum(counts) > 20
        assert all(count == 0 for count in counts[1:2])  # black
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize('limit', ['max_candidates', 'max_objects'])
def test_limits_reduce_the_number_of_objects(make_model, make_images, settings, limit):
    model, images = make_model([3, 2]), make_images(1, 192, 256)
    free = run(ExportGraph(model, settings), images)[0]
    limited = replace(settings, **{limit: CHANGES['limits'][limit]})
    bound = run(ExportGraph(model, limited), images)[0]
    for fewer, all_objects in zip(bound, free, strict=True):
        assert len(fewer.bboxes) < len(all_objects.bboxes)


def test_an_image_without_objects_keeps_the_shapes(make_model, make_images, settings):
    images = make_images(2, 64, 64)[1:]
    (found,) = run(ExportGraph(make_model(4), settings), images)
    assert [x.shape for x in found.pose_objects] == [(0, 4), (0,), (0,), (0, 4, 2)]
    assert [x.shape for x in found.keypoint_objects] == [(0, 4), (0,), (0,)]


def test_a_number_of_candidates_keeps_those_with_the_highest_scores(
    make_model, make_images, detect, settings
):
    model, images = make_model(4), make_images(1, 192, 256)
    expected, _ = detect(model, images, settings)
    enough = run(ExportGraph(model, settings, num_candidates=2000), images)
    assert_same(enough[0], expected[0])
    (few,) = run(ExportGraph(model, settings, num_candidates=40), images)
    limited = replace(settings, pose_iou_thr=0.25, max_candidates=40)  # of both kinds together
    (expected,), _ = detect(model, images, limited)
    found, expected = few.keypoint_objects.scores, expected.keypoint_objects.scores
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_normalizes_as_the_preprocessor_does(make_images, bgr_to_rgb):
    preprocessor = PoseDataPreprocessor([1.0, 2, 3], [50.0, 60, 70], bgr_to_rgb=bgr_to_rgb)
    images = torch.from_numpy(make_images(2, 64, 128))
    data = dict(
        inputs=list(images.permute(0, 3, 1, 2)), data_samples=[PoseDataSample() for _ in images]
    )
    torch.testing.assert_close(
        normalize(images, preprocessor), preprocessor(data)['inputs'], rtol=0, atol=0
    )


def test_the_exported_network_is_a_copy_with_a_strided_stem(repo, settings):
    cfg = load_config(repo / 'configs/_base_/models/kapao_n.py').model
    cfg.head.num_keypoints = 17
    model = MODELS.build(cfg).eval()
    before = [name for name, _ in model.named_modules()]
    graph = ExportGraph(model, settings)
    assert graph.model.backbone.stem.conv.stride == (2, 2)
    assert [name for name, _ in model.named_modules()] == before
    prepare_for_inference(model)
    graph = ExportGraph(model, settings)
    graph.model.backbone.stem = torch.nn.AvgPool2d(2)  # the copy has its own network
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            graph.model.extract_feat(images)
        model.extract_feat(images)
