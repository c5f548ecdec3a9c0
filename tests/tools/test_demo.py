# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.apis.predict_files import Counts
from kapao_mm.utils.cli import exit_on_input_error
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def demo(load_file):
    return load_file('tools/demo.py')


@pytest.fixture(scope='module')
def config(repo):
    return repo / 'configs/kapao/kapao_n_coco.py'


@pytest.fixture(scope='module')
def checkpoint(config, tmp_path_factory):
    """Weights that give pose objects a score of 0.25, and keypoint objects one near 0."""
    model = MODELS.build(load_config(config, {'input_size': 128}).model)
    head = model.head.head_module
    for conv in head.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
        bias = conv.bias.detach().view(head.num_anchors, -1)
        bias[:, 4:6] = 0  # objectness, class of pose objects
    path = tmp_path_factory.mktemp('checkpoint') / 'a.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path


@pytest.fixture
def run(demo, config, checkpoint, tmp_path, monkeypatch):
    """Makes a function that runs the tool in ``tmp_path`` and returns its exit code or message."""
    monkeypatch.chdir(tmp_path)

    def call(*images, **flags):
        flags = {'config': config, 'checkpoint': checkpoint, 'device': 'cpu', **flags}
        argv = ['demo.py', *map(str, images), '--input-size', '128']
        for flag, value in flags.items():
            argv += [f'--{flag.replace("_", "-")}', *([] if value is True else [str(value)])]
        monkeypatch.setattr('sys.argv', argv)
        try:
            with exit_on_input_error():
                demo.main()
        except SystemExit as stop:
            return stop.code
        return 0

    return call


def write_image(path: Path, width: int = 120) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((90, width, 3), 90, np.uint8))
    return path


@pytest.mark.slow
def test_every_image_gets_a_picture_a_json_file_and_a_line(run, tmp_path, capsys):
    images = [write_image(tmp_path / 'in/a.jpg'), write_image(tmp_path / 'in/b.png')]
    assert run(*images) == 0
    out = tmp_path / 'outputs/predict'
    assert sorted(path.name for path in out.iterdir()) == ['a.jpg', 'a.json', 'b.jpg', 'b.json']
    assert json.loads((out / 'b.json').read_text())['image'] == str(images[1])
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-4] == f'{images[0]}: 0 poses, 0 keypoint objects, 0 fused -> outputs/predict/a.jpg'
    )
    assert re.fullmatch(r'2 images in .* s, .* per second: reading .* %, network .* %.*', lines[-2])
    assert lines[-1] == f'results are in {out}'


@pytest.mark.slow
def test_flags_change_thresholds_and_panels(run, tmp_path, capsys):
    image = write_image(tmp_path / 'in/a.jpg')
    assert run(image, score_thr=0.2, objects=True, amp=True) == 0
    assert ' 0 poses' not in capsys.readouterr().out.splitlines()[-3]
    assert cv2.imread('outputs/predict/a.jpg').shape[1] == 3 * 120


def test_images_with_the_same_name_do_not_overwrite_each_other(run, tmp_path):
    run(write_image(tmp_path / 'x/a.jpg', 120), write_image(tmp_path / 'y/a.png', 60), out_dir='o')
    assert cv2.imread('o/a.jpg').shape[1] == 120
    assert cv2.imread('o/a_2.jpg').shape[1] == 60


def test_broken_and_missing_images_are_reported_and_the_others_predicted(run, tmp_path, capsys):
    broken = tmp_path / 'broken.jpg'
    broken.write_text('no image')
    good = write_image(tmp_path / 'good.jpg')
    assert run('missing.jpg', broken, good, good, out_dir='o') == '2 failed: see the errors above'
    assert sorted(path.name for path in Path('o').iterdir()) == ['good.jpg', 'good.json']
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 2 and 'missing.jpg' in errors[0] and 'broken.jpg' in errors[1]


def test_a_folder_without_images_is_reported(run, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert run('empty') == '1 failed: see the errors above'
    assert f'error: folder {tmp_path / "empty"} has no images or videos' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'config': 'no.py'}, r'config file .*no\.py does not exist'),
        ({'checkpoint': 'no.pth'}, r'checkpoint no\.pth does not exist \(looked at /.*no\.pth\)'),
        ({'device': 'nonsense'}, r'device nonsense cannot be used'),
        ({'score_thr': 30}, r'pose_score_thr must be a number from 0 to 1, got 30'),
        ({'out_dir': 'in/a.jpg'}, r'folder .*in/a\.jpg cannot be written to: File exists'),
        ({'batch_size': 0}, r'batch_size must be at least 1, got 0'),
    ],
)
def test_wrong_flags_are_reported_in_one_line(run, tmp_path, flags, message):
    image = write_image(tmp_path / 'in/a.jpg')
    before = image.read_bytes()
    end = run(image, **flags)
    assert isinstance(end, str) and end.startswith('error: ') and '\n' not in end
    assert re.search(message, end)
    assert image.read_bytes() == before


def test_a_downloaded_checkpoint_with_code_is_refused_in_one_line(run, tmp_path, served):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    folder, server = served
    torch.save({'state_dict': {}, 'meta': Runs()}, folder / 'a.pth')
    end = run(write_image(tmp_path / 'in/a.jpg'), checkpoint=server.url('a.pth'), out_dir='o')
    assert end.startswith('error: ') and 'cannot be read safely' in end
    assert not (tmp_path / 'ran').exists()
    assert not list(Path('o').glob('*'))


def test_an_interrupted_run_ends_with_130(run, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'predict_files', lambda *args: Counts(interrupted=True))
    assert run(write_image(tmp_path / 'in/a.jpg')) == 130


@pytest.mark.slow
def test_flags_choose_files_layers_and_settings(run, tmp_path):
    image = write_image(tmp_path / 'in/a.jpg')
    flags = dict(write='csv', draw='legend', hide='boxes', categories='coco', fusion_distance=0)
    assert run(image, score_thr=0.1, batch_size=2, **flags) == 0
    rows = (tmp_path / 'outputs/predict/poses.csv').read_text().splitlines()
    assert rows[0].startswith('image,frame,time,track_id,category,score,x1') and len(rows) > 1
