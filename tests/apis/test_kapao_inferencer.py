# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmpose.registry import MODELS
from PIL import Image
from torch import nn

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py', {'input_size': 128})


@pytest.fixture(scope='module')
def untrained(cfg):
    return KAPAOInferencer(cfg, random_weights=True, device='cpu')


@pytest.fixture(scope='module')
def checkpoint(cfg, untrained, tmp_path_factory):
    """Weights that see a person everywhere at the coarsest stride, and a nose one finer."""
    model = MODELS.build(cfg.model)
    head = model.head.head_module
    for conv in head.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
    for conv, label in ((head.convs[3], 0), (head.convs[2], 1)):
        bias = conv.bias.detach().view(head.num_anchors, -1)
        bias[:, 4] = bias[:, 5 + label] = 5
        bias[:, 5 + head.num_classes :] = 0
    path = tmp_path_factory.mktemp('checkpoint') / 'a.pth'
    meta = {'dataset_meta': untrained.model.dataset_meta}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return str(path)


@pytest.fixture(scope='module')
def trained(cfg, checkpoint):
    return KAPAOInferencer(cfg, checkpoint, device='cpu')


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((90, 120, 3), 90, np.uint8))
    return str(path)


@pytest.mark.parametrize(('amp', 'dtype'), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_network_is_prepared_for_inference(cfg, amp, dtype):
    model = KAPAOInferencer(cfg, random_weights=True, amp=amp, device='cpu').model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert next(model.neck.parameters()).dtype == dtype


def test_image_without_poses_gives_an_empty_prediction(untrained, image):
    result = next(untrained([image], return_vis=True))
    prediction = result['predictions'][0]
    assert prediction['image'] == image
    assert (prediction['width'], prediction['height']) == (120, 90)
    assert prediction['poses'] == prediction['keypoint_objects'] == []
    assert result['visualization'][0].shape == (90, 120, 3)


def test_predictions_have_what_the_samples_have(trained, image):
    (sample,) = next(trained([image], return_datasamples=True))['predictions']
    (prediction,) = next(trained([image]))['predictions']
    poses, points = sample.pred_instances, sample.pred_keypoint_objects
    assert len(prediction['poses']) == len(poses) > 0
    assert len(prediction['keypoint_objects']) == len(points) > 0
    assert {point['type'] for point in prediction['keypoint_objects']} == {'nose'}
    fused = np.array([pose['fused'] for pose in prediction['poses']])
    np.testing.assert_array_equal(fused, poses.keypoints_fused)
    assert fused[:, 0].any() and not fused[:, 1:].any()


def test_all_poses_of_a_prediction_are_drawn(cfg, checkpoint, image):
    options = {'input_size': 128, 'model.test_cfg.demo.pose_score_thr': 0.1}
    unsure = load_config(cfg.filename, options)
    inferencer = KAPAOInferencer(unsure, checkpoint, device='cpu')
    with torch.no_grad():  # objectness 0.5 x class 0.4
        bias = inferencer.model.head.head_module.convs[3].bias.view(3, -1)
        bias[:, 4], bias[:, 5] = 0, -0.4
    result = next(inferencer([image], return_vis=True))
    assert 0.1 < result['predictions'][0]['poses'][0]['score'] < 0.3
    assert (result['visualization'][0] != 90).any()


def test_predictions_are_written_as_json(trained, image, tmp_path):
    (prediction,) = next(trained([image], pred_out_dir=str(tmp_path / 'out')))['predictions']
    assert json.loads((tmp_path / 'out' / 'a.json').read_text()) == prediction


def test_video_predictions_are_written_frame_by_frame(trained, tmp_path):
    path = str(tmp_path / 'a.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 5, (128, 64))
    for _ in range(3):
        writer.write(np.full((64, 128, 3), 90, np.uint8))
    writer.release()
    results = list(trained(path, pred_out_dir=str(tmp_path)))
    frames = json.loads((tmp_path / 'a.json').read_text())
    assert [frame['frame_id'] for frame in frames] == [0, 1, 2]
    assert frames[2]['instances'] == results[2]['predictions'][0]


def test_unreadable_image_is_named_and_the_next_one_works(trained, image, tmp_path):
    broken = tmp_path / 'broken.jpg'
    broken.write_text('no image')
    with pytest.raises(InputError, match=r'broken\.jpg'):
        next(trained([str(broken)]))
    assert next(trained([image]))['predictions']


def test_checkpoint_of_another_model_is_refused(repo, checkpoint):
    crowdpose = load_config(repo / 'configs/kapao/kapao_s_crowdpose.py')
    with pytest.raises(InputError, match=r'a\.pth does not fit'):
        KAPAOInferencer(crowdpose, checkpoint, device='cpu')


def test_a_config_of_this_package_is_found_by_its_name():
    model = KAPAOInferencer('kapao_n_toy', random_weights=True, device='cpu').model
    assert model.head.num_keypoints == 17
    with pytest.raises(InputError, match='did you mean kapao_n_toy'):
        KAPAOInferencer('kapao_n_toyy', random_weights=True, device='cpu')


def test_random_weights_have_to_be_asked_for(cfg):
    with pytest.raises(InputError, match='no weights given: .* or random_weights=True'):
        KAPAOInferencer(cfg, device='cpu')


def test_a_checkpoint_on_a_server_predicts_as_the_file_does(
    cfg, trained, image, checkpoint, served
):
    folder, server = served
    shutil.copy(checkpoint, folder / 'a.pth')
    remote = KAPAOInferencer(cfg, server.url('a.pth'), device='cpu')
    assert next(remote([image]))['predictions'] == next(trained([image]))['predictions']


@pytest.mark.slow
def test_a_checkpoint_on_a_server_that_runs_code_or_is_another_model_is_refused(
    cfg, repo, checkpoint, served, tmp_path
):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    folder, server = served
    shutil.copy(checkpoint, folder / 'a.pth')
    crowdpose = load_config(repo / 'configs/kapao/kapao_s_crowdpose.py')
    with pytest.raises(InputError, match='does not fit'):
        KAPAOInferencer(crowdpose, server.url('a.pth'), device='cpu')
    torch.save(load_weights_only(checkpoint) | {'extra': Runs()}, folder / 'b.pth')
    with pytest.raises(InputError, match='cannot be read safely'):
        KAPAOInferencer(cfg, server.url('b.pth'), device='cpu')
    assert not (tmp_path / 'ran').exists()


def counts(results) -> list[int]:
    return [len(result['predictions'][0]['poses']) for result in results]


def test_thresholds_of_a_call_act_for_that_call(trained, image):
    (plain,) = counts(trained(image))
    (all_boxes,) = counts(trained(image, nms_thr=1.0))
    assert counts(trained(image, bbox_thr=0.999)) == [0] and 0 < plain < all_boxes
    assert counts(trained(image, kpt_thr=0.9)) == counts(trained(image)) == [plain]
    with pytest.raises(InputError, match='bbox_thr must be between 0 and 1, got 30'):
        next(trained(image, bbox_thr=30))
    with pytest.raises(ValueError, match='draw_heatmap'):
        next(trained(image, draw_heatmap=True))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def sizes(trained, monkeypatch):
    """The numbers of images that the model is called with."""
    seen, step = [], trained.model.test_step
    monkeypatch.setattr(
        trained.model, 'test_step', lambda data: seen.append(len(data['inputs'])) or step(data)
    )
    return seen


def test_images_of_one_shape_are_one_batch_and_results_stay_in_order(trained, sizes, tmp_path):
    shapes = [(90, 120), (120, 60), (90, 120), (90, 120), (120, 60), (60, 80)]
    paths = [str(tmp_path / f'{number}.png') for number in range(len(shapes))]
    for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        cv2.imwrite(path, noise(*shape, seed=number))
    together = [result['predictions'][0] for result in trained(paths, batch_size=4)]
    assert sizes == [3, 1, 1, 1]
    alone = [next(trained(path))['predictions'][0] for path in paths]
    assert [prediction['image'] for prediction in together] == paths
    for one, other in zip(together, alone, strict=True):
        assert len(one['poses']) == len(other['poses']) > 0
        for key in ('bbox', 'score'):
            np.testing.assert_allclose(
                [pose[key] for pose in one['poses']],
                [pose[key] for pose in other['poses']],
                atol=1e-2,
            )
    with pytest.raises(InputError, match='batch_size must be at least 1, got 0'):
        next(trained(paths, batch_size=0))


def test_all_kinds_of_images_have_the_same_poses(trained, image):
    pixels = cv2.imread(image)
    kinds = [
        image,
        Path(image),
        pixels,
        pixels[..., 0],
        pixels[..., :1],
        np.dstack([pixels, pixels[..., 0]]),
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.float32),
        Image.open(image),
    ]
    results = list(trained(kinds, batch_size=2, return_vis=True))
    poses = [result['predictions'][0]['poses'] for result in results]
    assert len(poses[0]) > 0 and all(other == poses[0] for other in poses)
    for result in results:
        np.testing.assert_array_equal(result['visualization'][0], results[0]['visualization'][0])
    for single in kinds[1:]:
        assert next(trained(single))['predictions'][0]['poses'] == poses[0]


def test_results_of_the_same_name_are_all_kept(trained, tmp_path):
    paths = []
    for number, name in enumerate(['x/a.png', 'y/a.png', 'y/a.jpg']):
        paths.append(str(tmp_path / name))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(paths[-1], noise(40, 60 + number))
    out = tmp_path / 'out'
    list(trained(paths[:2], out_dir=str(out)))
    list(trained(paths[1:], out_dir=str(out)))  # another call of the same inferencer
    written = {path.name: json.loads(path.read_text()) for path in (out / 'predictions').iterdir()}
    assert {name: result['image'] for name, result in written.items()} == dict(
        zip(['a.json', 'a_2.json', 'a_3.json'], paths, strict=True)
    )
    pictures = {path.name: cv2.imread(str(path)) for path in (out / 'visualizations').iterdir()}
    assert {name: picture.shape[1] for name, picture in pictures.items()} == {
        'a.png': 60,
        'a_2.png': 61,
        'a_3.jpg': 62,
    }


def test_arrays_of_two_calls_are_both_kept(trained, tmp_path):
    for width in (60, 61):
        next(trained(noise(40, width), pred_out_dir=str(tmp_path)))
    widths = {path.name: json.loads(path.read_text())['width'] for path in tmp_path.iterdir()}
    assert widths == {'000000.json': 60, '000000_2.json': 61}


def test_images_before_a_bad_one_are_predicted(trained, image, tmp_path):
    results = trained([image, image, str(tmp_path / 'gone.jpg'), image], batch_size=4)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(InputError, match=r'gone\.jpg does not exist'):
        next(results)


def test_a_bad_image_does_not_end_a_folder(trained, image, tmp_path, caplog):
    (tmp_path / 'b.jpg').write_text('no image')
    (tmp_path / 'c.jpg').symlink_to('c.jpg')
    (tmp_path / 'notes.unknown').touch()
    cv2.imwrite(str(tmp_path / 'd.png'), noise(40, 60))
    results = trained(str(tmp_path), batch_size=2)
    found = [result['predictions'][0]['image'] for result in results]
    assert found == [image, str(tmp_path / 'd.png')]
    assert 'b.jpg cannot be read' in caplog.text
    assert '2 of 4 images could not be predicted' in caplog.text


def test_a_folder_without_images_is_an_error(trained, tmp_path):
    with pytest.raises(InputError, match='has no images or videos'):
        next(trained(str(tmp_path)))


@pytest.mark.parametrize('content', [None, b'', b'no video'])
def test_videos_that_cannot_be_read_are_errors(trained, tmp_path, content):
    path = tmp_path / 'a.mp4'
    if content is not None:
        path.write_bytes(content)
    fault = {None: 'does not exist', b'': 'is empty'}.get(content, 'cannot be read')
    with pytest.raises(InputError, match=rf'a\.mp4 .*{fault}'):
        next(trained(str(path)))


@pytest.mark.parametrize(
    ('name', 'message'),
    [('webcam:77', 'webcam:77 cannot be opened'), ('webcam:x', 'webcam:x does not exist')],
)
def test_a_missing_webcam_is_an_error(trained, name, message):
    with pytest.raises(InputError, match=message):
        next(trained(name))
