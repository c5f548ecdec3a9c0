# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint
from mmpose.registry import MODELS

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import check_checkpoint
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.utils.config import load_config

TOOL = 'misc/publish_model.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'
METAINFO = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
WIDTHS = [32, 64, 96, 128]
OPTIONS = {
    'input_size': 128,
    'model.backbone.widen_factor': 0.125,
    'model.neck.in_channels': WIDTHS,
    'model.head.in_channels': WIDTHS,
    'model.test_cfg.demo.pose_score_thr': 0.1,
}


@pytest.fixture
def config(repo):
    return load_config(repo / CONFIG, OPTIONS)


@pytest.fixture
def trained(config, tmp_path):
    """A checkpoint with the entries that MMEngine writes."""
    torch.manual_seed(0)
    weights, raw = (MODELS.build(config.model).state_dict() for _ in range(2))
    path = tmp_path / 'epoch_3.pth'
    checkpoint = dict(
        meta=dict(
            epoch=3,
            iter=6,
            seed=0,
            time='20250101_000000',
            experiment_name='a',
            cfg=config.pretty_text,
            dataset_meta=METAINFO,
            mmengine_version='0.10.7',
        ),
        state_dict=weights,
        ema_state_dict={f'module.{name}': value for name, value in raw.items()},
        optimizer=dict(state={0: dict(step=torch.tensor(6.0))}),
        param_schedulers=[],
        message_hub=dict(log_scalars={}),
    )
    torch.save(checkpoint, path)
    return path


def publish(run_tool, source, out, *flags):
    """Runs the tool, and returns the file that it wrote."""
    before = set(out.parent.iterdir())
    assert run_tool(TOOL, source, out, *flags) is None
    (path,) = set(out.parent.iterdir()) - before
    return path


def test_averaged_weights_and_entries_for_inference_are_kept(run_tool, trained, tmp_path, capsys):
    path = publish(run_tool, trained, tmp_path / 'kapao_n.pth')
    content = path.read_bytes()
    assert path.name == f'kapao_n-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    before, after = load_weights_only(trained), load_weights_only(path)
    assert set(after) == {'meta', 'state_dict'}
    assert set(after['meta']) == {'cfg', 'dataset_meta', 'mmengine_version'}
    np.testing.assert_array_equal(after['meta']['dataset_meta']['sigmas'], METAINFO['sigmas'])
    torch.testing.assert_close(after['state_dict'], dict(before['state_dict']), rtol=0, atol=0)
    assert len(content) < 0.6 * trained.stat().st_size
    assert capsys.readouterr().out == (
        f'{path}: {len(content) / 1e6:.1f} MB; '
        'left out: ema_state_dict, message_hub, optimizer, param_schedulers\n'
        f'Next: kapao test CONFIG {path}\n'
    )


def test_the_same_weights_give_the_same_file(run_tool, trained, tmp_path):
    (tmp_path / 'again').mkdir()
    paths = [publish(run_tool, trained, p / 'a.pth') for p in (tmp_path, tmp_path / 'again')]
    assert paths[0].name == paths[1].name
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(('flags', 'tolerance'), [((), 0), (('--half',), 2e-2)])
def test_predictions_do_not_change(run_tool, config, trained, tmp_path, flags, tolerance):
    path = publish(run_tool, trained, tmp_path / 'a.pth', *flags)
    model = MODELS.build(config.model).eval()
    check_checkpoint(path, model)
    image = torch.rand(1, 3, 128, 128)
    grids = []
    for file in (trained, path):
        load_checkpoint(model, str(file))
        with torch.no_grad():
            grids.append(model.head(model.extract_feat(image)))
    torch.testing.assert_close(*grids, rtol=0, atol=tolerance)


def test_half_precision_halves_the_file_and_keeps_integers(run_tool, trained, tmp_path):
    whole = publish(run_tool, trained, tmp_path / 'a.pth')
    half = publish(run_tool, trained, tmp_path / 'a.pth', '--half')
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    found = load_weights_only(half)['state_dict']
    assert {value.dtype for value in found.values()} == {torch.float16, torch.int64}


@pytest.mark.slow
def test_the_inferencer_loads_a_published_file(run_tool, config, trained, tmp_path):
    path = publish(run_tool, trained, tmp_path / 'a.pth', '--half')
    picture = tmp_path / 'a.jpg'
    cv2.imwrite(str(picture), np.full((96, 128, 3), 114, np.uint8))
    (result,) = KAPAOInferencer(config, str(path), device='cpu')(str(picture))
    assert len(result['predictions'][0]['poses']) > 0


def test_a_weight_too_large_for_half_precision_is_reported(run_tool, trained, tmp_path):
    checkpoint = load_weights_only(trained)
    checkpoint['state_dict']['backbone.stem.conv.bn.running_var'][0] = 1e6
    torch.save(checkpoint, trained)
    message = run_tool(TOOL, trained, tmp_path / 'a.pth', '--half')
    assert 'backbone.stem.conv.bn.running_var is too large for float16' in message
    assert list(tmp_path.iterdir()) == [trained]


def test_a_damaged_checkpoint_is_not_published(run_tool, trained, tmp_path):
    trained.write_bytes(trained.read_bytes()[:-100])
    assert 'cannot be read safely' in run_tool(TOOL, trained, tmp_path / 'a.pth')
    assert list(tmp_path.iterdir()) == [trained]


@pytest.mark.parametrize('part', ['state_dict', 'ema_state_dict'])
def test_weights_that_are_not_finite_are_not_published(run_tool, trained, tmp_path, part):
    checkpoint = load_weights_only(trained)
    list(checkpoint[part].values())[3][0] = torch.nan
    torch.save(checkpoint, trained)
    message = run_tool(TOOL, trained, tmp_path / 'a.pth')
    assert message.startswith(f'error: checkpoint {trained} is of no use: 1 weights are not finite')
    assert list(tmp_path.iterdir()) == [trained]
