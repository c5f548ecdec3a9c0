# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""A small hand-made model stands for an exported one, but for the comparison with PyTorch."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from mmcv.transforms import Compose
from mmpose.registry import TRANSFORMS
from mmpose.structures import PoseDataSample
from PIL import Image
from torch import nn

from kapao_mm.deploy.metadata import KEY, ModelMetadata
from kapao_mm.deploy.runtime import KAPAORuntime
from kapao_mm.engine.weights_only import TORCH_CAN
from kapao_mm.errors import InputError
from kapao_mm.models.kapao import KAPAO
from kapao_mm.structures import InferenceSettings, Metainfo, Prediction
from kapao_mm.structures.data_sample import from_data_sample

RED, GREEN = (255, 0, 0), (0, 255, 0)
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
        keypoint_colors=[RED, RED],
        link_colors=[GREEN],
    ),
)
# A pose in every image that has a pixel above 200, its score that pixel / 255; a keypoint object
# of type 0, 2 px right of and 6 px below that of the pose, in every image with a pixel below 50.
MODEL = """
<ir_version: 8, opset_import: ["": 17]>
masts (uint8[N, H, W, 3] images) => (
    int64[P] pose_objects_image, float[P, 4] pose_objects_bboxes, float[P] pose_objects_scores,
    int64[P] pose_objects_labels, float[P, 2, 2] pose_objects_keypoints,
    int64[Q] keypoint_objects_image, float[Q, 4] keypoint_objects_bboxes,
    float[Q] keypoint_objects_scores, int64[Q] keypoint_objects_labels
)
<
    float high = {200}, float low = {50}, float full = {255},
    int64[1] zero = {0}, int64[1] one = {1}, int64[1] flat = {-1},
    float[1, 4] box = {20, 30, 60, 110}, float[1, 2, 2] pose = {40, 40, 40, 100},
    float[1, 4] point_box = {36, 40, 48, 52}
>
{
    values = Cast <to = 1> (images)

    brightest = ReduceMax <axes = [1, 2, 3], keepdims = 0> (values)
    bright = Greater(brightest, high)
    pose_index = NonZero(bright)
    pose_objects_image = Reshape(pose_index, flat)
    bright_values = Gather(brightest, pose_objects_image)
    pose_objects_scores = Div(bright_values, full)
    pose_objects_labels = Mul(pose_objects_image, zero)
    num_poses = Shape(pose_objects_image)
    boxes_size = Concat <axis = 0> (num_poses, one)
    pose_objects_bboxes = Tile(box, boxes_size)
    keypoints_size = Concat <axis = 0> (num_poses, one, one)
    pose_objects_keypoints = Tile(pose, keypoints_size)

    darkest = ReduceMin <axes = [1, 2, 3], keepdims = 0> (values)
    dark = Less(darkest, low)
    point_index = NonZero(dark)
    keypoint_objects_image = Reshape(point_index, flat)
    dark_values = Gather(darkest, keypoint_objects_image)
    darkness = Sub(full, dark_values)
    keypoint_objects_scores = Div(darkness, full)
    keypoint_objects_labels = Mul(keypoint_objects_image, zero)
    num_points = Shape(keypoint_objects_image)
    points_size = Concat <axis = 0> (num_points, one)
    keypoint_objects_bboxes = Tile(point_box, points_size)
}
"""
SUFFIXES = ('.onnx', '.xml')


def write_model(path: Path, metadata: str | None = METADATA.to_json()) -> Path:
    """Writes the hand-made model, for the backend of the suffix."""
    model = onnx.parser.parse_model(MODEL)
    onnx.checker.check_model(model)
    onnx_file = path.with_suffix('.onnx')
    if metadata is not None:
        onnx.helper.set_model_props(model, {KEY: metadata})
    onnx.save(model, onnx_file)
    if path.suffix == '.xml':
        converted = openvino.Core().read_model(onnx_file)
        if metadata is not None:
            converted.set_rt_info(metadata, KEY)
        openvino.save_model(converted, path, compress_to_fp16=False)
        onnx_file.unlink()
    return path


@pytest.fixture(scope='module', params=SUFFIXES)
def model_file(request, tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp('model') / f'masts{request.param}')


@pytest.fixture(scope='module')
def runtime(model_file) -> KAPAORuntime:
    return KAPAORuntime(model_file)


def picture(width: int = 128, height: int = 128, low: int = 90, high: int = 90) -> np.ndarray:
    """A gray image with a darkest and a brightest area."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 2, : width // 2] = low
    image[height // 2 :, width // 2 :] = high
    return image


def predict(runtime: KAPAORuntime, inputs: Any, **options: Any) -> list[Prediction]:
    return [result.prediction for result in runtime(inputs, **options)]


def test_metadata_is_read_from_the_file(runtime):
    assert json.loads(runtime.metadata.to_json()) == json.loads(METADATA.to_json())
    assert runtime.input_size == 128


def test_objects_are_mapped_to_the_image_and_fused_there(runtime):
    (found,) = predict(runtime, [picture(256, 192, low=0, high=255)])  # scale 0.5, 16 px above
    np.testing.assert_allclose(found.bboxes, [[40, 28, 120, 188]])
    np.testing.assert_allclose(found.bbox_scores, [1])
    np.testing.assert_allclose(found.pose_keypoints, [[[80, 48], [80, 168]]])
    np.testing.assert_allclose(found.keypoints, [[[84, 60], [80, 168]]])
    np.testing.assert_array_equal(found.keypoints_fused, [[True, False]])
    np.testing.assert_allclose(found.keypoint_objects.bboxes, [[72, 48, 96, 72]])


def test_images_of_all_shapes_come_back_in_their_order(runtime):
    sizes = [(128, 128), (256, 100), (128, 128), (100, 256), (64, 64), (300, 120), (128, 128)]
    lows = [0, 90, 90, 20, 0, 90, 30]
    highs = [90, 255, 220, 240, 90, 90, 230]
    images = [picture(*size, low, high) for size, low, high in zip(sizes, lows, highs, strict=True)]
    together = predict(runtime, images)
    assert [len(found.bboxes) for found in together] == [high > 200 for high in highs]
    assert [len(found.keypoint_objects.bboxes) for found in together] == [low < 50 for low in lows]
    for found, image in zip(together, images, strict=True):
        (alone,) = predict(runtime, [image])
        np.testing.assert_equal(vars(found), vars(alone))


def test_images_of_one_input_shape_are_one_batch(runtime, monkeypatch):
    shapes = []
    network = runtime._network
    monkeypatch.setattr(
        runtime, '_network', lambda batch: (shapes.append(batch.shape), network(batch))[1]
    )
    images = [picture(*size) for size in ((128, 128), (256, 100), (64, 60), (512, 200))]
    runtime(images, batch_size=4)
    assert shapes == [(2, 128, 128, 3), (2, 64, 128, 3)]


def test_inputs_are_square_if_the_metadata_says_so(tmp_path):
    metadata = METADATA._replace(square_input=True)
    runtime = KAPAORuntime(write_model(tmp_path / 'square.onnx', metadata.to_json()))
    (found,) = predict(runtime, [picture(256, 128, high=255)])  # scale 0.5, 32 px above
    np.testing.assert_allclose(found.bboxes, [[40, 0, 120, 128]])
    np.testing.assert_allclose(found.pose_keypoints, [[[80, 16], [80, 136]]])


def test_no_images_give_no_predictions(runtime):
    assert runtime([]) == []


def test_the_input_size_can_be_changed(model_file):
    (found,) = predict(KAPAORuntime(model_file, input_size=256), [picture(128, 128, high=255)])
    np.testing.assert_allclose(found.bboxes, [[10, 15, 30, 55]])
    for wrong in (100, 0):
        with pytest.raises(InputError, match=f'multiple of 64, got {wrong}'):
            KAPAORuntime(model_file, input_size=wrong)


def test_the_requested_number_of_threads_is_used(tmp_path, monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        'InferenceSession',
        lambda path, options, providers: (
            seen.append(options.intra_op_num_threads) or session(path, options, providers)
        ),
    )
    path = write_model(tmp_path / 'a.onnx')
    KAPAORuntime(path, threads=1)
    KAPAORuntime(path)
    assert seen == [1, 0]
    with pytest.raises(InputError, match='threads must be at least 1, got 0'):
        KAPAORuntime(path, threads=0)


def compiled_with(monkeypatch, path: Path, **options) -> dict:
    """OpenVINO's settings of a runtime."""
    compiled = []
    compile_model = openvino.Core.compile_model

    def spy(core, *args):
        compiled.append(compile_model(core, *args))
        return compiled[0]

    monkeypatch.setattr(openvino.Core, 'compile_model', spy)
    KAPAORuntime(path, **options)
    names = ('INFERENCE_PRECISION_HINT', 'INFERENCE_NUM_THREADS')
    return {name: compiled[0].get_property(name) for name in names}


@pytest.mark.parametrize(
    ('options', 'name', 'value'),
    [
        ({}, 'INFERENCE_PRECISION_HINT', openvino.Type.f32),
        ({'precision': 'bfloat16'}, 'INFERENCE_PRECISION_HINT', openvino.Type.bf16),
        ({'threads': 1}, 'INFERENCE_NUM_THREADS', 1),
    ],
)
def test_openvino_computes_in_the_requested_precision_and_threads(
    tmp_path, monkeypatch, options, name, value
):
    path = write_model(tmp_path / 'a.xml')
    assert compiled_with(monkeypatch, path, **options)[name] == value


def test_onnxruntime_uses_an_available_gpu_in_float32(tmp_path, monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        'get_available_providers',
        lambda: ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'],
    )
    monkeypatch.setattr(
        onnxruntime,
        'InferenceSession',
        lambda path, options, providers: (
            seen.extend(providers) or session(path, options, providers[1:])
        ),
    )
    KAPAORuntime(write_model(tmp_path / 'a.onnx'))
    assert seen == [('CUDAExecutionProvider', {'use_tf32': '0'}), ('CPUExecutionProvider', {})]


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        (None, 'has no metadata of KAPAO; export it with'),
        ('{"config": "masts"}', 'has no metadata of KAPAO; export it with'),
    ],
)
def test_models_that_were_not_exported_here_are_refused(tmp_path, suffix, metadata, message):
    path = write_model(tmp_path / f'a{suffix}', metadata)
    with pytest.raises(InputError, match=f'{re.escape(str(path))} {message}'):
        KAPAORuntime(path)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_files_that_are_not_models_are_refused(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    with pytest.raises(InputError, match=f'{re.escape(str(path))} does not exist'):
        KAPAORuntime(path)
    path.write_text('no model')
    with pytest.raises(
        InputError, match=f'{re.escape(str(path))} cannot be read as a model: .'
    ) as e:
        KAPAORuntime(path)
    assert '\n' not in str(e.value)


def test_openvino_model_without_its_weights_is_refused(tmp_path):
    path = write_model(tmp_path / 'a.xml')
    path.with_suffix('.bin').unlink()
    with pytest.raises(InputError, match='cannot be read as a model: Empty weights .* bin file'):
        KAPAORuntime(path)


def test_checkpoints_are_refused_as_exported_models():
    with pytest.raises(InputError, match=r'a\.pth is not an exported model: .*\.onnx or \.xml'):
        KAPAORuntime('a.pth')


@pytest.mark.parametrize(
    ('suffix', 'precision', 'message'),
    [
        ('.onnx', 'bfloat16', 'onnxruntime has float32 only, not bfloat16'),
        ('.xml', 'float8', 'float8 is not one of float32, bfloat16'),
    ],
)
def test_precisions_that_a_backend_lacks_are_refused(tmp_path, suffix, precision, message):
    with pytest.raises(InputError, match=message):
        KAPAORuntime(write_model(tmp_path / f'a{suffix}'), precision)


def test_missing_backend_is_named(model_file, monkeypatch):
    backend = {'.onnx': 'onnxruntime', '.xml': 'openvino'}[model_file.suffix]
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(InputError, match=f'{backend} is not installed: pip install {backend}'):
        KAPAORuntime(model_file)


@pytest.mark.parametrize('image', [np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3)), None])
def test_inputs_that_are_not_images_are_refused(runtime, image):
    with pytest.raises(InputError, match='an image must'):
        runtime([picture(), image])


def test_one_image_is_predicted_as_a_list_of_one(runtime):
    image = picture(low=0, high=255)
    (alone,) = predict(runtime, image)
    (listed,) = predict(runtime, [image])
    np.testing.assert_equal(vars(alone), vars(listed))


def test_all_kinds_of_images_have_the_same_poses(runtime):
    image = picture(low=0, high=255)
    kinds = [
        image,
        image[..., 0],
        np.dstack([image, image[..., :1]]),
        image.astype(np.uint16) * 257,
        image.astype(np.float32),
        Image.fromarray(image[..., 0]),
    ]
    first, *others = predict(runtime, kinds)
    assert len(first) == 1
    for other in others:
        np.testing.assert_equal(vars(first), vars(other))
    for result in runtime(kinds):
        np.testing.assert_array_equal(result.image, image)


def test_pictures_are_bgr_with_the_colors_of_the_metadata(runtime):
    image = picture(128, 128, low=0, high=255)
    (result,) = runtime([image])
    drawn = result.plot(opacity=False)
    assert drawn.shape == image.shape
    assert drawn[46, 42].tolist() == [0, 0, 255]  # a fused keypoint, red
    blue, green, red = drawn[73, 41]  # the link
    assert green > 200 > 50 > max(blue, red)
    assert result.plot(stages=True).shape[1] == 3 * 128


def test_score_thresholds_can_be_raised_and_fusion_changed(runtime):
    image = picture(256, 192, low=0, high=240)  # scores 1 of the keypoint object, 0.94 of the pose
    (found,) = predict(runtime, image)
    assert (len(found), found.keypoints_fused.sum()) == (1, 1)
    (found,) = predict(runtime, image, pose_score_thr=0.95)
    assert (len(found), len(found.keypoint_objects.bboxes)) == (0, 1)
    (found,) = predict(runtime, image, fusion_distance=0)
    assert (len(found), found.keypoints_fused.sum()) == (1, 0)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('pose_score_thr', 0.001, 'pose_score_thr is at least .* got 0.001: export it again with'),
        ('pose_iou_thr', 0.9, 'pose_iou_thr is .* got 0.9: export it again with --cfg-options'),
        ('pose_score', 0.9, 'pose_score is not a setting; did you mean pose_score_thr'),
        ('fusion_distance', -1, 'fusion_distance must be a number of px, 0 or more, got -1'),
        ('keypoint_score_thr', float('nan'), 'keypoint_score_thr must be a number from 0 to 1'),
    ],
)
def test_settings_that_the_file_does_not_allow_are_refused(runtime, name, value, message):
    with pytest.raises(InputError, match=message):
        runtime(picture(), **{name: value})


ALONE = """
import runpy, sys
others = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpose', 'mmdet', 'onnx', 'scipy')
sys.modules.update(dict.fromkeys((*others, 'pycocotools', 'xtcocotools', 'matplotlib')))
sys.argv[0] = 'kapao predict'
runpy.run_path('tools/demo.py', run_name='__main__')
"""


@pytest.mark.slow
def test_predicting_with_an_exported_file_needs_neither_torch_nor_mmpose(
    model_file, tmp_path, repo
):
    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), picture(128, 128, low=0, high=255))
    out = tmp_path / 'out'
    done = subprocess.run(
        [sys.executable, '-c', ALONE, image, '--model', model_file, '--out-dir', out],
        cwd=repo,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '1 poses, 1 keypoint objects, 1 fused' in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ['a.jpg', 'a.json']


def see_texture(model: KAPAO) -> KAPAO:
    """Gives the model a network that finds nothing in flat areas, where all score the same."""
    torch.manual_seed(0)
    convs = model.backbone.convs
    for i, old in enumerate(convs):
        conv = nn.Conv2d(3, old.out_channels, 17, old.stride, 8, padding_mode='replicate')
        conv.bias.data.zero_()
        conv.weight.data -= conv.weight.data.mean((1, 2, 3), keepdim=True)
        conv.weight.data *= 4
        convs[i] = conv.requires_grad_(False)
    return model


def assert_close(found: Prediction, expected: Prediction) -> None:
    """Compares px to 0.001 and scores to 0.0001."""
    for name in ('bboxes', 'pose_keypoints', 'keypoints', 'bbox_scores', 'keypoint_scores'):
        atol = 1e-4 if name.endswith('scores') else 1e-3
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(ours, theirs, 0, atol, err_msg=name)
    for name in ('labels', 'keypoints_fused', 'keypoints_visible'):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    ours, theirs = found.keypoint_objects, expected.keypoint_objects
    np.testing.assert_allclose(ours.bboxes, theirs.bboxes, 0, 1e-3)
    np.testing.assert_allclose(ours.scores, theirs.scores, 0, 1e-4)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


@torch.no_grad()
def predict_in_torch(model: KAPAO, path: Path, input_size: int) -> PoseDataSample:
    """Predicts with the settings for demo, as KAPAOInferencer does."""
    steps = [
        dict(type='CheckedLoadImage'),
        dict(type='Letterbox', input_size=input_size),
        dict(type='PackKAPAOInputs'),
    ]
    data = Compose([TRANSFORMS.build(step) for step in steps])(dict(img_path=str(path)))
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    return model.predict(**model.data_preprocessor(batch), use='demo')[0]


@pytest.mark.slow
@pytest.mark.skipif(not TORCH_CAN, reason='export needs torch 2.6 or later')
@pytest.mark.parametrize(
    ('format_name', 'suffix'), [('onnx', '.onnx'), ('openvino', '.xml')], ids=SUFFIXES
)
def test_real_images_have_the_poses_of_pytorch(
    make_model, shared_dir, tmp_path, format_name, suffix
):
    model, input_size = see_texture(make_model([10, 7])), 512
    settings = replace(model.settings['demo'], pose_score_thr=0.3, keypoint_score_thr=0.3)
    model.settings['demo'] = settings
    metadata = METADATA._replace(
        settings=settings,
        input_size=input_size,
        metainfo=replace(
            METADATA.metainfo,
            categories=[
                dict(name='a', keypoint_ids=list(range(10))),
                dict(name='b', keypoint_ids=list(range(10, 17))),
            ],
        ),
    )
    path = tmp_path / f'a{suffix}'
    from kapao_mm.deploy.export import WRITERS

    WRITERS[format_name](model, metadata, path)
    samples = ('ap10k_sample', 'crowdpose_sample')
    files = [f for name in samples for f in sorted((shared_dir / 'data' / name).glob('*.jpg'))]
    predictions = predict(KAPAORuntime(path), files)
    num_fused = 0
    for file, found in zip(files, predictions, strict=True):
        sample = predict_in_torch(model, file, input_size)
        expected = from_data_sample(sample)
        assert len(expected) > 0 and len(expected.keypoint_objects.bboxes) > 0
        assert_close(found, expected)
        num_fused += found.keypoints_fused.sum()
    assert num_fused > 0
