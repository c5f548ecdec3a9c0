# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loss, matches, decoding and post-processing equal the reference's on the golden data."""

import json

import numpy as np
import pytest
import torch
from mmpose.structures import PoseDataSample

from kapao_mm.models.kapao import add_objects_to_datasample
from kapao_mm.models.task_modules.candidates import Candidates, decode_candidates
from kapao_mm.models.task_modules.objects import Objects

IMAGE_WH = torch.tensor([320.0, 256.0])


@pytest.fixture
def grids(golden):
    data = golden('forward')
    return [torch.from_numpy(data[f'grid{i}']).requires_grad_() for i in range(4)]


@pytest.fixture
def objects(golden):
    """The reference's targets: image, class, box and keypoints, normalised."""
    rows = torch.from_numpy(golden('loss')['targets'])
    points = rows[:, 6:].unflatten(1, (17, 3))
    return Objects(
        image=rows[:, 0].long(),
        label=rows[:, 1].long(),
        boxes=rows[:, 2:6] * IMAGE_WH.repeat(2),
        keypoints=points[..., :2] * IMAGE_WH,
        visible=(points[..., 2] > 0) & (rows[:, 1:2] == 0),
    )


def levels(head, grids, objects):
    return [
        head.assigner.assign(objects, anchors, stride, grid.shape[2:4])
        for grid, anchors, stride in zip(grids, head.anchors, head.strides, strict=True)
    ]


def test_matches_equal_as_sets(head, grids, objects, golden):
    data = golden('loss')
    for i, matches in enumerate(levels(head, grids, objects)):
        names = ('image', 'anchor', 'gy', 'gx', 'class')
        keys = torch.stack(
            (matches.image, matches.anchor, matches.gy, matches.gx, matches.label), 1
        ).numpy()
        expected = np.stack([data[f'l{i}_{name}'] for name in names], 1)
        boxes, expected_boxes = matches.boxes.numpy(), data[f'l{i}_box_grid']
        ours = np.lexsort((*boxes.T.round(3), *keys.T))
        theirs = np.lexsort((*expected_boxes.T.round(3), *expected.T))
        np.testing.assert_array_equal(keys[ours], expected[theirs])
        np.testing.assert_allclose(boxes[ours], expected_boxes[theirs], rtol=1e-4, atol=1e-4)
        pose = keys[ours][:, 4] == 0
        points = data[f'l{i}_kpts_grid'][theirs][pose]
        visible = matches.visible[ours][pose].numpy()
        np.testing.assert_array_equal(visible, points[..., 2] > 0)
        np.testing.assert_allclose(
            matches.keypoints[ours][pose].numpy()[visible],
            points[..., :2][visible],
            rtol=1e-4,
            atol=1e-4,
        )


def test_loss_terms_and_gradients(head, grids, objects, golden):
    data = golden('loss')
    matches = levels(head, grids, objects)
    losses = head.loss_module(grids, matches, head.anchors, input_size=1280)
    names = ('loss_box', 'loss_obj', 'loss_cls', 'loss_kpt')
    terms = torch.stack([losses[name] for name in names]) / len(grids[0])
    np.testing.assert_allclose(
        terms.detach().numpy(), data['loss_items_box_obj_cls_kps'], rtol=1e-4
    )
    total = sum(losses.values())
    np.testing.assert_allclose(total.item(), data['loss_total'][0], rtol=1e-4)
    total.backward()
    for i, grid in enumerate(grids):
        expected = data[f'l{i}_grad']
        np.testing.assert_allclose(
            grid.grad.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )
        np.testing.assert_allclose(
            grid.grad.abs().sum().item(), data[f'l{i}_grad_abs_sum'], rtol=1e-4
        )


def test_gains_at_1280_px(head, golden):
    gains = head.loss_module.gains(num_classes=18, input_size=1280)
    ours = [gains[name] for name in ('box', 'obj', 'cls', 'kpt')]
    np.testing.assert_allclose(ours, golden('loss')['gains_box_obj_cls_kp'])
    np.testing.assert_allclose(head.loss_module.obj_level_weights, golden('loss')['obj_balance'])


def test_decoding_equals_the_reference(head, grids, golden):
    expected = golden('forward')['decoded']
    with torch.no_grad():
        candidates = decode_candidates(grids, head.anchors, head.strides, 17, score_thr=-1.0)
    # Ours come level by level over the whole batch, the reference's image by image.
    order = np.argsort(candidates.image.numpy(), kind='stable')
    rows = expected.reshape(-1, expected.shape[-1])
    boxes = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1)
    np.testing.assert_allclose(candidates.boxes.numpy()[order], boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        candidates.keypoints.numpy()[order].reshape(len(rows), -1),
        rows[:, 23:],
        rtol=1e-4,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        candidates.scores.numpy()[order], rows[:, 4] * rows[:, 5:23].max(1), rtol=1e-4
    )
    np.testing.assert_array_equal(candidates.labels.numpy()[order], rows[:, 5:23].argmax(1))


THRESHOLDS = dict(
    conf_thres='pose_score_thr',
    iou_thres='pose_iou_thr',
    conf_thres_kp='keypoint_score_thr',
    iou_thres_kp='keypoint_iou_thr',
    conf_thres_kp_person='fusion_score_thr',
    overwrite_tol='fusion_distance',
)


@pytest.mark.parametrize('fusion', ['', '_nofuse'])
@pytest.mark.parametrize('setting', ['val', 'demo'])
@pytest.mark.parametrize('crowd', ['single', 'group', 'crowd'])
def test_kept_objects_and_fused_poses(head, model_cfg, golden, shared_dir, crowd, setting, fusion):
    data = golden('postprocess')
    info = json.loads((shared_dir / 'golden/postprocess.json').read_text())
    case = f'{crowd}_{setting}{fusion}'
    test_cfg = dict(model_cfg().model.test_cfg)
    test_cfg.update({ours: info['thresholds'][setting][key] for key, ours in THRESHOLDS.items()})
    if fusion:
        test_cfg['fusion_distance'] = 0

    rows = torch.from_numpy(data[f'{crowd}_pred'])
    confidence, labels = (rows[:, 5:23] * rows[:, 4:5]).max(1)
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    candidates = Candidates(
        image=torch.zeros(len(rows), dtype=torch.long),
        scores=confidence,
        labels=labels,
        boxes=torch.cat((centre - half, centre + half), 1),
        keypoints=rows[:, 23:].unflatten(1, (17, 2)),
    )
    (objects,) = head.detect(candidates, 1, test_cfg)

    poses, points = data[f'{case}_person_dets'], data[f'{case}_kp_dets']
    assert objects.boxes.shape == (info[case]['n_person'], 4)
    assert objects.point_boxes.shape == (info[case]['n_kp'], 4)
    close = dict(rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(objects.boxes, poses[:, :4], **close)
    np.testing.assert_allclose(objects.scores, poses[:, 4], rtol=1e-4)
    np.testing.assert_allclose(objects.keypoints.reshape(len(poses), -1), poses[:, 6:], **close)
    np.testing.assert_allclose(objects.point_boxes, points[:, :4], **close)
    np.testing.assert_allclose(objects.point_scores, points[:, 4], rtol=1e-4)
    np.testing.assert_array_equal(objects.point_types, points[:, 5] - 1)

    height, width = info[crowd]['input_hw']
    size, gain = np.array([width, height]), info[crowd]['gain']
    sample = PoseDataSample(
        metainfo=dict(
            ori_shape=info[crowd]['ori_hw'],
            input_size=size,
            input_scale=size / gain,
            input_center=(size / 2 - info[crowd]['pad_xy']) / gain,
        )
    )
    add_objects_to_datasample(objects, sample, test_cfg, [17])
    found = sample.pred_instances
    np.testing.assert_allclose(found.bboxes, data[f'{case}_bboxes'], atol=0.5 + 1e-3)
    np.testing.assert_allclose(found.bbox_scores, data[f'{case}_scores'], rtol=1e-4)
    expected = data[f'{case}_poses']
    np.testing.assert_allclose(found.keypoints, expected[..., :2], **close)
    np.testing.assert_allclose(found.keypoint_scores, expected[..., 2], rtol=1e-4)
    np.testing.assert_array_equal(found.keypoints_fused.sum(0), data[f'{case}_n_fused'])
    assert found.keypoints_fused.sum() == info[case]['n_fused']
