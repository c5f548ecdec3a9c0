# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The tool with a narrow network; tests/deploy/test_export.py tests what the files compute."""

import re
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest

from kapao_mm.engine.weights_only import TORCH_CAN

if not TORCH_CAN:
    pytest.skip('export needs torch 2.6 or later', allow_module_level=True)

import torch
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.datasets.toy import draw_scene
from kapao_mm.deploy import export
from kapao_mm.deploy.export import open_torchscript, write_torchscript
from kapao_mm.deploy.formats import next_command
from kapao_mm.deploy.metadata import ModelMetadata
from kapao_mm.deploy.runtime import KAPAORuntime
from kapao_mm.utils.config import load_config

TOOL = 'deployment/export.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'
WIDTHS = [32, 64, 96, 128]
OPTIONS = {
    'input_size': 128,
    'model.backbone.widen_factor': 0.125,
    'model.backbone.deepen_factor': 0.1,
    'model.neck.in_channels': WIDTHS,
    'model.head.in_channels': WIDTHS,
    'model.test_cfg.demo.pose_score_thr': 0.3,
    'model.test_cfg.demo.keypoint_score_thr': 0.3,
}
FLAGS = ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in OPTIONS.items())]


@pytest.fixture(scope='module')
def checkpoint(repo, tmp_path_factory):
    """Random weights with some scores above the thresholds for pictures."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(repo / CONFIG, OPTIONS).model).requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    drawing, _ = draw_scene(np.random.default_rng(0), 'crowd', (256, 256))
    levels = model.extract_feat(torch.from_numpy(drawing).permute(2, 0, 1)[None] / 255)
    for conv, level in zip(model.head.head_module.convs, levels, strict=True):
        conv.weight.normal_(std=1 / level.square().sum(1).mean().sqrt())
        rows = conv.weight.unflatten(0, (3, -1))
        rows[:, :4] *= 0.1  # the coordinates in px would magnify rounding errors
        rows[:, -34:] *= 0.1
    path = tmp_path_factory.mktemp('trained') / 'epoch_3.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


def read_report(text):
    """Returns the parts of the printed text by name."""
    found = re.fullmatch(
        r'(?P<files>.*): [\d.]+ MB, thresholds for (?P<use>\w+)\n'
        r'(?P<image>.*): (?P<poses>\d+) pose objects, (?P<points>\d+) keypoint objects; largest '
        r'differences from PyTorch: position (?P<px>[\de.-]+) px, score (?P<score>[\de.-]+)\n'
        r'Next: (?P<next>.*)\n',
        text,
    )
    assert found, text
    return found


@pytest.mark.slow
def test_an_openvino_file_finds_what_the_model_finds(run_tool, checkpoint, capfd):
    assert run_tool(TOOL, CONFIG, checkpoint, '--format', 'openvino', *FLAGS) is None
    out, err = capfd.readouterr()
    path = checkpoint.with_suffix('.xml')
    report = read_report(out)
    assert err == ''
    assert report['files'] == f'{path} and {path.with_suffix(".bin")}'
    assert (report['use'], report['image']) == ('demo', 'drawn people')
    assert int(report['poses']) > 0 < int(report['points'])
    assert report['next'] == f'kapao predict IMAGE... --model {path}'
    runtime = KAPAORuntime(path)
    assert runtime.metadata.config == 'kapao_n_toy'
    assert runtime.metadata.input_size == 128
    assert runtime.metadata.settings.pose_score_thr == 0.3
    constants = [
        n for n in openvino.Core().read_model(path).get_ops() if n.get_type_name() == 'Const'
    ]
    assert not [c for c in constants if c.get_element_type() == openvino.Type.f16]


@pytest.mark.slow
def test_an_int8_file_finds_about_the_same(run_tool, checkpoint, capfd, tmp_path):
    folder, out = tmp_path / 'photos', tmp_path / 'a.xml'
    folder.mkdir()
    for i in range(3):
        drawing, _ = draw_scene(np.random.default_rng(i), 'crowd', (200, 150))
        cv2.imwrite(str(folder / f'{i}.png'), drawing)
    flags = ('--format', 'openvino', '--out', out, '--int8', folder, '--int8-images', 2)
    assert run_tool(TOOL, CONFIG, checkpoint, *flags, *FLAGS) is None
    printed = capfd.readouterr().out
    assert f'Calibrating on 2 images of {folder} ...' in printed
    counts = re.search(
        r'float32: (\d+) pose objects, \d+ keypoint objects; .*; int8: (\d+) pose objects', printed
    )
    exact, rounded = map(int, counts.groups())
    assert exact > 10 and abs(rounded / exact - 1) < 0.5
    assert {path.name for path in tmp_path.iterdir()} == {'a.xml', 'a.bin', 'photos'}
    runtime = KAPAORuntime(out)
    assert runtime.metadata.precision == 'int8'
    (found,) = runtime([cv2.imread(str(folder / '0.png'))])
    assert len(found) > 0


def test_int8_is_only_for_openvino(run_tool, checkpoint, tmp_path, capfd):
    flags = ('--format', 'onnx', '--int8', tmp_path)
    assert run_tool(TOOL, CONFIG, checkpoint, *flags) == 2
    assert '--int8 is only for openvino' in capfd.readouterr().err


@pytest.mark.slow
def test_a_torchscript_file_is_compared_on_a_given_image(run_tool, checkpoint, capfd, tmp_path):
    picture, out = tmp_path / 'people.png', tmp_path / 'people.pt'
    cv2.imwrite(str(picture), draw_scene(np.random.default_rng(0), 'crowd', (200, 150))[0])
    flags = ('--format', 'torchscript', '--use', 'evaluation', '--image', picture, '--out', out)
    assert run_tool(TOOL, CONFIG, checkpoint, *flags, *FLAGS) is None
    stdout, err = capfd.readouterr()
    report = read_report(stdout)
    assert err == ''
    assert report['files'] == str(out)
    assert (report['use'], report['image']) == ('evaluation', str(picture))
    assert int(report['poses']) > 10
    assert report['next'] == f"torch.jit.load('{out}'), after import torchvision"
    metadata = ModelMetadata.from_json(open_torchscript(out)[0], 'a')
    assert (metadata.use, metadata.settings.pose_score_thr) == ('evaluation', 0.001)


@pytest.mark.slow
def test_detections_are_not_compared_if_there_are_none(run_tool, checkpoint, capfd, tmp_path):
    flags = ['--format', 'torchscript', '--out', tmp_path / 'a.pt', *FLAGS]
    nothing = [f'model.test_cfg.demo.{kind}_score_thr=0.999' for kind in ('pose', 'keypoint')]
    assert run_tool(TOOL, CONFIG, checkpoint, *flags, *nothing) is None
    out = capfd.readouterr().out
    assert 'drawn people: the file and PyTorch find nothing, so nothing was compared' in out
    assert 'largest differences' not in out


@pytest.mark.slow
def test_a_file_unlike_the_model_is_reported(run_tool, checkpoint, tmp_path, monkeypatch):
    def write_other(model, metadata, path):
        model.head.head_module.convs[0].bias.data += 1
        write_torchscript(model, metadata, path)

    monkeypatch.setitem(export.WRITERS, 'torchscript', write_other)
    flags = ('--format', 'torchscript', '--out', tmp_path / 'a.pt')
    message = run_tool(TOOL, CONFIG, checkpoint, *flags, *FLAGS)
    assert f'{tmp_path}/a.pt was written, but differs from the model: it finds' in message


@pytest.mark.parametrize('kind', ['not finite', 'damaged'])
def test_invalid_weights_are_not_exported(run_tool, checkpoint, tmp_path, kind):
    path = tmp_path / 'a.pth'
    content = torch.load(checkpoint)
    if kind == 'not finite':
        content['state_dict']['backbone.stem.conv.conv.weight'][0] = torch.nan
    torch.save(content, path)
    if kind == 'damaged':
        written = bytearray(path.read_bytes())
        half = len(written) // 2
        written[half : half + 64] = bytes(255 - byte for byte in written[half : half + 64])
        path.write_bytes(written)
    message = run_tool(TOOL, CONFIG, path, '--format', 'torchscript', *FLAGS)
    assert message.startswith('error: ') and '\n' not in message
    assert kind in message and str(path) in message
    assert list(tmp_path.iterdir()) == [path]


def test_tensorrt_is_followed_by_the_command_that_builds_the_engine():
    assert next_command('tensorrt', Path('runs/b_tensorrt.onnx'), 640) == (
        'trtexec --onnx=runs/b_tensorrt.onnx --saveEngine=runs/b_tensorrt.engine '
        '--minShapes=images:1x256x256x3 --optShapes=images:1x640x640x3 '
        '--maxShapes=images:8x640x640x3'
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--format', 'onnx', '--out', 'a.xml'], '--out a.xml: files for onnx end in .onnx'),
        (['--format', 'onnx', '--out', 'no/a.onnx'], 'no does not exist; create it first'),
        (['--format', 'tensorrt'], 'input_size is 128; for tensorrt it is at least 256'),
        (['--format', 'onnx', '--image', 'no.jpg'], 'no.jpg does not exist'),
        (['--format', 'onnx', '--cfg-options', 'model.head.num_keypoints=5'], 'does not fit'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_invalid_arguments_are_reported(run_tool, checkpoint, flags, message):
    assert message in run_tool(TOOL, CONFIG, checkpoint, *FLAGS, *flags)


def test_an_opset_is_only_for_onnx_and_in_its_range(run_tool, checkpoint, capfd):
    flags = ('--format', 'torchscript', '--opset', '18')
    assert run_tool(TOOL, CONFIG, checkpoint, *flags) == 2
    assert '--opset is only for formats that are made from ONNX' in capfd.readouterr().err
    assert run_tool(TOOL, CONFIG, checkpoint, '--format', 'onnx', '--opset', '17') == 2
