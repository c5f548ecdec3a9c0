# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""A hand-made network of OpenVINO's operations stands for an exported one."""

import sys

import cv2
import numpy as np
import openvino
import pytest
from openvino import Model, opset15

from kapao_mm.deploy.metadata import KEY, ModelMetadata
from kapao_mm.deploy.quantize import choose_images, float_operations, fuse_swish, quantize
from kapao_mm.errors import InputError
from kapao_mm.structures import InferenceSettings, Metainfo

METADATA = ModelMetadata(
    config='masts',
    use='demo',
    settings=InferenceSettings(0.5, 0.45, 0.5, 0.45, 0.2, 50, 30000, 300),
    input_size=128,
    square_input=False,
    metainfo=Metainfo(
        categories=[dict(name='mast', keypoint_ids=[0, 1])],
        keypoint_names=['top', 'base'],
        flip_pairs=[],
        sigmas=[0.1, 0.1],
        skeleton_links=[[0, 1]],
        keypoint_colors=[[255, 0, 0]] * 2,
        link_colors=[[0, 255, 0]],
    ),
)
SHAPES = [(96, 128), (128, 64)]  # of the images (h, w), which are the network inputs


def convolve(value, out_channels: int, name: str):
    """A 3x3 convolution with weights of its own."""
    in_channels = value.get_output_partial_shape(0)[1].get_length()
    rng = np.random.default_rng(len(name))
    weight = rng.normal(0, in_channels**-0.5, (out_channels, in_channels, 3, 3))
    weight = opset15.constant(weight.astype(np.float32))
    conv = opset15.convolution(value, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    conv.set_friendly_name(name)
    return conv


def swish(value):
    return opset15.multiply(opset15.sigmoid(value), value)


@pytest.fixture
def model() -> Model:
    """Two levels with a head each; the finer one also feeds the coarser one, as in the neck."""
    images = opset15.parameter([-1, -1, -1, 3], np.uint8, name='images')
    pixels = opset15.divide(opset15.convert(images, 'f32'), opset15.constant(np.float32(255)))
    levels = swish(convolve(opset15.transpose(pixels, opset15.constant([0, 3, 1, 2])), 8, 'stem'))
    levels = swish(convolve(levels, 16, 'middle'))
    fine = swish(convolve(levels, 8, 'last fine'))
    coarse = swish(convolve(convolve(fine, 8, 'down'), 8, 'last coarse'))
    outputs = []
    for name, level in {'fine': fine, 'coarse': coarse}.items():
        outputs.append(opset15.sigmoid(convolve(level, 4, f'head {name}')))
        outputs[-1].set_friendly_name(f'decoded {name}')
    return Model(outputs, [images])


@pytest.fixture
def source(model, tmp_path):
    model.set_rt_info(METADATA.to_json(), KEY)
    openvino.save_model(model, tmp_path / 'float.xml', compress_to_fp16=False)
    return tmp_path / 'float.xml'


@pytest.fixture
def folder(tmp_path):
    """A folder of noise."""
    folder = tmp_path / 'images'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        image = rng.integers(0, 256, (*SHAPES[i % 2], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def run(model, image: np.ndarray) -> list[np.ndarray]:
    settings = {'INFERENCE_PRECISION_HINT': 'f32'}
    return list(openvino.Core().compile_model(model, 'CPU', settings)(image[None]).values())


@pytest.mark.slow
def test_the_file_computes_about_the_same_with_8_bits(source, folder, tmp_path):
    target = tmp_path / 'int8.xml'
    quantize(source, target, choose_images(folder))
    found = openvino.Core().read_model(target)
    metadata = ModelMetadata.from_json(found.get_rt_info(KEY).astype(str), 'int8.xml')
    assert metadata == METADATA._replace(precision='int8')

    image = cv2.imread(str(folder / '0.png'))
    for ours, exact in zip(run(found, image), run(source, image), strict=True):
        assert exact.std() > 0.02
        assert 0 < np.abs(ours - exact).mean() < 0.05 * exact.std()
    quantized = {
        node.get_friendly_name().partition('/')[0]
        for node in found.get_ops()
        if node.get_type_name() == 'Convolution'
        and all(
            value.get_source_output().get_node().get_type_name() not in ('Constant', 'Swish')
            for value in node.inputs()
        )
    }
    assert quantized == {'stem', 'middle', 'down'}

    with pytest.raises(InputError, match='int8.xml is int8 already; give the float32 file'):
        quantize(target, tmp_path / 'b.xml', choose_images(folder))


@pytest.mark.slow
def test_an_unreadable_image_leaves_no_file(source, folder, tmp_path):
    (folder / '3.png').write_text('no image')
    with pytest.raises(InputError, match='3.png'):
        quantize(source, tmp_path / 'int8.xml', choose_images(folder))
    assert {path.name for path in tmp_path.iterdir()} == {'float.xml', 'float.bin', 'images'}


def test_swish_is_one_operation_and_computes_the_same(model):
    image = np.random.default_rng(0).integers(0, 256, (*SHAPES[0], 3), dtype=np.uint8)
    before = run(model, image)
    fuse_swish(model)
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert (kinds.count('Swish'), kinds.count('Multiply'), kinds.count('Sigmoid')) == (4, 0, 2)
    for ours, theirs in zip(run(model, image), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_other_products_are_not_swish(model):
    value = opset15.parameter([1, 4], np.float32)
    other = opset15.multiply(opset15.sigmoid(value), opset15.sin(value))
    product = Model([other], [value])
    fuse_swish(product)
    assert 'Swish' not in [node.get_type_name() for node in product.get_ops()]


def test_heads_what_follows_and_the_convolutions_before_stay_float(model):
    names = set(float_operations(model))
    assert {'head fine', 'head coarse', 'decoded fine', 'decoded coarse'} < names
    assert {'last fine', 'last coarse'} < names
    assert not {'stem', 'middle', 'down', 'images'} & names


def test_images_are_spread_over_the_folder(folder):
    assert [path.stem for path in choose_images(folder, 3)] == ['0', '2', '4']
    assert [path.stem for path in choose_images(folder, 100)] == list('012345')
    with pytest.raises(InputError, match='0.png is not a folder'):
        choose_images(folder / '0.png')


def test_nncf_is_named_if_it_is_missing(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(InputError, match=r"nncf is not installed: pip install 'kapao-mm\[int8\]'"):
        quantize(source, tmp_path / 'a.xml', [])
