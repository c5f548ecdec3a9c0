# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The sub-commands on small inputs; tests/analysis tests their parts."""

import json

import cv2
import numpy as np
import pytest
import torch

from kapao_mm.analysis.predict_speed import measure
from kapao_mm.analysis.predictors import build_model
from kapao_mm.analysis.train_speed import measure_step
from kapao_mm.datasets.toy import make_toy_dataset

TOOL = 'analysis_tools/benchmark.py'
CONFIG = 'configs/kapao/kapao_n_coco.py'
PEOPLE = 3


@pytest.fixture
def benchmark(run_tool, tmp_path, capsys):
    """Makes a function that runs a sub-command and returns what it printed and its figures."""
    out = tmp_path / 'a/figures.json'

    def run(command, *args):
        assert run_tool(TOOL, command, *args, '--out', out) is None
        printed = capsys.readouterr().out
        plot = out.with_suffix('.png')
        assert plot.exists() == (f'plot: {plot}' in printed)
        assert f'\nfigures: {out}\n' in printed
        return printed, json.loads(out.read_text())

    return run


@pytest.fixture
def images(tmp_path):
    """A folder of two pictures."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, size in dict(a=(60, 90), b=(90, 60)).items():
        image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), image)
    return folder


@pytest.mark.slow
def test_predict_measures_every_combination(
    benchmark, measure_here, read_tables, tiny_config, images
):
    measure_here(
        apart=lambda function, *args: (
            function is measure and args[0]['backend'] == 'torch' and args[0]['batch_size'] == 1
        )
    )
    options = ['--input-sizes', '64x128', '--batch-sizes', 1, 2, '--runs', 2, '--people', PEOPLE]
    options += ['--backends', 'torch', 'torchscript', '--precisions', 'bfloat16', 'float32']
    printed, report = benchmark('predict', tiny_config, *options, '--images', images)
    keys = ('backend', 'precision', 'input_hw', 'batch_size')
    assert [tuple(row[key] for key in keys) for row in report['rows']] == [
        (backend, precision, [64, 128], batch)
        for backend in ('torch', 'torchscript')
        for precision in ('bfloat16', 'float32')
        for batch in (1, 2)
    ]
    for row in report['rows']:
        if (row['backend'], row['precision']) == ('torchscript', 'bfloat16'):
            assert row['error'] == 'torchscript has float32 only, not bfloat16'
            continue
        network = ['forward', 'NMS'] if row['backend'] == 'torch' else ['forward + NMS']
        assert list(row['parts']) == ['pre-processing', *network, 'fusion']
        total = row['total']['median_ms']
        assert 0 < max(part['median_ms'] for part in row['parts'].values()) < total
        assert row['total']['p95_ms'] >= total
        assert row['images_per_s'] == pytest.approx(row['batch_size'] / total * 1000)
    assert report['rows'][0]['peak_bytes'] > 1e6  # it had a process of its own
    assert (report['use'], report['runs'], report['people']) == ('evaluation', 2, PEOPLE)
    assert 'torch' in report['machine']
    assert '2 images, thresholds for evaluation' in printed
    assert f'random weights; NMS and fusion of {PEOPLE} synthetic people' in printed
    (table,) = read_tables(printed)
    names = [[row[key] for key in ('config', 'backend', 'precision', 'input')] for row in table]
    assert names == [['tiny', row['backend'], row['precision'], '64x128'] for row in report['rows']]
    assert 'plot' not in printed  # one size makes no plot


@pytest.mark.slow
def test_predict_draws_images_and_plots_several_sizes(benchmark, measure_here, tiny_config):
    measure_here()
    printed, _ = benchmark('predict', tiny_config, '--input-sizes', 64, 128, '--runs', 1)
    assert '\n32 images, thresholds for evaluation\nno checkpoint: random weights' in printed
    assert 'plot: ' in printed


@pytest.mark.slow
def test_predict_reports_rows_that_fail_and_goes_on(
    benchmark, measure_here, read_tables, tiny_config, images, tmp_path
):
    measure_here()
    bad, good, noise = (tmp_path / name for name in ('bad.pth', 'good.pth', 'noise.onnx'))
    torch.save(dict(state_dict={}), bad)
    torch.save(dict(state_dict=build_model(tiny_config, None).state_dict()), good)
    noise.write_text('noise')
    files = [tiny_config, bad, tiny_config, good, noise]
    options = ['--backends', 'torch', 'onnxruntime', '--images', images, '--runs', 1]
    printed, report = benchmark('predict', *files, *options)
    failed, not_exported, measured, unread = report['rows']
    for row in (failed, not_exported):
        assert f'checkpoint {bad} does not fit the config' in row['error']
    assert f'{noise} cannot be read as a model' in unread['error']
    assert 'error' not in measured and 'random weights' not in printed
    assert f'tiny torch float32 64x64 1 - failed: {failed["error"]}' in printed
    (table,) = read_tables(printed)
    assert [row['prepare'] == 'failed' for row in table] == [True, True, False, True]


@pytest.mark.slow
def test_postprocess_measures_synthetic_crowds_and_those_of_a_file(
    benchmark, read_tables, golden_crowd
):
    options = ['--people', 1, 3, '--golden', golden_crowd(0.7), '--runs', 2]
    printed, report = benchmark('postprocess', CONFIG, *options)
    assert 'thresholds for evaluation' in printed
    one, three, tiny = report['crowds'].values()
    assert list(report['crowds']) == ['1', '3', 'tiny']
    assert one['keypoint_objects'] < three['keypoint_objects'] <= 51
    counts = ('candidates', 'poses', 'keypoint_objects', 'fused')
    assert [tiny[name] for name in counts] == [3, 1, 1, 1]
    assert all(tiny[part]['median_ms'] > 0 for part in ('NMS', 'fusion', 'fuse'))
    ((_, _, row),) = read_tables(printed)
    assert list(row.values())[:5] == ['tiny', '3', '1', '1', '1']
    assert float(row['fuse']) == pytest.approx(tiny['fuse']['median_ms'], abs=0.005)
    assert 'plot: ' in printed


def test_postprocess_has_the_thresholds_of_the_use(benchmark, golden_crowd):
    golden = golden_crowd(0.4)  # evaluation would keep the keypoint object
    options = ['--people', 1, '--golden', golden, '--runs', 1, '--use', 'demo']
    _, report = benchmark('postprocess', CONFIG, *options)
    assert report['use'] == 'demo'
    assert report['crowds']['tiny']['candidates'] == 2
    assert report['crowds']['tiny']['keypoint_objects'] == 0


@pytest.fixture
def golden_crowd(tmp_path):
    """Makes a file of two duplicate pose objects and a keypoint object with a score."""

    def write(score):
        rows = np.zeros((3, 57), np.float32)  # center, size, objectness, 18 classes, 17 keypoints
        rows[:, :4] = [(100, 100, 50, 90), (101, 100, 50, 90), (170, 100, 64, 64)]
        rows[:, 4] = 1
        rows[:2, 5] = 0.9, 0.8
        rows[2, 6] = score  # of the first keypoint type
        rows[:2, 23:] = 100
        np.savez(tmp_path / 'golden.npz', tiny_pred=rows, other=np.zeros(1))
        return tmp_path / 'golden.npz'

    return write


@pytest.mark.parametrize('arrays', [dict(pred=np.zeros((1, 57))), dict(a_pred=np.zeros((1, 48)))])
def test_postprocess_refuses_files_without_crowds(run_tool, tmp_path, arrays):
    path = tmp_path / 'golden.npz'
    np.savez(path, **arrays)
    message = run_tool(TOOL, 'postprocess', CONFIG, '--golden', path)
    assert message == f'error: {path} has no arrays NAME_pred of rows of 57 numbers'
    path.write_text('no array')
    message = run_tool(TOOL, 'postprocess', CONFIG, '--golden', path)
    assert f'{path} cannot be read' in message


def test_postprocess_refuses_several_categories(run_tool):
    message = run_tool(TOOL, 'postprocess', 'configs/kapao/kapao_n_people_wheels.py')
    assert 'has 2 categories; give a config with one' in message


@pytest.fixture
def one_thread(monkeypatch):
    """One thread here and in processes started from here; sums over two round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('MKL_NUM_THREADS', '1')
    yield
    torch.set_num_threads(threads)


TRAIN = ['train', CONFIG, '--input-size', 64, '--batch-size', 2, '--iters', 1]


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_train_measures_steps_and_data_loading(benchmark, measure_here, read_tables):
    measure_here(
        apart=lambda function, cfg, _: (
            function is measure_step and not cfg.model.checkpoint_activations
        )
    )
    switches = ['--switches', 'checkpoint_activations', 'image_cache']
    options = ['--cfg-options', 'train_dataloader.num_workers=0']
    printed, report = benchmark(*TRAIN, *switches, *options)
    assert (report['input_size'], report['batch_size'], report['iterations']) == (64, 2, 1)
    assert report['images'] == 'drawn'
    assert list(report['steps']) == ['baseline', 'checkpoint_activations']
    plain, recomputed = report['steps'].values()
    assert plain['loss'] == recomputed['loss'] > 0
    assert plain['images_per_s'] > 0 and plain['peak_bytes'] > 0
    assert list(report['loading']) == ['from files', 'image_cache=ram']
    assert 'input 64 px, batch 2, median of 1 iterations' in printed
    assert 'failed' not in printed
    steps, loading = read_tables(printed)
    assert [row['training step'] for row in steps] == list(report['steps'])
    assert steps[0]['ratio'] == '1.00' and steps[1]['differs by'] == '0.0e+00'
    assert [row['data loading, 0 workers'] for row in loading] == list(report['loading'])


def test_train_refuses_another_optimizer_wrapper(run_tool):
    message = run_tool(TOOL, *TRAIN, '--cfg-options', 'optim_wrapper.type=OptimWrapper')
    assert 'set optim_wrapper.type to KAPAOOptimWrapper' in message


PARTS = ['--samples', 2, '--runs', 1, '--batch-size', 2, '--loss-size', 64, '--input-size', 64]


@pytest.mark.slow
def test_train_parts_measures_every_transform_and_the_loss(
    benchmark, read_tables, repo, toy, tmp_path
):
    transforms = ['CheckedLoadImage', 'MosaicScaleTranslate', 'HSVGain', 'PackKAPAOInputs']
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = {str(repo / CONFIG)!r}
load = dict(type='CheckedLoadImage')
mosaic = dict(
    input_size=_base_.input_size, scale_range=(0.5, 1.5), max_shift=0.1, pre_transform=[load]
)
train_pipeline = [
    load,
    dict(type='MosaicScaleTranslate', **mosaic),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    dict(type='PackKAPAOInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
""")
    real = ['--real', '--cfg-options', f'data_root={toy}']
    real.append('train_ann=annotations/person_keypoints_train.json')
    printed, report = benchmark('train-parts', config, *PARTS, '--people', 2, *real)
    names = ['annotation', *transforms, 'sample', "sample by MMPose's mosaic"]
    assert list(report['loading']) == names
    rows = report['loading'] | report['loss']['ms']
    assert all(0 < row['median_ms'] <= row['p95_ms'] for row in rows.values())
    sample = report['loading']['sample']['median_ms']
    assert sample > report['loading']['MosaicScaleTranslate']['median_ms']
    assert (report['input_size'], report['images']) == (64, 'of the config')
    loss = report['loss']
    assert (loss['batch_size'], loss['input_hw']) == (2, [64, 64])
    assert 2 * 2 < loss['objects'] <= 2 * 2 * 18
    loading, losses = read_tables(printed)
    assert [row['a sample of 64 px'] for row in loading] == names
    title = f'loss of {loss["objects"]} objects, 2 images of 64 x 64'
    assert [row[title] for row in losses] == list(loss['ms'])


@pytest.mark.slow
def test_train_parts_draws_images_for_any_keypoints(benchmark, monkeypatch):
    place = 'kapao_mm.analysis.training_data.make_toy_dataset'
    make, drawn = make_toy_dataset, []

    def make_few(folder, level, num_train, num_val):
        drawn.append(folder)
        return make(folder, level, num_train=2, num_val=1, image_size=(96, 64))

    monkeypatch.setattr(place, make_few)
    _, report = benchmark('train-parts', 'configs/kapao/kapao_s_crowdpose.py', *PARTS)
    assert report['images'] == 'drawn'
    assert drawn and not drawn[0].exists()


@pytest.mark.parametrize('command', [['train', '--iters', 1], ['train-parts', *PARTS]])
def test_training_commands_refuse_combined_datasets(run_tool, command):
    name, *options = command
    message = run_tool(TOOL, name, 'configs/kapao/kapao_s_coco_crowdpose.py', *options)
    assert 'measure the config of one of them' in message


@pytest.mark.parametrize('flag', ['--samples', '--people', '--runs', '--batch-size'])
def test_numbers_must_be_positive(run_tool, flag, capsys):
    assert run_tool(TOOL, 'train-parts', CONFIG, flag, 0) == 2
    assert f"argument {flag}: invalid positive value: '0'" in capsys.readouterr().err
