# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.apis import KAPAOInferencer, load_predictor
from kapao_mm.datasets import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py', {'input_size': 128})


@pytest.fixture(scope='module')
def checkpoint(cfg, tmp_path_factory):
    """Writes a checkpoint as training does: with the config and the metainfo inside."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for conv in model.head.head_module.convs:
        conv.bias.detach().view(3, -1)[:, 4:6] = 1  # people
    metainfo = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
    meta = dict(cfg=cfg.pretty_text, dataset_meta=metainfo)
    path = tmp_path_factory.mktemp('checkpoint') / 'a.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def test_a_checkpoint_is_enough(cfg, checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    alone = load_predictor(checkpoint, device='cpu')
    with_config = KAPAOInferencer(cfg, checkpoint, device='cpu')
    settings = dict(pose_score_thr=0.0, keypoint_score_thr=0.0, max_objects=300)
    (first,), (second,) = (model.predict(image, **settings) for model in (alone, with_config))
    assert len(first) > 0
    np.testing.assert_equal(vars(first.prediction), vars(second.prediction))
    assert alone.input_size == 128
    assert alone.metainfo == with_config.metainfo


def test_predict_finds_what_a_call_as_in_mmpose_finds(checkpoint, tmp_path):
    import cv2

    rng = np.random.default_rng(1)
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, rng.integers(0, 256, (70, 150, 3), dtype=np.uint8))
    model = load_predictor(checkpoint, device='cpu')
    model.settings = model.model.settings['demo'] = model.settings.changed(
        pose_score_thr=0.0, keypoint_score_thr=0.0, max_objects=300
    )
    (result,) = model.predict(path)
    (expected,) = next(model(path))['predictions']
    assert len(result) > 0
    assert result.to_dict() == expected


def test_weights_can_be_named_by_the_config_too(checkpoint):
    model = load_predictor(checkpoint, 'kapao-n', device='cpu')
    assert (model.input_size, model.metainfo.keypoint_names[0]) == (1280, 'nose')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(model='no.pth'), r'checkpoint no\.pth does not exist'),
        (dict(model='no.onnx'), r'no\.onnx does not exist'),
        (dict(model='a.onnx', config='kapao_n_coco'), 'has its config inside'),
        (dict(model='a.xml', device='cuda'), 'an OpenVINO file runs on the CPU'),
        (dict(model='no.pth', device='nonsense'), 'device nonsense cannot be used'),
        (dict(model='no.pth', threads=0), 'threads must be at least 1, got 0'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        load_predictor(**arguments)


@pytest.mark.slow
def test_importing_the_names_of_the_room_is_light(repo):
    names = 'KAPAORuntime, Result'
    code = f'import sys; from kapao_mm.apis import {names}; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=repo).returncode == 0
