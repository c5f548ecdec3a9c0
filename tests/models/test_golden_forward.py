# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The reference's weights, converted, give the reference's outputs."""

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.engine import check_checkpoint
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.models.task_modules.postprocess import decode


@pytest.fixture
def model(model_cfg, golden_checkpoint):
    model = MODELS.build(model_cfg().model)
    check_checkpoint(golden_checkpoint, model)
    load_checkpoint(model, str(golden_checkpoint))
    return model.eval()


@torch.no_grad()
def test_grids_and_decoded_outputs_equal_the_reference(model, golden):
    data = golden('forward')
    images = [torch.from_numpy(image[::-1].copy()) for image in data['image']]  # RGB to BGR
    samples = [PoseDataSample() for _ in images]
    batch = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    grids = model.head(model.extract_feat(batch['inputs']))
    for i, grid in enumerate(grids):
        np.testing.assert_allclose(
            grid.movedim(2, 4).numpy(), data[f'grid{i}'], rtol=1e-4, atol=1e-5
        )

    rows = data['decoded']
    found = decode(grids, model.head.anchors, model.head.strides, 17, score_thrs=None)
    corners = rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2
    close = dict(rtol=1e-4, atol=1e-3)  # px
    np.testing.assert_allclose(found.bboxes, np.concatenate(corners, -1), **close)
    np.testing.assert_allclose(found.keypoints.flatten(2), rows[..., 23:], **close)
    scores = rows[..., 4] * rows[..., 5:23].max(-1)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    np.testing.assert_array_equal(found.labels, rows[..., 5:23].argmax(-1))


def test_the_converted_checkpoint_keeps_names_and_dtypes(golden_checkpoint, shared_dir):
    found = load_weights_only(golden_checkpoint)
    assert found['meta']['num_keypoints'] == 17
    assert found['meta']['classes'][:3] == ['person', 'nose', 'left_eye']
    assert {v.dtype for v in found['state_dict'].values()} == {torch.float32, torch.int64}
