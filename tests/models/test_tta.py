# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch.nn import functional as F

from kapao_mm.datasets import read_metainfo
from kapao_mm.models.task_modules.postprocess import Candidates, decode
from kapao_mm.models.tta import scale_and_pad, unflip

PASSES = [(0.8, False), (1.0, True), (1.2, False)]


def sample(flip_indices, input_wh):
    """An image that is the network input."""
    return PoseDataSample(
        metainfo=dict(
            img_id=7,
            ori_shape=input_wh[::-1],
            input_size=input_wh,
            input_scale=np.array(input_wh, np.float64),
            input_center=np.array(input_wh) / 2,
            flip_indices=flip_indices,
        )
    )


def batch(images, flip_indices):
    """What the dataloader gives: BGR images of 0..255."""
    return dict(
        inputs=list(images),
        data_samples=[sample(flip_indices, images.shape[:1:-1]) for _ in images],
    )


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def wrap(model_cfg):
    """Makes a TTA model of random weights; its settings keep some 50 objects."""

    def make(num_keypoints=5, **changes):
        torch.manual_seed(0)
        cfg = model_cfg(num_keypoints)
        cfg.model.test_cfg.update(pose_score_thr=0.55, keypoint_score_thr=0.55)
        cfg.tta_model.update(changes)
        model = MODELS.build(dict(**cfg.tta_model, module=cfg.model)).eval()
        for conv in model.module.head.head_module.convs:  # outputs that differ from cell to cell
            torch.nn.init.normal_(conv.weight, std=2)
        return model

    return make


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 128, 192), np.uint8))


def assert_same_predictions(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.pred_instances) > 0 and len(one.pred_keypoint_objects) > 0
        for field in ('pred_instances', 'pred_keypoint_objects'):
            for name, value in getattr(one, field).items():
                expected = getattr(other, field)[name]
                np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-2, err_msg=name)


def decode_all(head):
    """Makes a head decode all outputs, in the order of the grids."""
    head.decode = lambda grids, _: decode(
        grids, head.anchors, head.strides, head.num_keypoints, score_thrs=None
    )


def rows_of(found):
    """Returns score, label, box and keypoints of each candidate, (N, k, 6 + 2K)."""
    columns = (found.scores[..., None], found.labels[..., None], found.bboxes)
    return torch.cat((*columns, found.keypoints.flatten(2)), 2).numpy()


def reference_rows(model, inputs, pairs):
    """The rows of every pass by loops over passes, images and rows."""
    mirror = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    passes = []
    for scale, flipped in PASSES:
        view = inputs.numpy()[..., ::-1].copy() if flipped else inputs.numpy()
        height, width = (math.floor(side * scale) for side in view.shape[2:])
        view = F.interpolate(torch.from_numpy(view), (height, width), mode='bilinear').numpy()
        rows, columns = (math.ceil(side / 64) * 64 for side in (height, width))
        full = np.full((*view.shape[:2], rows, columns), 0.447, np.float32)
        full[..., :height, :width] = view
        feats = model.extract_feat(torch.from_numpy(full))
        found = rows_of(model.head.decode(model.head(feats), None))
        found[..., 2:] /= scale
        for image in found if flipped else ():
            for row in image:
                x1, y1, x2, y2, points = *row[2:6], row[6:].reshape(-1, 2).copy()
                row[1] = mirror.get(row[1] - 1, row[1] - 1) + 1
                row[2:6] = inputs.shape[3] - x2, y1, inputs.shape[3] - x1, y2
                for k in range(len(points)):
                    x, y = points[mirror.get(k, k)]
                    row[6 + 2 * k : 8 + 2 * k] = inputs.shape[3] - x, y
        passes.append(found)
    return np.concatenate(passes, 1)


@pytest.mark.parametrize(
    ('flip_indices', 'pairs'),
    [([0, 2, 1, 4, 3], [(1, 2), (3, 4)]), ([3, 1, 2, 0], [(0, 3)]), ([0, 1], [])],
)
def test_passes_are_mapped_back_as_a_loop_would(wrap, flip_indices, pairs):
    model = wrap(len(flip_indices))
    inputs = torch.rand(2, 3, 128, 192)
    types = torch.tensor([flip_indices] * 2)
    decode_all(model.module.head)
    ours = rows_of(model.decode(inputs, types, None))
    expected = reference_rows(model.module, inputs, pairs)
    assert len(np.unique(expected[..., 1])) == len(flip_indices) + 1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_passes_equal_the_reference(model_cfg, golden, golden_checkpoint):
    cfg = model_cfg()
    model = MODELS.build(dict(**cfg.tta_model, module=cfg.model)).eval()
    load_checkpoint(model, str(golden_checkpoint), strict=True)
    types = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))['flip_indices']
    inputs = torch.from_numpy(golden('forward')['image']) / 255
    decode_all(model.module.head)
    found = rows_of(model.decode(inputs, torch.tensor([types] * 2), None))
    expected = golden('forward')['tta_decoded']
    center, half = expected[..., :2], expected[..., 2:4] / 2
    scores = expected[..., 4] * expected[..., 5:23].max(-1)
    np.testing.assert_allclose(found[..., 0], scores, rtol=1e-4)
    np.testing.assert_array_equal(found[..., 1], expected[..., 5:23].argmax(-1))
    boxes = np.concatenate((center - half, center + half), -1)
    np.testing.assert_allclose(found[..., 2:6], boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[..., 6:], expected[..., 23:], rtol=1e-4, atol=1e-3)


def test_images_of_a_batch_may_have_other_pairs():
    candidates = Candidates(
        scores=torch.ones(2, 2),
        labels=torch.tensor([[1, 0], [1, 0]]),
        bboxes=torch.tensor([10.0, 20, 30, 50]).expand(2, 2, 4),
        keypoints=torch.tensor([[1.0, 2], [3, 4], [5, 6]]).expand(2, 2, 3, 2),
    )
    found = unflip(candidates, 100, torch.tensor([[1, 0, 2], [2, 1, 0]]))
    assert found.labels.tolist() == [[2, 0], [3, 0]]
    assert found.bboxes.tolist() == [[[70, 20, 90, 50]] * 2] * 2
    assert found.keypoints[0].tolist() == [[[97, 4], [99, 2], [95, 6]]] * 2
    assert found.keypoints[1].tolist() == [[[95, 6], [97, 4], [99, 2]]] * 2


def test_categories_stay_and_types_are_swapped():
    candidates = Candidates(
        scores=torch.ones(1, 4),
        labels=torch.tensor([[0, 1, 2, 4]]),
        bboxes=torch.ones(1, 4, 4),
        keypoints=torch.zeros(1, 4, 3, 2),
    )
    found = unflip(candidates, 100, torch.tensor([[1, 0, 2]]), num_categories=2)
    assert found.labels.tolist() == [[0, 1, 3, 4]]


def test_sides_are_floored_and_padded_at_the_right_and_bottom():
    view = scale_and_pad(torch.ones(1, 3, 256, 320), 0.8, 64, pad_value=0.447)
    assert view.shape == (1, 3, 256, 256)  # of 204 x 256
    torch.testing.assert_close(view[..., :204, :], torch.ones(1, 3, 204, 256))
    torch.testing.assert_close(view[..., 204:, :], torch.full((1, 3, 52, 256), 0.447))
    assert scale_and_pad(torch.ones(1, 3, 256, 320), 1.2, 64, 0).shape == (1, 3, 320, 384)


def test_a_single_plain_pass_is_the_plain_prediction(wrap, images):
    model = wrap(passes=[(1.0, False)])
    ours = model.test_step(batch(images, [0, 2, 1, 4, 3]))
    plain = model.module.test_step(batch(images, [0, 2, 1, 4, 3]))
    assert_same_predictions(ours, plain)


@pytest.mark.parametrize('num_keypoints', [5, [1, 4], [1, 0, 4]])
def test_the_flipped_pass_of_a_mirrored_image_is_its_mirrored_prediction(
    wrap, images, num_keypoints
):
    model = wrap(num_keypoints, passes=[(1.0, True)])
    flip_indices = [0, 2, 1, 4, 3]
    ours = model.test_step(batch(images.flip(-1), flip_indices))
    plain = model.module.test_step(batch(images, flip_indices))
    for data in plain:
        for objects in (data.pred_instances, data.pred_keypoint_objects):
            objects.bboxes[:, ::2] = 192 - objects.bboxes[:, 2::-2]
        for name in ('keypoints', 'pose_keypoints'):
            data.pred_instances[name] = data.pred_instances[name][:, flip_indices]
            data.pred_instances[name][..., 0] = 192 - data.pred_instances[name][..., 0]
            data.pred_instances[name] *= data.pred_instances.keypoints_visible[..., None]
        for name in ('keypoint_scores', 'keypoints_fused'):
            data.pred_instances[name] = data.pred_instances[name][:, flip_indices]
        labels = data.pred_keypoint_objects.labels
        data.pred_keypoint_objects.labels = np.array(flip_indices)[labels]
    assert_same_predictions(ours, plain)


def test_nms_runs_once_over_all_passes(wrap, images):
    once, twice = (wrap(passes=[(1.0, False)] * count) for count in (1, 2))
    ours, theirs = (m.test_step(batch(images, [0, 2, 1, 4, 3])) for m in (twice, once))
    assert_same_predictions(ours, theirs)


def test_a_batch_predicts_what_its_images_predict(wrap, images):
    model = wrap()
    together = model.test_step(batch(images, [0, 2, 1, 4, 3]))
    alone = [model.test_step(batch(images[i : i + 1], [0, 2, 1, 4, 3]))[0] for i in (0, 1)]
    assert_same_predictions(together, alone)


def test_the_settings_for_tta_apply(wrap, images):
    model = wrap()
    plain = len(model.module.test_step(batch(images[:1], [0, 2, 1, 4, 3]))[0].pred_instances)
    settings = model.module.settings
    settings['tta'] = replace(settings['tta'], pose_score_thr=0.999)
    (data,) = model.test_step(batch(images[:1], [0, 2, 1, 4, 3]))
    assert plain > 0
    assert len(data.pred_instances) == 0


def test_images_of_no_dataset_get_the_settings_for_demo(wrap, images):
    model = wrap()
    data = batch(images[:1], [0, 2, 1, 4, 3])
    del data['data_samples'][0].img_id
    settings = model.module.settings
    settings['demo'] = replace(settings['demo'], pose_score_thr=0.999)
    assert len(model.test_step(data)[0].pred_instances) == 0


def test_merging_predictions_is_refused(wrap):
    with pytest.raises(NotImplementedError, match='merges candidates'):
        wrap().merge_preds([])
