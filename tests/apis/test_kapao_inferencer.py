# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.configuration import load_config
from kapao_mm.errors import InputError
from kapao_mm.models.kapao import inference_settings


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py', {'input_size': 128})


@pytest.fixture(scope='module')
def untrained(cfg):
    return KAPAOInferencer(cfg, random_weights=True, device='cpu')


@pytest.fixture(scope='module')
def checkpoint(cfg, untrained, tmp_path_factory):
    """Weights that see a person everywhere at the coarsest stride, and a nose one finer."""
    model = MODELS.build(cfg.model)
    head = model.head.head_module
    for conv in head.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
    for conv, label in ((head.convs[3], 0), (head.convs[2], 1)):
        bias = conv.bias.detach().view(head.num_anchors, -1)
        bias[:, 4] = bias[:, 5 + label] = 5
        bias[:, 5 + head.num_classes :] = 0
    path = tmp_path_factory.mktemp('checkpoint') / 'a.pth'
    meta = {'dataset_meta': untrained.model.dataset_meta}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
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


@pytest.mark.parametrize(('amp', 'dtype'), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_network_is_prepared_for_inference(cfg, amp, dtype):
    model = KAPAOInferencer(cfg, random_weights=True, amp=amp, device='cpu').model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert next(model.neck.parameters()).dtype == dtype


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


def test_random_weights_have_to_be_asked_for(cfg):
    with pytest.raises(InputError, match='no weights given: .* or random_weights=True'):
        KAPAOInferencer(cfg, device='cpu')


def test_a_checkpoint_on_a_server_predicts_as_the_file_does(
    cfg, trained, image, checkpoint, served
):
    folder, server = served
    shutil.copy(checkpoint, folder / 'a.pth')
    remote = KAPAOInferencer(cfg, server.url('a.pth'), device='cpu')
    assert next(remote([image]))['predictions'] == next(trained([image]))['predictions']


def test_a_checkpoint_on_a_server_that_runs_code_or_is_another_model_is_refused(
    cfg, repo, checkpoint, served, tmp_path
):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    folder, server = served
    shutil.copy(checkpoint, folder / 'a.pth')
    crowdpose = load_config(repo / 'configs/kapao/kapao_s_crowdpose.py')
    with pytest.raises(InputError, match='does not fit'):
        KAPAOInferencer(crowdpose, server.url('a.pth'), device='cpu')
    torch.save(torch.load(checkpoint) | {'extra': Runs()}, folder / 'b.pth')
    with pytest.raises(InputError, match='cannot be read safely'):
        KAPAOInferencer(cfg, server.url('b.pth'), device='cpu')
    assert not (tmp_path / 'ran').exists()


def test_thresholds_that_mean_nothing_here_are_refused(trained, image):
    with pytest.raises(ValueError, match='kpt_thr'):
        next(trained([image], kpt_thr=0.5))
