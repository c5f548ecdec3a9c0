# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Files of every format, run by their own backends, against the model."""

import errno
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

from kapao_mm.engine.weights_only import TORCH_CAN

if not TORCH_CAN:
    pytest.skip('export needs torch 2.6 or later', allow_module_level=True)

import torch
from mmpose.registry import MODELS

from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.deploy.export import (
    make_metadata,
    open_torchscript,
    write_onnx,
    write_openvino,
    write_tensorrt,
    write_torchscript,
)
from kapao_mm.deploy.formats import TENSORRT_CANDIDATES
from kapao_mm.deploy.metadata import KEY, ModelMetadata
from kapao_mm.deploy.runtime import BACKENDS, run_network
from kapao_mm.errors import InputError
from kapao_mm.structures import Metainfo
from kapao_mm.utils.config import load_config

NUM_KEYPOINTS = [3, 2]
LIMITED = dict(pose_iou_thr=0.25, max_candidates=60, max_objects=20)  # one suppression
SHAPES = [(1, 64, 128), (3, 192, 256), (2, 320, 64)]
LARGE_SHAPES = [(1, 256, 256), (3, 256, 384)]  # for TensorRT
CONFIG = 'configs/kapao/kapao_n_people_wheels.py'


@pytest.fixture(scope='module')
def metadata(settings):
    return ModelMetadata(
        config='noise',
        use='demo',
        settings=settings,
        input_size=256,
        square_input=False,
        metainfo=Metainfo(
            categories=[
                dict(name='a', keypoint_ids=[0, 1, 2]),
                dict(name='b', keypoint_ids=[3, 4]),
            ],
            keypoint_names=list('vwxyz'),
            flip_pairs=[[0, 1]],
            sigmas=[0.1] * 5,
            skeleton_links=[],
            keypoint_colors=[[255, 0, 0]] * 5,
            link_colors=[],
        ),
    )


@pytest.fixture(scope='module')
def model(make_model):
    return make_model(NUM_KEYPOINTS)


@pytest.fixture(scope='module')
def onnx_file(model, metadata, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'noise.onnx'
    write_onnx(model, metadata, path)
    return path


@pytest.fixture(scope='module')
def tensorrt_file(model, metadata, tmp_path_factory):
    path = tmp_path_factory.mktemp('tensorrt') / 'noise.onnx'
    settings = replace(metadata.settings, **LIMITED)
    write_tensorrt(model, metadata._replace(settings=settings), path, opset=20)
    return path


def check(network, model, settings, shapes, make_images, detect):
    """Compares a network with the model on noise."""
    for shape in shapes:
        images = make_images(*shape)
        expected, num_candidates = detect(model, images, settings)
        found = run_network(network, images)
        count = sum(len(objects.bboxes) for image in expected for objects in image)
        assert num_candidates > 1.2 * count > 20
        for one, other in zip(found, expected, strict=True):
            difference = compare_objects(one, other)
            assert difference.position < 1e-3
            assert difference.score < 1e-4
            for ours, theirs in zip(one, other, strict=True):  # in the same order
                np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    nothing = network(np.zeros((1, 256, 256, 3), np.uint8))
    shapes = {name: value.shape for name, value in nothing.items()}
    assert shapes.pop('pose_objects_keypoints') == (0, 5, 2)
    assert shapes.pop('pose_objects_bboxes') == shapes.pop('keypoint_objects_bboxes') == (0, 4)
    assert set(shapes.values()) == {(0,)}


def run_openvino(path):
    """A network of an ONNX file, in OpenVINO."""
    compiled = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    names = [output.get_any_name() for output in compiled.outputs]
    return lambda images: dict(zip(names, compiled(images).values(), strict=True))


def test_onnxruntime_finds_what_the_model_finds(onnx_file, model, settings, make_images, detect):
    _, network = BACKENDS['.onnx'](onnx_file, 'float32', 1)
    check(network, model, settings, SHAPES, make_images, detect)


def test_openvino_finds_what_the_model_finds(onnx_file, model, settings, make_images, detect):
    check(run_openvino(onnx_file), model, settings, SHAPES, make_images, detect)


def test_torchscript_finds_what_the_model_finds(
    model, metadata, settings, make_images, detect, tmp_path
):
    path = tmp_path / 'noise.pt'
    write_torchscript(model, metadata, path)
    text, network = open_torchscript(path)
    assert ModelMetadata.from_json(text, 'noise.pt') == metadata
    check(network, model, settings, SHAPES, make_images, detect)


@pytest.mark.parametrize(
    'open_file', [lambda path: BACKENDS['.onnx'](path, 'float32', 1)[1], run_openvino]
)
def test_a_fixed_number_of_candidates_one_suppression_and_limits(
    tensorrt_file, model, settings, make_images, detect, open_file
):
    network = open_file(tensorrt_file)
    check(network, model, replace(settings, **LIMITED), LARGE_SHAPES, make_images, detect)
    (limited,) = run_network(network, make_images(*LARGE_SHAPES[0]))
    assert sum(len(objects.bboxes) for objects in limited) == LIMITED['max_objects']


def test_the_onnx_file_describes_its_inputs_and_outputs(onnx_file, metadata):
    file = onnx.load(onnx_file, load_external_data=False)
    onnx.checker.check_model(file, full_check=True)
    assert [entry.name for entry in onnx_file.parent.iterdir()] == ['noise.onnx']
    assert [(o.domain, o.version) for o in file.opset_import] == [('', 18)]
    session = onnxruntime.InferenceSession(onnx_file)
    (images,) = session.get_inputs()
    assert (images.name, images.type) == ('images', 'tensor(uint8)')
    assert images.shape == ['n', '64*h', '64*w', 3]
    assert {output.name: (output.type, output.shape[1:]) for output in session.get_outputs()} == {
        'pose_objects_image': ('tensor(int64)', []),
        'pose_objects_bboxes': ('tensor(float)', [4]),
        'pose_objects_scores': ('tensor(float)', []),
        'pose_objects_labels': ('tensor(int64)', []),
        'pose_objects_keypoints': ('tensor(float)', [5, 2]),
        'keypoint_objects_image': ('tensor(int64)', []),
        'keypoint_objects_bboxes': ('tensor(float)', [4]),
        'keypoint_objects_scores': ('tensor(float)', []),
        'keypoint_objects_labels': ('tensor(int64)', []),
    }
    text = session.get_modelmeta().custom_metadata_map[KEY]
    assert ModelMetadata.from_json(text, 'noise.onnx') == metadata


def test_tensorrt_gets_a_constant_topk_and_the_chosen_opset(tensorrt_file):
    file = onnx.load(tensorrt_file)
    assert file.opset_import[0].version == 20
    (topk,) = (node for node in file.graph.node if node.op_type == 'TopK')
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in file.graph.initializer}
    assert constants[topk.input[1]].tolist() == [TENSORRT_CANDIDATES]


def test_torchscript_is_bound_to_no_device(model, metadata, tmp_path):
    write_torchscript(model, metadata, tmp_path / 'noise.pt')
    module = torch.jit.load(tmp_path / 'noise.pt')
    assert 'torch.ones_like' in module.code  # a device would be in there
    assert 'torch.device(' not in module.code


@pytest.mark.parametrize('name', ['people_wheels', 'coco', 'crowdpose'])
def test_metadata_is_made_from_a_config(repo, name):
    sizes = dict(people_wheels=('n', [17, 5]), coco=('s', [17]), crowdpose=('l', [14]))
    size, counts = sizes[name]
    cfg = load_config(repo / f'configs/kapao/kapao_{size}_{name}.py', dict(input_size=640))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    metadata = make_metadata(cfg, model, 'evaluation')
    assert ModelMetadata.from_json(metadata.to_json(), 'a') == metadata
    assert metadata.config == f'kapao_{size}_{name}'
    assert metadata.settings == model.settings['evaluation']
    assert (metadata.input_size, metadata.square_input) == (640, name == 'people_wheels')
    names = metadata.metainfo
    assert names.keypoint_counts == counts
    for values in (names.keypoint_names, names.sigmas, names.keypoint_colors):
        assert len(values) == sum(counts)
    assert len(names.link_colors) == len(names.skeleton_links) > 0
    flipped = [kind for pair in names.flip_pairs for kind in pair]
    assert len(flipped) == len(set(flipped)) > 0  # each pair once
    assert max(flipped) < sum(counts)


def test_a_model_with_other_keypoints_than_the_dataset_is_refused(repo):
    cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py', {'model.head.num_keypoints': 5})
    with torch.device('meta'), pytest.raises(InputError, match='is 5, but .* has 17'):
        make_metadata(cfg, MODELS.build(cfg.model), 'demo')


def test_a_pipeline_without_letterbox_is_refused(repo):
    cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py')
    cfg.test_dataloader.dataset.pipeline = []
    with torch.device('meta'), pytest.raises(InputError, match=r'kapao_n_coco.py has no Letterbox'):
        make_metadata(cfg, MODELS.build(cfg.model), 'demo')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('write', 'suffix'),
    [(write_onnx, 'onnx'), (write_openvino, 'xml'), (write_torchscript, 'pt')],
)
def test_a_full_disk_is_named_and_leaves_no_half_model(
    model, metadata, tmp_path, monkeypatch, write, suffix
):
    def fail(file):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', fail)
    (tmp_path / f'model.{suffix}').write_text('old')
    with pytest.raises(InputError, match=f'model.{suffix} cannot be written: No space left'):
        write(model, metadata, tmp_path / f'model.{suffix}')
    assert [path.name for path in tmp_path.iterdir()] == [f'model.{suffix}']
    assert (tmp_path / f'model.{suffix}').read_text() == 'old'


@pytest.mark.slow
@pytest.mark.parametrize(('write', 'suffix'), [(write_openvino, 'xml'), (write_torchscript, 'pt')])
def test_errors_of_a_writer_name_the_file(model, metadata, tmp_path, monkeypatch, write, suffix):
    def fail(*args, **kwargs):
        raise RuntimeError('file write failed')

    monkeypatch.setattr('torch.jit.save', fail)
    monkeypatch.setattr('openvino.save_model', fail)
    with pytest.raises(InputError, match=f'model.{suffix} cannot be written: file write failed'):
        write(model, metadata, tmp_path / f'model.{suffix}')
    assert not list(tmp_path.iterdir())
