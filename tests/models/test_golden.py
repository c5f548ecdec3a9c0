# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loss, matches, decoding and post-processing equal the reference's on the golden data."""

import json

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.models.task_modules.objects import Objects
from kapao_mm.models.task_modules.postprocess import Candidates, decode
from kapao_mm.structures import InferenceSettings

IMAGE_WH = torch.tensor([320.0, 256.0])


@pytest.fixture
def grids(golden):
    data = golden('forward')
    # The reference's layout is (N, Na, H, W, No).
    grids = [torch.from_numpy(data[f'grid{i}']).movedim(4, 2).contiguous() for i in range(4)]
    return [grid.requires_grad_() for grid in grids]


@pytest.fixture
def objects(golden):
    """The reference's targets: image, class, box and keypoints, normalized."""
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
        head.assigner.assign(objects, anchors, stride, grid.shape[3:])
        for grid, anchors, stride in zip(grids, head.anchors, head.strides, strict=True)
    ]


def test_matches_equal_those_of_the_reference_as_sets(head, grids, objects, golden):
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


def test_loss_terms_and_gradients_equal_the_reference(head, grids, objects, golden):
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
            grid.grad.movedim(2, 4).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )
        np.testing.assert_allclose(
            grid.grad.abs().sum().item(), data[f'l{i}_grad_abs_sum'], rtol=1e-4
        )


def test_gains_at_1280_px_equal_the_reference(head, golden):
    gains = head.loss_module.gains(num_classes=18, input_size=1280)
    ours = [gains[name] for name in ('box', 'obj', 'cls', 'kpt')]
    np.testing.assert_allclose(ours, golden('loss')['gains_box_obj_cls_kp'])
    np.testing.assert_allclose(head.loss_module.obj_level_weights, golden('loss')['obj_balance'])


def test_decoding_equals_the_reference(head, grids, golden):
    expected = golden('forward')['decoded']
    with torch.no_grad():
        found = decode(grids, head.anchors, head.strides, 17, score_thrs=None)
    corners = expected[..., :2] - expected[..., 2:4] / 2, expected[..., :2] + expected[..., 2:4] / 2
    close = dict(rtol=1e-4, atol=1e-3)  # px
    np.testing.assert_allclose(found.bboxes, np.concatenate(corners, -1), **close)
    np.testing.assert_allclose(found.keypoints.flatten(2), expected[..., 23:], **close)
    scores = expected[..., 4] * expected[..., 5:23].max(-1)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    np.testing.assert_array_equal(found.labels, expected[..., 5:23].argmax(-1))


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
def test_kept_objects_and_fused_poses_equal_the_reference(
    head, model_cfg, golden, shared_dir, crowd, setting, fusion
):
    data = golden('postprocess')
    info = json.loads((shared_dir / 'golden/postprocess.json').read_text())
    case = f'{crowd}_{setting}{fusion}'
    test_cfg = dict(model_cfg().model.test_cfg)
    test_cfg.update({ours: info['thresholds'][setting][key] for key, ours in THRESHOLDS.items()})
    if fusion:
        test_cfg['fusion_distance'] = 0
    settings = InferenceSettings.from_test_cfg(test_cfg, 'evaluation')

    rows = torch.from_numpy(data[f'{crowd}_pred'])
    scores, labels = (rows[:, 5:23] * rows[:, 4:5]).max(1)
    center, half = rows[:, :2], rows[:, 2:4] / 2
    candidates = Candidates(
        scores=scores[None],
        labels=labels[None],
        bboxes=torch.cat((center - half, center + half), 1)[None],
        keypoints=rows[None, :, 23:].unflatten(2, (17, 2)),
    )
    (objects,) = head.detect(candidates, settings)

    poses, points = data[f'{case}_person_dets'], data[f'{case}_kp_dets']
    pose_objects, keypoint_objects = objects
    assert pose_objects.bboxes.shape == (info[case]['n_person'], 4)
    assert keypoint_objects.bboxes.shape == (info[case]['n_kp'], 4)
    close = dict(rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(pose_objects.bboxes, poses[:, :4], **close)
    np.testing.assert_allclose(pose_objects.scores, poses[:, 4], rtol=1e-4)
    keypoints = pose_objects.keypoints.reshape(len(poses), -1)
    np.testing.assert_allclose(keypoints, poses[:, 6:], **close)
    np.testing.assert_allclose(keypoint_objects.bboxes, points[:, :4], **close)
    np.testing.assert_allclose(keypoint_objects.scores, points[:, 4], rtol=1e-4)
    np.testing.assert_array_equal(keypoint_objects.labels, points[:, 5] - 1)

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
    model = MODELS.build(model_cfg().model)
    model.add_pred_to_datasample([objects], None, [sample], settings)
    found = sample.pred_instances
    np.testing.assert_allclose(found.bboxes, data[f'{case}_bboxes'], atol=0.5 + 1e-3)
    np.testing.assert_allclose(found.bbox_scores, data[f'{case}_scores'], rtol=1e-4)
    expected = data[f'{case}_poses']
    np.testing.assert_allclose(found.keypoints, expected[..., :2], **close)
    np.testing.assert_allclose(found.keypoint_scores, expected[..., 2], rtol=1e-4)
    np.testing.assert_array_equal(found.keypoints_fused.sum(0), data[f'{case}_n_fused'])
    assert found.keypoints_fused.sum() == info[case]['n_fused']
