# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""tools/dist_train.sh and dist_test.sh with two processes, on the CPU."""

import json
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.engine.weights_only import load_weights_only

CONFIG = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture(scope='module')
def script(repo):
    """Makes a function that runs a script and returns its output and exit code."""

    def run(name, *args, **environment):
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        done = subprocess.run(
            ['bash', f'tools/{name}', *map(str, args)],
            cwd=repo,
            env={**os.environ, 'PATH': path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        return done.stdout, done.returncode

    return run


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_toy_dataset(
        tmp_path_factory.mktemp('people') / 'data', num_train=4, num_val=5, image_size=(160, 120)
    )
    path = root / 'annotations/person_keypoints_val.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        # So large that keypoints count as found at any position.
        annotation |= dict(area=1e6, bbox=[0, 0, 1000, 1000])
    path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope='module')
def options(data):
    values = dict(data_root=data, input_size=128, max_epochs=1, batch_size=2)
    values |= {'default_hooks.checkpoint.interval': 1}
    values |= {f'{loader}_dataloader.num_workers': 0 for loader in ('train', 'val', 'test')}
    values |= {'test_dataloader.batch_size': 1}  # convolutions round differently in larger batches
    return ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]


@pytest.fixture(scope='module')
def trained(script, data, options):
    """The work directories of two machines, and the output of dist_train.sh on each.

    Two launches on this machine, of one process each, stand for the machines.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        place = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=str(probe.getsockname()[1]))
    works = [data.parent / f'machine {i}' for i in (0, 1)]  # with a blank

    def launch(machine):
        args = [CONFIG, 1, '--work-dir', works[machine], *options]
        return script('dist_train.sh', *args, **place, NODE_RANK=str(machine))

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(launch, (0, 1)))
    assert [code for _, code in done] == [0, 0], done
    return works, [printed for printed, _ in done]


def test_two_machines_train_together_and_the_first_writes(trained):
    works, printed = trained
    assert [text.count('Next: kapao test') for text in printed] == [1, 0]
    assert [(work / 'epoch_1.pth').exists() for work in works] == [True, False]
    assert 'Epoch(train) [1][1/1]' in printed[0]  # 4 images, 2 processes, 2 each: one iteration
    assert 'Epoch(val)' in printed[0]
    assert 'destroy_process_group' not in printed[0] + printed[1]


@pytest.fixture(scope='module')
def checkpoint(trained):
    """The trained checkpoint with a random head that predicts poses and keypoint objects."""
    found = load_weights_only(trained[0][0] / 'epoch_1.pth')
    generator = torch.Generator().manual_seed(0)
    for name, value in found['state_dict'].items():
        if name.startswith('head.'):
            value.normal_(generator=generator)
        if name.startswith('head.') and name.endswith('bias'):
            value.view(3, -1)[0, 5] = 9  # the first anchor's class is the pose
    path = trained[0][0] / 'another head.pth'
    torch.save(found, path)
    return path


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(script, run_tool, checkpoint, options, tmp_path):

    def flags(name):
        files = ['--out', tmp_path / f'{name}.json', '--dump', tmp_path / f'{name}.pkl']
        return ['--work-dir', tmp_path / name, *files, *options]

    assert run_tool('test.py', CONFIG, checkpoint, *flags('one')) is None
    printed, code = script('dist_test.sh', CONFIG, checkpoint, 2, *flags('two'))
    assert code == 0, printed

    one, two = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('one', 'two'))
    assert one == two
    assert one['coco/AP'] > 0
    one, two = (pickle.loads((tmp_path / f'{name}.pkl').read_bytes()) for name in ('one', 'two'))
    assert len(one) == len(two) == 5
    for ours, theirs in zip(one, two, strict=True):
        assert ours['img_path'] == theirs['img_path']
        for field in ('pred_instances', 'pred_keypoint_objects'):
            assert len(ours[field]['bboxes']) > 0
            for name, value in ours[field].items():
                np.testing.assert_array_equal(value, theirs[field][name])


@pytest.mark.slow
def test_an_error_of_all_processes_is_printed_once(script):
    printed, code = script('dist_train.sh', 'configs/kapao/gone.py', 2)
    assert code == 1
    lines = [line for line in printed.splitlines() if 'Warning' not in line and 'error' in line]
    assert len(lines) == 1
    assert lines[0].startswith('error: config file ')
    assert 'Traceback' not in printed


@pytest.mark.slow
def test_the_error_of_one_process_is_printed(script, data, options):
    broken = data.parent / 'broken'
    (broken / 'train2017').mkdir(parents=True)
    for part in ('annotations', 'val2017'):
        (broken / part).symlink_to(data / part)
    *good, last = sorted((data / 'train2017').iterdir())
    for image in good:
        (broken / 'train2017' / image.name).symlink_to(image)
    bad = broken / 'train2017' / last.name
    bad.write_bytes(b'no image')
    printed, code = script(
        'dist_train.sh', CONFIG, 2, *options, f'data_root={broken}', f'work_dir={broken / "work"}'
    )
    assert code == 1
    assert printed.count(f'error: image {bad} cannot be read') == 1
    assert 'Traceback' not in printed


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh'])
def test_missing_arguments_print_the_usage(script, name):
    printed, code = script(name, CONFIG)
    assert code == 2
    assert printed.startswith(f'usage: tools/{name} CONFIG ')


@pytest.mark.slow
def test_fsdp_trains_validates_and_saves_whole_checkpoints(script, data, options):
    widths = [32, 64, 96, 128]
    narrow = {
        'model.backbone.widen_factor': 0.125,
        'model.backbone.deepen_factor': 0.33,
        'model.neck.in_channels': widths,
        'model.neck.num_csp_blocks': 1,
        'model.head.in_channels': widths,
        'strategy.model_wrapper.device_id': 'cpu',
        'strategy.model_wrapper.auto_wrap_policy.min_num_params': 60000,  # the head has less
        'train_dataloader.batch_size': 2,
    }
    for part in ('train', 'val'):
        narrow[f'{part}_ann'] = f'annotations/person_keypoints_{part}.json'
    work = data.parent / 'fsdp'
    config = 'configs/kapao/kapao_l_coco_fsdp.py'
    values = [option for option in options if not option.startswith('batch_size')]
    values += [f'{key}={value}'.replace(' ', '') for key, value in narrow.items()]
    printed, code = script('dist_train.sh', config, 2, '--work-dir', work, *values)
    assert code == 0, printed
    assert 'Epoch(val) [1][3/3]' in printed  # 5 images on 2 processes, the same number on both
    found = load_weights_only(work / 'epoch_1.pth')
    assert found['state_dict']['head.head_module.convs.3.weight'].shape == (171, 128, 1, 1)
    momenta = [state['momentum_buffer'] for state in found['optimizer']['state'].values()]
    assert sum(m.numel() for m in momenta) > 1e5
    assert all(m.isfinite().all() for m in momenta)
