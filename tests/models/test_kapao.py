# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.datasets.transforms import Letterbox
from kapao_mm.errors import InputError
from kapao_mm.structures import Detections, KeypointObjects, PoseObjects
from kapao_mm.utils.config import load_config


def sample(ori_hw=(96, 128), input_wh=(256, 192)):
    """An image of a dataset that is scaled by two to fill the input."""
    return PoseDataSample(
        metainfo=dict(
            img_id=7,
            ori_shape=ori_hw,
            input_size=input_wh,
            input_scale=np.array(input_wh) / 2,
            input_center=np.array(input_wh) / 4,
        )
    )


def detected(keypoints=((40.0, 60), (100, 80)), square=(90.0, 60, 130, 100), label=0, kind=1):
    """Returns a pose object, and a keypoint object of a type."""
    return Detections(
        PoseObjects(
            np.array([[20.0, 40, 300, 120]]),
            np.array([0.9]),
            np.array([label]),
            np.array([keypoints]),
        ),
        KeypointObjects(np.array([square]), np.array([0.8]), np.array([kind])),
    )


@pytest.fixture
def add(model_cfg, inference_settings):
    """Adds the prediction from detected objects to a sample."""

    def add(detections, data, counts=(2,), **settings):
        model = MODELS.build(model_cfg(num_keypoints=list(counts)).model)
        model.add_pred_to_datasample([detections], None, [data], inference_settings(**settings))

    return add


@pytest.fixture
def model(model_cfg):
    torch.manual_seed(0)
    cfg = model_cfg()
    # Random weights give every output about the same score of 0.25.
    cfg.model.test_cfg.update(pose_score_thr=0.2, keypoint_score_thr=0.2)
    return MODELS.build(cfg.model).eval()


def test_objects_are_mapped_to_the_original_image_and_fused_there(add):
    data = sample()
    add(detected(), data)
    found = data.pred_instances
    np.testing.assert_allclose(found.bboxes, [[10, 20, 128, 60]])  # clipped to the image
    np.testing.assert_allclose(found.keypoints, [[[20, 30], [55, 40]]])
    np.testing.assert_allclose(found.keypoint_scores, [[0, 0.8]])
    np.testing.assert_array_equal(found.keypoints_fused, [[False, True]])
    np.testing.assert_allclose(found.pose_keypoints, [[[20, 30], [50, 40]]])
    np.testing.assert_array_equal(found.keypoints_visible, [[1, 1]])
    np.testing.assert_allclose(data.pred_keypoint_objects.bboxes, [[45, 30, 65, 50]])


def test_the_fusion_distance_is_in_px_of_the_original_image(add):
    moved = detected(keypoints=((40.0, 60), (18, 80)))  # 92 input px, 46 original px
    for distance, fused in ((50, True), (45, False)):
        data = sample()
        add(moved, data, fusion_distance=distance)
        assert data.pred_instances.keypoints_fused[0, 1] == fused


def test_a_pose_has_the_keypoints_of_its_category_only(add):
    data = sample()
    add(detected(label=1, kind=0), data, counts=(1, 1))
    found = data.pred_instances
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.pose_keypoints, [[[0, 0], [50, 40]]])
    # The keypoint object is of the other category.
    np.testing.assert_allclose(found.keypoints, found.pose_keypoints)
    np.testing.assert_array_equal(found.keypoints_visible, [[0, 1]])
    assert not found.keypoints_fused.any()


@pytest.mark.parametrize('input_size', [192, 1280])
@pytest.mark.parametrize('square', [False, True])
@pytest.mark.parametrize(('gap', 'fused'), [(49.5, True), (50.5, False)])
def test_the_same_scene_is_fused_the_same_at_every_input_scale(add, input_size, square, gap, fused):
    results = dict(
        img=np.zeros((480, 640, 3), np.uint8),
        bbox=np.array([[100.0, 100, 300, 400], [230 - gap, 200, 250 - gap, 220]]),
        keypoints=np.array([[[150.0, 150], [240, 210]]]),
    )
    results = Letterbox(input_size, square).transform(results)
    boxes, scale = results['bbox'], results.pop('input_scale')
    data = sample((480, 640), results['input_size'])
    data.set_metainfo(dict(input_scale=scale, input_center=results['input_center']))
    add(detected(results['keypoints'][0], boxes[1]), data)
    found = data.pred_instances
    assert found.keypoints_fused.tolist() == [[False, fused]]
    expected = [[150, 150], [240 - gap if fused else 240, 210]]
    np.testing.assert_allclose(found.keypoints[0], expected, atol=1e-6)


def test_the_border_does_not_move_the_centers_of_keypoint_objects(add):
    data = sample()
    add(detected(((40.0, 60), (10, 80)), (-20.0, 60, 20, 100)), data)
    np.testing.assert_allclose(data.pred_instances.keypoints[0, 1], [0, 40])
    np.testing.assert_allclose(data.pred_keypoint_objects.bboxes, [[0, 30, 10, 50]])


def change(model, use, **changes):
    model.settings[use] = replace(model.settings[use], **changes)


def test_a_batch_predicts_what_its_images_predict(model):
    images = torch.rand(2, 3, 128, 192)
    with torch.no_grad():
        batch = model(images, [sample(), sample()], mode='predict')
        single = [model(images[i : i + 1], [sample()], mode='predict')[0] for i in range(2)]
    for one, other in zip(batch, single, strict=True):
        assert len(one.pred_instances) > 0
        for name, value in one.pred_instances.items():
            np.testing.assert_allclose(value, other.pred_instances[name], rtol=1e-3, atol=1e-2)
        for name, value in one.pred_keypoint_objects.items():
            np.testing.assert_allclose(
                value, other.pred_keypoint_objects[name], rtol=1e-3, atol=1e-2
            )


def test_poses_of_each_category_have_its_keypoints(model_cfg):
    torch.manual_seed(0)
    cfg = model_cfg(num_keypoints=[3, 14])
    cfg.model.test_cfg.update(pose_score_thr=0.01, keypoint_score_thr=0.01, fusion_score_thr=0.01)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        (data,) = model(torch.rand(1, 3, 128, 192), [sample()], mode='predict')
    found = data.pred_instances
    assert set(found.labels.tolist()) == {0, 1}
    of_second = np.arange(17) >= 3
    own = of_second == (found.labels == 1)[:, None]  # (P, K)
    np.testing.assert_array_equal(found.keypoints_visible, own)
    assert not found.keypoints[~own].any() and found.keypoints[own].all()
    assert found.keypoints_fused.any() and not found.keypoints_fused[~own].any()


def test_an_image_without_objects_keeps_the_shapes(model):
    change(model, 'evaluation', pose_score_thr=0.999, keypoint_score_thr=0.999)
    with torch.no_grad():
        (data,) = model(torch.rand(1, 3, 128, 192), [sample()], mode='predict')
    assert data.pred_instances.keypoints.shape == (0, 17, 2)
    assert data.pred_instances.keypoint_scores.shape == (0, 17)
    assert data.pred_keypoint_objects.bboxes.shape == (0, 4)


@pytest.mark.parametrize('place', ['', 'validation.', 'tta.', 'demo.', 'picture.'])
def test_a_misspelled_setting_stops_the_building_of_the_model(repo, place):
    options = {f'model.test_cfg.{place}pose_score': 0.5}
    cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py', options)
    wrong = 'picture' if place == 'picture.' else f'{place}pose_score'
    with pytest.raises(InputError, match=rf'model\.test_cfg\.{wrong} is not a setting'):
        MODELS.build(cfg.model)


def test_validation_has_its_own_settings(model):
    data = dict(inputs=[torch.zeros(3, 128, 192, dtype=torch.uint8)], data_samples=[sample()])
    change(model, 'validation', pose_score_thr=0.999)
    with torch.no_grad():
        assert len(model.test_step(data)[0].pred_instances) > 0
        assert len(model.val_step(data)[0].pred_instances) == 0


def picture():
    """Returns a sample of no dataset, as MMPose's inferencers make it."""
    data = sample()
    del data.img_id
    return data


def test_images_of_no_dataset_get_the_settings_for_demo_in_every_step(model):
    change(model, 'demo', pose_score_thr=0.999)
    inputs = [torch.zeros(3, 128, 192, dtype=torch.uint8)]
    with torch.no_grad():
        for step in (model.test_step, model.val_step):
            counts = [
                len(step(dict(inputs=inputs, data_samples=[data]))[0].pred_instances)
                for data in (sample(), picture())
            ]
            assert counts[0] > 0 and counts[1] == 0
        (data,) = model(torch.zeros(1, 3, 128, 192), [picture()], mode='predict')
        assert len(data.pred_instances) == 0


def test_thresholds_of_a_call_change_only_the_settings_for_demo(model):
    model.demo_thresholds = dict(pose_score_thr=0.123)
    settings = model.settings
    expected = replace(settings['demo'], pose_score_thr=0.123)
    assert model.settings_for([picture()], 'evaluation') == expected
    for use in settings:
        assert model.settings_for([sample()], use) == settings[use]


def test_the_loss_reads_the_labels_of_the_samples(model):
    data = [sample(), sample()]
    for s, n in zip(data, (1, 0), strict=True):
        s.gt_instance_labels = InstanceData(
            bboxes=torch.tensor([[10.0, 10, 100, 120]])[:n],
            keypoints=torch.full((n, 17, 2), 50.0),
            keypoints_visible=torch.ones(n, 17),
            labels=torch.zeros(n, dtype=torch.long),
        )
    losses = model(torch.rand(2, 3, 128, 192), data, mode='loss')
    assert set(losses) == {'loss_box', 'loss_obj', 'loss_cls', 'loss_kpt'}
    assert all(value > 0 for value in losses.values())


def test_channels_last_keeps_the_result(model_cfg, model):
    cfg = model_cfg()
    cfg.model.channels_last = True
    other = MODELS.build(cfg.model).eval()
    other.load_state_dict(model.state_dict())
    weight = other.backbone.stage1[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        ours, theirs = (m(image, None, mode='tensor') for m in (other, model))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
