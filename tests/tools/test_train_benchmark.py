# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest
import torch

TOOL = 'analysis_tools/train_benchmark.py'
TINY = ['configs/kapao/kapao_n_coco.py', '--input-size', 64, '--batch-size', 2, '--iters', 1]


@pytest.fixture(scope='module')
def benchmark(load_file):
    return load_file(f'tools/{TOOL}')


@pytest.fixture
def one_thread(monkeypatch):
    """Here and in processes started from here: sums over two threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('MKL_NUM_THREADS', '1')
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_a_table_shows_what_each_switch_makes_of_steps_and_loading(
    run_tool, run_jobs_here, tmp_path, capsys
):
    run_jobs_here(TOOL, apart=lambda job: not job['options'] and not job['loading'])
    out = tmp_path / 'a/figures.json'
    switches = ['--switches', 'checkpoint_activations', 'image_cache']
    options = ['--cfg-options', 'train_dataloader.num_workers=0']
    assert run_tool(TOOL, *TINY, *switches, '--out', out, *options) is None
    report = json.loads(out.read_text())
    assert (report['input_size'], report['batch_size'], report['iterations']) == (64, 2, 1)
    assert list(report['steps']) == ['baseline', 'checkpoint_activations']
    plain, recomputed = report['steps'].values()
    assert plain['loss'] == recomputed['loss'] > 0
    assert plain['images_per_s'] > 0 and plain['peak_bytes'] > 0
    assert list(report['loading']) == ['from files', 'image_cache=ram']
    printed = capsys.readouterr().out
    assert 'input 64 px, batch 2, median of 1 iterations' in printed
    for name in ('baseline', 'checkpoint_activations', 'from files', 'image_cache=ram'):
        (line,) = (line for line in printed.splitlines() if line.startswith(name))
        assert 'failed' not in line
    assert printed.endswith(f'figures: {out}\n')


def test_a_row_that_fails_names_its_reason_and_the_others_follow(benchmark, monkeypatch, capsys):
    def start(folder, options):
        if not options:
            return dict(error='torch.OutOfMemoryError: CUDA out of memory')
        return dict(images_per_s=2.0, peak_bytes=10**9, loss=3.0)

    monkeypatch.setattr(benchmark, 'start_job', start)
    rows = benchmark.measure_steps(None, ['channels_last', 'bfloat16'])
    assert list(rows) == ['baseline', 'channels_last', 'bfloat16', 'fastest', 'smallest']
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=1) == [
        'baseline',
        'failed: torch.OutOfMemoryError: CUDA out of memory',
    ]
    assert second.split() == ['channels_last', '2.00', '-', '1.000', '3']


def test_the_switches_that_help_are_put_together(benchmark):
    speed = dict(
        baseline=1,
        channels_last=3,
        bfloat16=2,
        float16=2.5,
        checkpoint_activations=0.8,
        compile_network=1.01,
    )
    rows = {name: dict(images_per_s=value) for name, value in speed.items()}
    rows['fastest'] = dict(error='failed')
    assert benchmark.helping(rows, 'images_per_s', 1) == ['channels_last', 'float16']
    assert benchmark.helping(rows, 'images_per_s', -1) == ['checkpoint_activations']
    del rows['baseline']  # it ran out of memory
    assert 'compile_network' in benchmark.helping(rows, 'images_per_s', 1)


def test_another_optimizer_wrapper_is_refused(run_tool):
    message = run_tool(TOOL, *TINY, '--cfg-options', 'optim_wrapper.type=OptimWrapper')
    assert 'set optim_wrapper.type to KAPAOOptimWrapper' in message
