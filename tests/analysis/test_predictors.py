# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmpose.structures import PoseDataSample

from kapao_mm.analysis.predict_speed import export
from kapao_mm.analysis.predictors import (
    build_model,
    exported_predictor,
    set_candidates,
    torch_predictor,
)
from kapao_mm.analysis.synthetic_crowd import filter_by_score, make_crowds
from kapao_mm.analysis.timing import time_parts
from kapao_mm.errors import InputError
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.task_modules.postprocess import decode
from kapao_mm.models.utils.inference import prepare_for_inference

PEOPLE = 3
CPU = torch.device('cpu')


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """Weights of a model that finds something everywhere."""
    torch.manual_seed(0)
    model = build_model(tiny_config, None)
    for conv in model.head.head_module.convs:
        torch.nn.init.normal_(conv.bias)
    path = tmp_path / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@torch.no_grad()
def detect(config, checkpoint, use):
    """Detects the objects of two images of noise, 64 x 128 px."""
    row = dict(config=config, checkpoint=checkpoint, backend='torch', precision='float32')
    row |= dict(batch_size=2, input_hw=(64, 128))
    predictor = torch_predictor(row, use, PEOPLE, CPU)
    batch = np.random.default_rng(0).integers(0, 255, (2, 64, 128, 3), dtype=np.uint8)
    found = []
    time_parts(lambda part: found.append(predictor.detect(predictor.prepare(batch), part)), 1, CPU)
    return predictor, batch, found[-1]


def assert_same(found, expected):
    assert sum(len(objects.bboxes) for image in expected for objects in image) > 10
    for ours, theirs in zip(found, expected, strict=True):
        for objects, others in zip(ours, theirs, strict=True):
            for value, other in zip(objects, others, strict=True):
                np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize('use', ['evaluation', 'demo'])
def test_a_checkpoint_detects_what_the_model_detects(tiny_config, checkpoint, use):
    predictor, batch, found = detect(tiny_config, checkpoint, use)
    model = build_model(tiny_config, checkpoint)
    prepare_for_inference(model)  # so that rounding does not choose between equals
    inputs = model.data_preprocessor(
        dict(
            inputs=list(torch.from_numpy(batch).permute(0, 3, 1, 2)),
            data_samples=[PoseDataSample() for _ in batch],
        )
    )['inputs']
    with torch.no_grad():
        expected = model.head.predict(model.extract_feat(inputs), [], model.settings[use])
    assert_same(found, expected)
    assert predictor.settings == model.settings[use]


def test_random_weights_detect_a_synthetic_crowd(tiny_config, monkeypatch):
    decoded = []

    original = KAPAOHead.decode

    def decode(*args):
        decoded.append(original(*args))
        return decoded[-1]

    monkeypatch.setattr(KAPAOHead, 'decode', decode)
    _, _, found = detect(tiny_config, None, 'evaluation')
    model = build_model(tiny_config, None)
    settings = model.settings['evaluation']
    crowds = filter_by_score(make_crowds(PEOPLE, 2, [17], (64, 128)), settings, CPU)
    assert_same(found, model.head.detect(crowds, settings))
    assert (decoded[-1].scores > 0).sum() == 2 * crowds.scores.shape[1]


def test_each_image_gets_the_candidates_of_the_crowd(tiny_config):
    head = build_model(tiny_config, None).head
    inputs = [
        torch.rand(2, width, side, side)
        for width, side in zip((32, 64, 96, 128), (8, 4, 2, 1), strict=True)
    ]
    with torch.no_grad():
        grids = head(inputs)
        set_candidates(grids, 77)
        found = decode(grids, head.anchors, head.strides, 17, (0.001, 0.001))
    assert (found.scores > 0.001).sum(1).tolist() == [77, 77]


@pytest.mark.slow
def test_an_exported_file_has_the_thresholds_of_its_use(tiny_config, tmp_path):
    row = export(tiny_config, None, 'torchscript', 'demo', tmp_path) | dict(
        precision='float32', threads=None
    )
    assert exported_predictor(row, 'demo').settings.fusion_score_thr == 0.2
    with pytest.raises(InputError, match='was exported for demo; give --use demo'):
        exported_predictor(row, 'evaluation')
