# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpose.structures import PoseDataSample

from kapao_mm.analysis.synthetic_crowd import confident, make_crowds
from kapao_mm.analysis.timing import time_parts
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox
from kapao_mm.models.task_modules.candidates import decode_candidates
from kapao_mm.models.utils.inference import prepare_for_inference

TOOL = 'analysis_tools/benchmark.py'
PEOPLE = 3
WIDTHS = [32, 64, 96, 128]
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def benchmark(load_file):
    return load_file(f'tools/{TOOL}')


@pytest.fixture(scope='module')
def config(repo, tmp_path_factory):
    """KAPAO-N of half its width."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(
        f"_base_ = '{repo}/configs/kapao/kapao_n_coco.py'\n"
        f'model = dict(backbone=dict(widen_factor=0.125), neck=dict(in_channels={WIDTHS}), '
        f'head=dict(in_channels={WIDTHS}))\n'
        'from kapao_mm.utils.config import set_everywhere\n'
        'set_everywhere(_base_, input_size=64)\n'
    )
    return path


@pytest.fixture
def checkpoint(benchmark, config, tmp_path):
    """Of a model that finds something everywhere."""
    torch.manual_seed(0)
    model = benchmark.build_model(config, None)
    for conv in model.head.head_module.convs:
        torch.nn.init.normal_(conv.bias)
    path = tmp_path / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of two pictures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, size in dict(a=(60, 90), b=(90, 60)).items():
        image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        (folder / f'{name}.png').write_bytes(cv2.imencode('.png', image)[1])
    return folder


@pytest.mark.slow
def test_a_row_for_every_combination(run_tool, run_jobs_here, config, images, tmp_path, capsys):
    run_jobs_here(TOOL, apart=lambda job: job['backend'] == 'torch' and job['batch_size'] == 1)
    out = tmp_path / 'a/figures.json'
    options = ['--input-sizes', '64x128', '--batch-sizes', 1, 2, '--runs', 2, '--people', PEOPLE]
    options += ['--backends', 'torch', 'torchscript', '--precisions', 'bfloat16', 'float32']
    assert run_tool(TOOL, config, *options, '--images', images, '--out', out) is None
    report = json.loads(out.read_text())
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
    printed = capsys.readouterr().out
    assert '2 pictures, thresholds for evaluation' in printed
    assert f'random weights; NMS and fusion of {PEOPLE} synthetic people' in printed
    lines = [line.split() for line in printed.splitlines() if line.startswith('tiny ')]
    assert [line[:5] for line in lines] == [
        ['tiny', row['backend'], row['precision'], '64x128', str(row['batch_size'])]
        for row in report['rows']
    ]
    assert not out.with_suffix('.png').exists()  # one size makes no plot


@pytest.mark.slow
def test_several_sizes_are_plotted_and_pictures_are_drawn(
    run_tool, run_jobs_here, config, checkpoint, tmp_path, capsys
):
    run_jobs_here(TOOL, apart=lambda job: False)
    out = tmp_path / 'figures.json'
    files, sizes = [config, checkpoint, config], ['--input-sizes', 64, 128]
    assert run_tool(TOOL, *files, *sizes, '--runs', 1, '--out', out) is None
    assert out.with_suffix('.png').read_bytes()[1:4] == b'PNG'
    printed = capsys.readouterr().out
    assert '\n32 pictures, thresholds for evaluation\nno checkpoint: random weights' in printed
    assert printed.endswith(f'figures: {out}\nplot: {out.with_suffix(".png")}\n')


@pytest.mark.slow
def test_what_fails_names_its_reason_and_the_others_follow(
    run_tool, run_jobs_here, config, checkpoint, images, tmp_path, capsys
):
    run_jobs_here(TOOL, apart=lambda job: False)
    bad = tmp_path / 'bad.pth'
    torch.save(dict(state_dict={}), bad)
    noise = tmp_path / 'noise.onnx'
    noise.write_text('noise')
    files = [config, bad, config, checkpoint, noise]
    options = ['--backends', 'torch', 'onnxruntime', '--images', images, '--runs', 1]
    assert run_tool(TOOL, *files, *options) is None
    printed = capsys.readouterr().out
    failed, unexported, good, unread = (
        line for line in printed.splitlines() if line.startswith('tiny ')
    )
    assert f'checkpoint {bad} does not fit the config' in failed
    assert unexported.split()[1] == 'onnxruntime' and 'does not fit the config' in unexported
    assert good.split()[:4] == ['tiny', 'torch', 'float32', '64x64'] and 'not' not in good
    assert unread.split()[1] == 'onnxruntime' and f'{noise} cannot be read as a model' in unread
    assert 'random weights' not in printed


@pytest.mark.slow
def test_an_exported_file_has_the_thresholds_of_the_use(benchmark, config, tmp_path):
    job = dict(config=config, checkpoint=None, backend='torchscript', folder=tmp_path)
    args = SimpleNamespace(use='pictures', threads=None, job=job)
    job |= benchmark.export(args) | dict(precision='float32')
    assert benchmark.exported_predictor(job, args).settings['fusion_score_thr'] == 0.2
    args.use = 'evaluation'
    with pytest.raises(InputError, match='was exported for pictures; give --use pictures'):
        benchmark.exported_predictor(job, args)


@pytest.mark.slow
@pytest.mark.parametrize('use', ['evaluation', 'pictures'])
def test_a_checkpoint_finds_what_the_model_finds(benchmark, config, checkpoint, use):
    predictor, batch, found = detect(benchmark, config, checkpoint, use)
    model = benchmark.build_model(config, checkpoint)
    prepare_for_inference(model)  # so that rounding does not choose between equals
    inputs = model.data_preprocessor(
        dict(
            inputs=list(torch.from_numpy(batch).permute(0, 3, 1, 2)),
            data_samples=[PoseDataSample() for _ in batch],
        )
    )['inputs']
    with torch.no_grad():
        expected = model.head.predict(model.extract_feat(inputs), [], model.settings[use])
    same(found, expected)
    assert predictor.settings == model.settings[use]


def test_random_weights_find_a_synthetic_crowd(benchmark, config, monkeypatch):
    decoded = []

    def decode(*args):
        decoded.append(decode_candidates(*args))
        return decoded[-1]

    monkeypatch.setattr(benchmark, 'decode_candidates', decode)
    _, _, found = detect(benchmark, config, None, 'evaluation')
    model = benchmark.build_model(config, None)
    settings = model.settings['evaluation']
    crowds = confident(make_crowds(PEOPLE, 2, [17], (64, 128)), settings, CPU)
    same(found, model.head.detect(crowds, 2, settings))
    assert len(decoded[-1].scores) == 3 * 2 * 8 * 16  # all that a grid for so small an input has


@torch.no_grad()
def detect(benchmark, config, checkpoint, use):
    """Two pictures of noise, 64 x 128."""
    job = dict(config=config, checkpoint=checkpoint, backend='torch', precision='float32')
    job |= dict(batch_size=2, input_hw=(64, 128))
    args = SimpleNamespace(use=use, people=PEOPLE)
    predictor = benchmark.torch_predictor(job, args, CPU)
    batch = np.random.default_rng(0).integers(0, 255, (2, 64, 128, 3), dtype=np.uint8)
    found = []
    time_parts(lambda part: found.append(predictor.detect(predictor.prepare(batch), part)), 1, CPU)
    return predictor, batch, found[-1]


def same(found, expected):
    assert sum(len(objects.boxes) + len(objects.point_boxes) for objects in expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        for value, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-2)


def test_as_many_outputs_are_confident_as_the_crowd_has_candidates(benchmark, config):
    head = benchmark.build_model(config, None).head
    with torch.no_grad():
        grids = head([torch.rand(2, c, s, s) for c, s in zip(WIDTHS, (8, 4, 2, 1), strict=True)])
        benchmark.make_confident(grids, 77)
        found = decode_candidates(grids, head.anchors, head.strides, 17, 0.001)
    assert len(found.scores) == 77
    assert set(found.image.tolist()) == {0, 1}


def test_files_belong_to_the_config_before_them(benchmark, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'b.pth', 'a.onnx', 'b.xml', 'c.pt'):
        (tmp_path / name).touch()
    one, two = benchmark.group_files([config, 'a.pth', 'a.onnx', 'b.xml', config, 'c.pt'])
    assert one == (config, 64, 'a.pth', dict(onnxruntime='a.onnx', openvino='b.xml'))
    assert two == (config, 64, None, dict(torchscript='c.pt'))


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (['a.pth', 'CONFIG'], 'a.pth: give its config before it'),
        (['none.py'], 'none.py does not exist'),
        (['CONFIG', 'none.pth'], 'none.pth does not exist'),
    ],
)
def test_files_that_make_no_model_are_refused(benchmark, config, files, message):
    with pytest.raises(InputError, match=message):
        benchmark.group_files([config if file == 'CONFIG' else file for file in files])


def test_a_config_has_one_checkpoint(benchmark, config, checkpoint):
    with pytest.raises(InputError, match='tiny.pth: .* has a checkpoint already'):
        benchmark.group_files([config, checkpoint, checkpoint])


SIDES = st.integers(20, 700)
INPUT_SIDES = st.integers(1, 12).map(lambda n: 64 * n)


@given(st.tuples(SIDES, SIDES), st.tuples(INPUT_SIDES, INPUT_SIDES))
def test_a_padded_image_fills_the_input(benchmark, image_hw, input_hw):
    image = np.full((*image_hw, 3), 7, np.uint8)
    padded = benchmark.pad_to_shape(image, input_hw)
    lb = letterbox(padded.shape[1::-1], max(input_hw))
    assert lb.input_size == input_hw[::-1]
    assert (padded[: image_hw[0], : image_hw[1]] == 7).all()
    assert (padded == 7).sum() == image.size


def test_the_first_images_of_a_folder_are_taken(benchmark, tmp_path):
    for i in range(benchmark.PICTURES + 1):
        (tmp_path / f'{i:02}.jpg').touch()
    taken = benchmark.list_images(str(tmp_path))
    assert taken == [str(tmp_path / f'{i:02}.jpg') for i in range(benchmark.PICTURES)]
    with pytest.raises(InputError, match='nowhere does not exist'):
        benchmark.list_images(str(tmp_path / 'nowhere'))


def test_the_plot_stacks_the_parts_of_each_size(benchmark):
    def row(backend, side, **parts):
        parts = {name: dict(median_ms=ms) for name, ms in parts.items()}
        row = dict(config='a.py', backend=backend, precision='float32', batch_size=1, parts=parts)
        return row | dict(input_hw=[side, side])

    rows = [
        row('torch', 640, forward=3, NMS=1),
        row('torch', 1280, forward=12, NMS=2),
        row('openvino', 640, **{'forward + NMS': 2}),
        dict(error='failed'),
    ]
    figure = benchmark.draw(rows, 'a machine')
    torch_panel, openvino_panel = figure.axes
    assert torch_panel.get_title() == 'a\ntorch, float32, batch 1'
    assert [text.get_text() for text in torch_panel.get_xticklabels()] == [
        '640x\n640',
        '1280x\n1280',
    ]
    heights = [(bar.get_y(), bar.get_height()) for bar in torch_panel.patches]
    assert heights == [(0, 3), (0, 12), (3, 1), (12, 2)]
    assert {text.get_text() for text in torch_panel.texts} == {'4.0', '14.0'}
    assert openvino_panel.patches[0].get_height() == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['forward', 'NMS', 'forward + NMS']
