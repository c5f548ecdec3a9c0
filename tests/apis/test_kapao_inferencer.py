# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.apis.kapao_inferencer import prediction_dict
from kapao_mm.configuration import load_config
from kapao_mm.errors import InputError
from kapao_mm.models.kapao import inference_settings


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py', {'input_size': 128})


@pytest.fixture(scope='module')
def untrained(cfg):
    return KAPAOInferencer(cfg, device='cpu')


@pytest.fixture(scope='module')
def checkpoint(cfg, tmp_path_factory):
    """Weights that see a person everywhere at the coarsest stride, and a nose one finer."""
    inferencer = KAPAOInferencer(cfg, device='cpu')
    head = inferencer.model.head.head_module
    for conv in head.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
    for conv, label in ((head.convs[3], 0), (head.convs[2], 1)):
        bias = conv.bias.detach().view(head.num_anchors, -1)
        bias[:, 4] = bias[:, 5 + label] = 5
        bias[:, 5 + head.num_classes :] = 0
    path = tmp_path_factory.mktemp('checkpoint') / 'a.pth'
    meta = {'dataset_meta': inferencer.model.dataset_meta}
    torch.save({'state_dict': inferencer.model.state_dict(), 'meta': meta}, path)
    return str(path)


@pytest.fixture(scope='module')
def trained(cfg, checkpoint):
    return KAPAOInferencer(cfg, checkpoint, device='cpu')


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((90, 120, 3), 90, np.uint8))
    return str(path)


def test_thresholds_are_those_for_pictures(cfg, untrained):
    test_cfg = load_config(cfg.filename).model.test_cfg
    found = untrained.model.settings['evaluation']  # what MMPose's inferencer runs
    assert found == inference_settings(test_cfg, 'pictures')
    assert inference_settings(test_cfg, 'pictures') != inference_settings(test_cfg)


def test_image_without_poses_gives_an_empty_prediction(untrained, image):
    result = next(untrained([image], return_vis=True))
    prediction = result['predictions'][0]
    assert prediction['image'] == image
    assert (prediction['width'], prediction['height']) == (120, 90)
    assert prediction['poses'] == prediction['keypoint_objects'] == []
    assert result['visualization'][0].shape == (90, 120, 3)


def test_predictions_have_what_the_samples_have(trained, image):
    (sample,) = next(trained([image], return_datasamples=True))['predictions']
    (prediction,) = next(trained([image]))['predictions']
    poses, points = sample.pred_instances, sample.pred_keypoint_objects
    assert len(prediction['poses']) == len(poses) > 0
    assert len(prediction['keypoint_objects']) == len(points) > 0
    assert {point['type'] for point in prediction['keypoint_objects']} == {'nose'}
    fused = np.array([pose['fused'] for pose in prediction['poses']])
    np.testing.assert_array_equal(fused, poses.keypoints_fused)
    assert fused[:, 0].any() and not fused[:, 1:].any()


def test_all_poses_of_a_prediction_are_drawn(cfg, checkpoint, image):
    options = {'input_size': 128, 'model.test_cfg.pictures.pose_score_thr': 0.1}
    unsure = load_config(cfg.filename, options)
    inferencer = KAPAOInferencer(unsure, checkpoint, device='cpu')
    with torch.no_grad():  # objectness 0.5 x class 0.4
        bias = inferencer.model.head.head_module.convs[3].bias.view(3, -1)
        bias[:, 4], bias[:, 5] = 0, -0.4
    result = next(inferencer([image], return_vis=True))
    assert 0.1 < result['predictions'][0]['poses'][0]['score'] < 0.3
    assert (result['visualization'][0] != 90).any()


def test_predictions_are_written_as_json(trained, image, tmp_path):
    (prediction,) = next(trained([image], pred_out_dir=str(tmp_path / 'out')))['predictions']
    assert json.loads((tmp_path / 'out' / 'a.json').read_text()) == prediction


def test_video_predictions_are_written_frame_by_frame(trained, tmp_path):
    path = str(tmp_path / 'a.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 5, (128, 64))
    for _ in range(3):
        writer.write(np.full((64, 128, 3), 90, np.uint8))
    writer.release()
    results = list(trained(path, pred_out_dir=str(tmp_path)))
    frames = json.loads((tmp_path / 'a.json').read_text())
    assert [frame['frame_id'] for frame in frames] == [0, 1, 2]
    assert frames[2]['instances'] == results[2]['predictions'][0]


def test_unreadable_image_is_named_and_the_next_one_works(trained, image, tmp_path):
    broken = tmp_path / 'broken.jpg'
    broken.write_text('no image')
    with pytest.raises(InputError, match=r'broken\.jpg'):
        next(trained([str(broken)]))
    assert next(trained([image]))['predictions']


def test_checkpoint_of_another_model_is_refused(repo, checkpoint):
    crowdpose = load_config(repo / 'configs/kapao/kapao_s_crowdpose.py')
    with pytest.raises(InputError, match=r'a\.pth does not fit'):
        KAPAOInferencer(crowdpose, checkpoint, device='cpu')


def test_thresholds_that_mean_nothing_here_are_refused(trained, image):
    with pytest.raises(ValueError, match='kpt_thr'):
        next(trained([image], kpt_thr=0.5))


def test_prediction_dict_has_every_number():
    sample = PoseDataSample(metainfo=dict(img_path='x/a.jpg', ori_shape=(90, 120)))
    sample.pred_instances = InstanceData(
        bboxes=np.array([[1, 2, 30, 40.5]], np.float32),
        bbox_scores=np.array([0.9], np.float32),
        keypoints=np.array([[[3, 4], [5, 6]]], np.float32),
        keypoint_scores=np.array([[0.8, 0]], np.float32),
        keypoints_fused=np.array([[True, False]]),
        labels=np.array([0]),
    )
    sample.pred_keypoint_objects = InstanceData(
        bboxes=np.array([[2, 3, 4, 5]], np.float32), scores=np.array([0.8]), labels=np.array([1])
    )
    names = {0: 'nose', 1: 'tail'}
    meta = dict(keypoint_id2name=names, categories=[dict(name='cat', keypoint_ids=[0, 1])])
    assert prediction_dict(sample, meta) == {
        'image': 'x/a.jpg',
        'width': 120,
        'height': 90,
        'keypoint_names': ['nose', 'tail'],
        'poses': [
            {
                'bbox': [1, 2, 30, 40.5],
                'score': 0.9,
                'keypoints': [[3, 4, 0.8], [5, 6, 0]],
                'fused': [True, False],
            }
        ],
        'keypoint_objects': [{'bbox': [2, 3, 4, 5], 'score': 0.8, 'type': 'tail'}],
    }


def test_prediction_dict_has_the_keypoints_of_each_category():
    sample = PoseDataSample(metainfo=dict(img_path='x/a.jpg', ori_shape=(90, 120)))
    sample.pred_instances = InstanceData(
        bboxes=np.ones((2, 4)),
        bbox_scores=np.array([0.9, 0.8]),
        keypoints=np.arange(12.0).reshape(2, 3, 2),
        keypoint_scores=np.full((2, 3), 0.5),
        keypoints_fused=np.array([[False, True, False], [False, False, False]]),
        labels=np.array([1, 0]),
    )
    sample.pred_keypoint_objects = InstanceData(
        bboxes=np.ones((1, 4)), scores=np.array([0.5]), labels=np.array([1])
    )
    names = {0: 'cat/nose', 1: 'car/hood', 2: 'car/wheel'}
    categories = [dict(name='cat', keypoint_ids=[0]), dict(name='car', keypoint_ids=[1, 2])]
    found = prediction_dict(sample, dict(keypoint_id2name=names, categories=categories))
    assert found['keypoint_names'] == {'cat': ['cat/nose'], 'car': ['car/hood', 'car/wheel']}
    car, cat = found['poses']
    assert (car['category'], cat['category']) == ('car', 'cat')
    assert (car['keypoints'], cat['keypoints']) == ([[2, 3, 0.5], [4, 5, 0.5]], [[6, 7, 0.5]])
    assert (car['fused'], cat['fused']) == ([True, False], [False])
    assert found['keypoint_objects'][0]['type'] == 'car/hood'
