# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapao_mm.analysis.predict_speed import (
    NUM_IMAGES,
    draw,
    group_files,
    list_images,
    pad_to_shape,
)
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox


def test_files_belong_to_the_config_before_them(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'b.pth', 'a.onnx', 'b.xml', 'c.pt'):
        (tmp_path / name).touch()
    one, two = group_files([tiny_config, 'a.pth', 'a.onnx', 'b.xml', tiny_config, 'c.pt'])
    assert one == (tiny_config, 64, 'a.pth', dict(onnxruntime='a.onnx', openvino='b.xml'))
    assert two == (tiny_config, 64, None, dict(torchscript='c.pt'))
    with pytest.raises(InputError, match='b.pth: .* has a checkpoint already'):
        group_files([tiny_config, 'a.pth', 'b.pth'])


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (['a.pth', 'CONFIG'], 'a.pth: give its config before it'),
        (['none.py'], 'none.py does not exist'),
        (['CONFIG', 'none.pth'], 'none.pth does not exist'),
    ],
)
def test_files_that_make_no_model_are_refused(tiny_config, files, message):
    with pytest.raises(InputError, match=message):
        group_files([tiny_config if file == 'CONFIG' else file for file in files])


SIDES = st.integers(20, 700)
INPUT_SIDES = st.integers(1, 12).map(lambda n: 64 * n)


@given(st.tuples(SIDES, SIDES), st.tuples(INPUT_SIDES, INPUT_SIDES))
def test_a_padded_image_fills_the_input(image_hw, input_hw):
    image = np.full((*image_hw, 3), 7, np.uint8)
    padded = pad_to_shape(image, input_hw)
    lb = letterbox(padded.shape[1::-1], max(input_hw))
    assert lb.input_size == input_hw[::-1]
    assert (padded[: image_hw[0], : image_hw[1]] == 7).all()
    assert (padded == 7).sum() == image.size


def test_the_first_images_of_a_folder_are_taken(tmp_path):
    for i in range(NUM_IMAGES + 1):
        (tmp_path / f'{i:02}.jpg').touch()
    assert list_images(str(tmp_path)) == [str(tmp_path / f'{i:02}.jpg') for i in range(NUM_IMAGES)]
    with pytest.raises(InputError, match='nowhere does not exist'):
        list_images(str(tmp_path / 'nowhere'))


def test_the_plot_stacks_the_parts_of_each_size():
    def row(backend, side, **parts):
        parts = {name: dict(median_ms=ms) for name, ms in parts.items()}
        row = dict(config='a.py', backend=backend, precision='float32', batch_size=1, parts=parts)
        return row | dict(input_hw=[side, side], threads=None)

    rows = [
        row('torch', 640, forward=3, NMS=1),
        row('torch', 1280, forward=12, NMS=2),
        row('openvino', 640, **{'forward + NMS': 2}),
        dict(error='failed'),
    ]
    figure = draw(rows, 'a machine')
    torch_panel, openvino_panel = figure.axes
    assert torch_panel.get_title() == 'a\ntorch, float32, batch 1'
    labels = [text.get_text() for text in torch_panel.get_xticklabels()]
    assert labels == ['640x\n640', '1280x\n1280']
    heights = [(bar.get_y(), bar.get_height()) for bar in torch_panel.patches]
    assert heights == [(0, 3), (0, 12), (3, 1), (12, 2)]
    assert {text.get_text() for text in torch_panel.texts} == {'4.0', '14.0'}
    assert openvino_panel.patches[0].get_height() == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['forward', 'NMS', 'forward + NMS']
