# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample
from torch import nn

from kapao_mm.models import KAPAODataPreprocessor

COLORS = dict(mean=[1.0, 2, 3], std=[50.0, 60, 70])


def batch(*shapes):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *hw), dtype=torch.uint8, generator=generator) for hw in shapes]
    return dict(inputs=images, data_samples=[PoseDataSample() for _ in shapes])


@pytest.mark.parametrize(
    'options',
    [
        dict(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
        COLORS,
        dict(**COLORS, rgb_to_bgr=True),
        {},
    ],
)
@pytest.mark.parametrize(
    'shapes', [[(64, 128)], [(64, 128)] * 3, [(60, 70)] * 2, [(64, 9), (3, 64)]]
)
def test_the_batch_equals_that_of_mmpose_bit_by_bit(options, shapes):
    options = dict(pad_size_divisor=64, pad_value=114 / 255, **options)
    ours, expected = (
        cls(**options)(batch(*shapes)) for cls in (KAPAODataPreprocessor, PoseDataPreprocessor)
    )
    assert ours['inputs'].dtype == torch.float32
    assert torch.equal(ours['inputs'], expected['inputs'])
    for one, other in zip(ours['data_samples'], expected['data_samples'], strict=True):
        assert one.metainfo == other.metainfo


def test_augments_training_batches_only(monkeypatch):
    preprocessor = KAPAODataPreprocessor()
    preprocessor.batch_augments = nn.ModuleList([nn.Identity()])
    monkeypatch.setattr(nn.Identity, 'forward', lambda _, x, samples: (x + 1, samples))
    plain, augmented = (preprocessor(batch((64, 64)), training) for training in (False, True))
    assert torch.equal(plain['inputs'] + 1, augmented['inputs'])
