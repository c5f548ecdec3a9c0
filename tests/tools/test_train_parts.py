# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.datasets import toy as drawing

TOOL = 'analysis_tools/train_parts.py'
QUICK = ['--samples', 2, '--runs', 1, '--batch-size', 2, '--loss-size', 64, '--input-size', 64]
TRANSFORMS = ['CheckedLoadImage', 'MosaicScaleTranslate', 'HSVGain', 'PackKAPAOInputs']


@pytest.fixture
def config(repo, tmp_path):
    """A config whose pipeline is the transforms above."""
    path = tmp_path / 'config.py'
    path.write_text(f"""
_base_ = {str(repo / 'configs/kapao/kapao_n_coco.py')!r}
load = dict(type='CheckedLoadImage')
train_pipeline = [
    load,
    dict(
        type='MosaicScaleTranslate',
        input_size=_base_.input_size,
        scale_range=(0.5, 1.5),
        max_shift=0.1,
        pre_transform=[load],
    ),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    dict(type='PackKAPAOInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
""")
    return path


@pytest.fixture
def real(toy):
    """The flags for the toy pictures as a config's own."""
    return [
        '--real',
        '--cfg-options',
        f'data_root={toy}',
        'train_ann=annotations/person_keypoints_train.json',
    ]


@pytest.mark.slow
def test_every_transform_and_the_loss_have_their_row(run_tool, config, real, tmp_path, capsys):
    out = tmp_path / 'figures/parts.json'
    assert run_tool(TOOL, config, *QUICK, '--people', 2, '--out', out, *real) is None
    report = json.loads(out.read_text())
    names = ['annotation', *TRANSFORMS, 'sample', "sample by MMPose's mosaic"]
    assert list(report['loading']) == names
    rows = report['loading'] | report['loss']['ms']
    assert all(0 < row['median_ms'] <= row['p95_ms'] for row in rows.values())
    sample = report['loading']['sample']['median_ms']
    assert sample > report['loading']['MosaicScaleTranslate']['median_ms']
    assert (report['input_size'], report['images']) == (64, 'of the config')
    loss = report['loss']
    assert (loss['batch_size'], loss['input_hw']) == (2, [64, 64])
    assert 2 * 2 < loss['objects'] <= 2 * 2 * 18
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, *report['loss']['ms'], str(out)])
    assert f'loss of {loss["objects"]} objects, 2 images of 64 x 64' in printed


@pytest.mark.slow
def test_pictures_are_drawn_for_any_keypoints(run_tool, tmp_path, monkeypatch):
    make, drawn = drawing.make_toy_dataset, []

    def make_few(folder, level, num_train, num_val):
        drawn.append(folder)
        return make(folder, level, num_train=2, num_val=1, image_size=(96, 64))

    monkeypatch.setattr(drawing, 'make_toy_dataset', make_few)
    out = tmp_path / 'parts.json'
    assert run_tool(TOOL, 'configs/kapao/kapao_s_crowdpose.py', *QUICK, '--out', out) is None
    assert json.loads(out.read_text())['images'] == 'drawn'
    assert drawn and not drawn[0].exists()


@pytest.mark.slow
def test_two_steps_give_the_same_sample(load_file, run_tool, config, real, monkeypatch):
    tool = load_file(f'tools/{TOOL}')
    monkeypatch.setattr('sys.argv', [TOOL, str(config), *map(str, QUICK), *real])
    args = tool.parse_args()
    cfg = tool.load_config(args.config, args.cfg_options | dict(input_size=64))
    dataset = tool.build_dataset(cfg, None)
    one, two = ((t := dataset.pipeline.transforms)[1:2], tool.in_two_steps(t[1]))
    assert [type(step).__name__ for step in two] == ['TracedMosaic', 'RandomScaleTranslate']
    pictures = []
    for steps in (one, two):
        np.random.seed(0)
        sample = t[0](dataset.get_data_info(0) | dict(dataset=dataset))
        for step in steps:
            sample = step(sample)
        pictures.append(sample['img'])
    np.testing.assert_array_equal(*pictures)


def test_combined_datasets_are_refused(run_tool):
    end = run_tool(TOOL, 'configs/kapao/kapao_s_coco_crowdpose.py', *QUICK)
    assert 'measure the config of one of them' in end


@pytest.mark.parametrize('flag', ['--samples', '--people', '--runs', '--batch-size'])
def test_nothing_to_measure_is_refused(run_tool, flag, capsys):
    assert run_tool(TOOL, 'configs/kapao/kapao_n_coco.py', flag, 0) == 2
    assert 'must be at least 1' in capsys.readouterr().err
