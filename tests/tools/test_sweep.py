# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

TOOL = 'analysis_tools/sweep.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'
KEY = 'model.head.keypoint_size'


@pytest.fixture
def sweep(run_tool, tmp_path):
    """Makes a function that runs a sweep in ``tmp_path``."""

    def run(key, *values, flags=(), options=()):
        options = ['--cfg-options', *options] if options else []
        work = ['--work-dir', tmp_path]
        return run_tool(TOOL, CONFIG, '--key', key, '--values', *values, *work, *flags, *options)

    return run


@pytest.fixture
def commands(monkeypatch):
    """The tools and arguments that a sweep started; none of them runs.

    The AP is highest at a size of keypoint objects of 0.05. Training fails at a size of 0.01, and
    testing at 0.02.
    """
    started = []

    def run(command, stdout, stderr):
        tool, *args = (str(part) for part in command[1:])
        started.append([Path(tool).name, *args])
        size = Config.fromfile(next(arg for arg in args if arg.endswith('config.py'))).model.head
        size = size.keypoint_size
        if size == dict(train=0.01, test=0.02).get(Path(tool).stem):
            stdout.write('loading\nerror: the loss is not finite\n')
            return subprocess.CompletedProcess(command, 1)
        if Path(tool).stem == 'test':
            out = Path(args[args.index('--out') + 1])
            out.parent.mkdir()
            out.write_text(json.dumps({'coco/AP': 0.5 - abs(size - 0.05), 'coco/AR': 0.25}))
        else:
            folder = Path(args[args.index('--work-dir') + 1])
            folder.mkdir(exist_ok=True)
            (folder / 'last_checkpoint').write_text(f'{folder}/epoch_1.pth')
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, 'run', run)
    return started


@pytest.mark.slow
def test_a_value_is_trained_and_tested(sweep, run_tool, repo, toy, tmp_path, monkeypatch):
    start = subprocess.run

    def run(command, **options):
        """Runs a tool in this process, which saves importing everything again."""
        if command[0] != sys.executable:
            return start(command, **options)
        end = run_tool(Path(command[1]).relative_to(repo / 'tools'), *command[2:])
        return subprocess.CompletedProcess(command, end is not None)

    monkeypatch.setattr(subprocess, 'run', run)
    quick = ['input_size=64', 'max_epochs=1', 'batch_size=2']
    quick += [f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')]
    sizes = str([0.1] * 17).replace(' ', '')
    assert sweep(KEY, sizes, options=[f'data_root={toy}', *quick]) is None

    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert Config.fromfile(folder / 'train/config.py').model.head.keypoint_size == [0.1] * 17
    with (tmp_path / 'results.csv').open() as file:
        (row,) = csv.DictReader(file)
    assert row[KEY] == sizes
    assert 0 <= float(row['coco/AP']) <= 1
    assert cv2.imread(str(tmp_path / 'results.png')) is not None


def test_a_table_and_the_best_value_are_printed(sweep, commands, read_tables, tmp_path, capsys):
    assert sweep(KEY, '0.1', '0.05') is None
    assert [command[0] for command in commands] == ['train.py', 'test.py'] * 2
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[:4] == [
        f'{KEY}=0.1',
        f'  {tmp_path}/0.1/train.log',
        f'  {tmp_path}/0.1/test.log',
        f'{KEY}=0.05',
    ]
    (table,) = read_tables(printed)
    assert table == [{KEY: '0.1', 'coco/AP': '0.4500'}, {KEY: '0.05', 'coco/AP': '0.5000'}]
    assert lines[-3:] == [
        f'best: {KEY}=0.05, coco/AP 0.5000',
        f'table: {tmp_path}/results.csv',
        f'plot: {tmp_path}/results.png',
    ]
    table = (tmp_path / 'results.csv').read_text().splitlines()
    assert table == [f'{KEY},coco/AP,coco/AR', '0.1,0.45,0.25', '0.05,0.5,0.25']


def test_another_metric_can_be_chosen(sweep, commands, capsys):
    assert sweep(KEY, '0.05', flags=['--metric', 'coco/AR']) is None
    assert 'coco/AR 0.2500' in capsys.readouterr().out
    started = len(commands)
    message = sweep(KEY, '0.05', flags=['--metric', 'AP'])
    assert message.startswith('error: the evaluation has no AP; it has coco/AP, coco/AP .5, ')
    assert len(commands) == started
    assert len(commands) == 2


def test_finished_values_are_not_run_again(sweep, commands):
    assert sweep(KEY, '0.05') is None
    commands.clear()
    assert sweep(KEY, '0.1', '0.05') is None
    assert [command[0] for command in commands] == ['train.py', 'test.py']
    assert all('0.1/config.py' in command[1] for command in commands)


@pytest.mark.slow
def test_values_that_fail_are_reported_and_the_others_continue(sweep, commands, tmp_path, capsys):
    failed = 'error: failed: 0.01, 0.02; the same command tries them again'
    assert sweep(KEY, '0.01', '0.02', '0.05') == failed
    printed = capsys.readouterr().out
    reason = '  failed: error: the loss is not finite\n'
    for log in ('0.01/train.log', '0.02/test.log'):
        assert f'  {tmp_path}/{log}\n{reason}' in printed
    assert printed.count('failed') == 4
    table = (tmp_path / 'results.csv').read_text().splitlines()
    assert table[1:] == ['0.01,,', '0.02,,', '0.05,0.5,0.25']
    commands.clear()
    assert sweep(KEY, '0.01', '0.02', '0.05') == failed
    # A stopped run is resumed; a finished one is tested.
    assert [command[0] for command in commands] == ['train.py', 'train.py', 'test.py']
    assert all('--resume' in command for command in commands[:2])


def test_no_plot_is_made_if_every_value_fails(sweep, commands, tmp_path):
    assert sweep(KEY, '0.01') == 'error: every value failed'
    assert not (tmp_path / 'results.png').exists()


def test_a_checkpoint_is_tested_without_training(sweep, commands, tmp_path):
    checkpoint = tmp_path / 'a.pth'
    checkpoint.touch()
    args = dict(flags=['--checkpoint', checkpoint], options=[f'{KEY}=0.1'])
    key = 'model.test_cfg.fusion_distance'
    assert sweep(key, '0', '50', **args) is None
    assert [command[0] for command in commands] == ['test.py'] * 2
    assert all(command[2] == str(checkpoint) for command in commands)
    tested = [Config.fromfile(command[1]).model.test_cfg.fusion_distance for command in commands]
    assert tested == [0, 50]
    later = (tmp_path / '0/metrics.json').stat().st_mtime + 1
    os.utime(checkpoint, (later, later))  # another model under the same name
    (tmp_path / '0/test').rmdir()
    assert sweep(key, '0', **args) is None
    assert len(commands) == 3


def test_a_folder_of_another_config_is_refused(sweep, commands, tmp_path):
    assert sweep(KEY, '0.05') is None
    message = sweep(KEY, '0.05', options=['max_epochs=3'])
    assert message.startswith(f'error: {tmp_path}/0.05 is of another config, checkpoint or')
    assert len(commands) == 2


def test_values_derived_from_a_top_level_variable_change_with_it(sweep, commands, tmp_path):
    assert sweep('input_size', '128', options=[f'{KEY}=0.1']) is None
    cfg = Config.fromfile(tmp_path / '128/config.py')
    assert cfg.train_dataloader.dataset.pipeline[1].input_size == 128


def test_several_processes_are_launched(sweep, commands):
    assert sweep(KEY, '0.05', flags=['--gpus', 2]) is None
    launch, test = commands
    assert launch[:2] == ['launch.py', '2']
    assert launch[2].endswith('/tools/train.py')
    assert launch[-2:] == ['--launcher', 'pytorch']
    assert test[0] == 'test.py'


@pytest.mark.slow
def test_a_key_that_the_config_lacks_is_refused(sweep, commands):
    key = 'model.test_cfg.fusion_distanze'
    message = sweep(key, '0', '50')
    assert message.startswith(f'error: {CONFIG} has no {key}')
    assert sweep(key, '0', '50', options=[f'{key}=1', f'{KEY}=0.05']) is None
    assert sweep('train_pipeline.2.max_shift', '0.2') is None
    assert sweep('train_pipeline.9.max_shift', '0.1').startswith('error:')


def test_a_value_given_twice_is_refused(sweep, commands):
    assert (
        sweep(KEY, '0.05', '0.05') == 'error: --values 0.05 0.05: two of them would share a folder'
    )
