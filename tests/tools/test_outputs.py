# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tools check their outputs before they work, and a full disk leaves no incomplete files."""

import errno
from pathlib import Path

import pytest

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.engine.weights_only import TORCH_CAN
from kapao_mm.errors import InputError

TOY = 'configs/kapao/kapao_n_toy.py'
FILE = '{tmp_path}/file'  # a file, below which nothing can be written


@pytest.fixture
def places(tmp_path):
    """Makes a function that fills in a folder with a file ``file`` and folders ``folder.*``."""
    (tmp_path / 'file').write_text('')
    for suffix in ('json', 'py', 'pkl', 'png'):
        (tmp_path / f'folder.{suffix}').mkdir()

    return lambda args: [arg.format(tmp_path=tmp_path) for arg in args]


@pytest.fixture
def no_work(monkeypatch):
    """Fails as soon as a tool starts its work."""

    def work(*args, **kwargs):
        raise AssertionError('the work began before the output was checked')

    monkeypatch.setattr('mmengine.runner.Runner.__init__', work)
    monkeypatch.setattr('mmpose.registry.MODELS.build', work)
    monkeypatch.setattr('mmpose.registry.DATASETS.build', work)


TEST = ['test.py', TOY, 'CHECKPOINT', '--work-dir', '{tmp_path}/work']
TRAIN = ['train.py', TOY]
ANALYSIS = 'analysis_tools'
COMPARE = [f'{ANALYSIS}/compare_predictions.py', TOY, 'a.pth', '--model-files', 'a.onnx']
SWEEP = [f'{ANALYSIS}/sweep.py', TOY, '--key', 'model.head.keypoint_size', '--values', '1']
FAULTS = [
    ([*TEST, '--out', '{tmp_path}/a.txt'], 'a.txt must end in .json or .yaml or .yml'),
    ([*TEST, '--out', '{tmp_path}/a'], 'a must end in .json'),
    ([*TEST, '--out', f'{FILE}/a.json'], 'file cannot be written to'),
    ([*TEST, '--out', '{tmp_path}/folder.json'], 'folder.json is a folder'),
    ([*TEST, '--out', '/proc/a.json'], 'folder /proc cannot be written to'),
    ([*TEST, '--dump', '{tmp_path}/a.json'], 'a.json must end in .pkl or .pickle'),
    ([*TEST, '--dump', f'{FILE}/a.pkl'], 'cannot be written to'),
    ([*TEST, '--dump', '{tmp_path}/folder.pkl'], 'folder.pkl is a folder'),
    ([*TEST, '--format-only', f'{FILE}/a'], 'file cannot be written to'),
    ([*TEST, '--show-dir', f'{FILE}/a'], 'file/a cannot be written to'),
    (['test.py', TOY, 'CHECKPOINT', '--work-dir', FILE], 'file cannot be written to'),
    ([*TRAIN, '--work-dir', FILE], 'file cannot be written to'),
    ([*TRAIN, '--work-dir', '/proc/work'], '/proc/work cannot be written to'),
    ([*TRAIN, '--work-dir', '{tmp_path}', '--show-dir', FILE], 'file cannot be written to'),
    (
        [*TRAIN, '--work-dir', '{tmp_path}', '--cfg-options', 'default_hooks.checkpoint=None'],
        'default_hooks.checkpoint is None, so the run would keep no weights',
    ),
    ([f'{ANALYSIS}/eval_results.py', TOY, 'a.json', '--out', '{tmp_path}/a.csv'], 'must end in'),
    ([f'{ANALYSIS}/plot_schedule.py', TOY, '--out', '{tmp_path}/a.doc'], 'a.doc must end in '),
    ([f'{ANALYSIS}/plot_schedule.py', TOY, '--out', f'{FILE}/a.png'], 'cannot be written'),
    ([f'{ANALYSIS}/optimize_anchors.py', TOY, '--out', f'{FILE}/a.py'], 'cannot be written'),
    ([f'{ANALYSIS}/optimize_anchors.py', TOY, '--out', '{tmp_path}/a.txt'], 'must end in .py'),
    ([f'{ANALYSIS}/benchmark.py', 'predict', TOY, '--out', '{tmp_path}/a.png'], 'end in .json'),
    *(
        ([f'{ANALYSIS}/benchmark.py', command, TOY, '--out', f'{FILE}/a.json'], 'be written')
        for command in ('predict', 'postprocess', 'train', 'train-parts')
    ),
    ([*COMPARE, '--out', f'{FILE}/a.json'], 'be written'),
    pytest.param(
        ['deployment/export.py', TOY, 'a.pth', '--format', 'onnx', '--out', '/proc/a.onnx'],
        'cannot be written to',
        marks=pytest.mark.skipif(not TORCH_CAN, reason='export needs torch 2.6 or later'),
    ),
    (['misc/publish_model.py', 'a.pth', '/proc/a.pth'], 'cannot be written to'),
    (['model_converters/official_to_mm.py', 'a.pt', '/proc/a.pth'], 'cannot be written to'),
    ([*SWEEP, '--work-dir', FILE], 'cannot be written to'),
    (
        [*SWEEP, '--work-dir', '{tmp_path}', '--metric', 'coco/PCK'],
        'the evaluation has no coco/PCK; it has coco/AP',
    ),
]


@pytest.mark.parametrize(('args', 'message'), FAULTS)
def test_a_wrong_output_is_reported_before_the_work(run_tool, places, no_work, args, message):
    found = run_tool(*places(args))
    assert isinstance(found, str)
    assert found.startswith('error: ')
    assert message in found


@pytest.mark.slow
def test_a_missing_save_best_metric_is_reported_before_training(run_tool, toy, tmp_path):
    options = [f'data_root={toy}', 'default_hooks.checkpoint.save_best=coco/PCK']
    message = run_tool('train.py', TOY, '--work-dir', tmp_path, '--cfg-options', *options)
    assert message.startswith("error: save_best='coco/PCK' of SafeCheckpointHook")
    assert not list(tmp_path.glob('*.pth'))


@pytest.fixture
def full_disk(monkeypatch):
    """Makes flushing any file to the disk fail, as on a full disk."""

    def fail(file):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', fail)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['schedule.png', 'deep/er/schedule.png'])
def test_a_full_disk_is_reported_and_leaves_no_incomplete_plot(run_tool, full_disk, tmp_path, name):
    args = [TOY.replace('toy', 'coco'), '--iters-per-epoch', 3, '--out', tmp_path / name]
    message = run_tool('analysis_tools/plot_schedule.py', *args)
    assert message == f'error: {tmp_path / name} cannot be written: No space left on device'
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_a_full_disk_is_reported_while_a_toy_dataset_is_written(full_disk, tmp_path):
    with pytest.raises(InputError, match='person_keypoints_train.json cannot be written: No space'):
        make_toy_dataset(tmp_path, num_train=1, num_val=1, image_size=(64, 64))
    assert not list(Path(tmp_path).rglob('*.json'))
