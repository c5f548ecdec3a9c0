# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Counts the calls that would make the CPU wait for a GPU; they are counted on a CPU."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kapao_mm.models.heads import kapao_head
from kapao_mm.models.task_modules import postprocess

# Their outputs have as many rows as the data say, which the CPU must know.
SIZES = {'nonzero', 'nms', 'masked_select', '_unique2', 'unique_dim', 'bincount'}
VALUES = {'tolist', 'item', 'cpu', '__bool__', '__int__', '__float__', '__index__'}


class Operators(TorchDispatchMode):
    """Notes operators that wait."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name == 'index' and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        counted = name == 'repeat_interleave' and kwargs.get('output_size') is None
        if name in SIZES or by_mask or counted:
            self.found[name] += 1
        return func(*args, **kwargs)


class Calls(TorchFunctionMode):
    """Notes calls that read values, and copies of constants and batches that wait."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.__name__
        constant = name == 'new_tensor' or (name in ('tensor', 'as_tensor') and 'device' in kwargs)
        copied = name == 'to' and not kwargs.get('non_blocking') and moves(*args[1:], **kwargs)
        index = args[1] if name == '__getitem__' else ()
        by_list = any(isinstance(x, list) for x in (index if isinstance(index, tuple) else [index]))
        if name in VALUES or constant or copied or by_list:
            self.found[name] += 1
        return func(*args, **kwargs)


def moves(*args, device=None, **_):
    """Whether the arguments of ``Tensor.to`` have a device."""
    return device is not None or any(isinstance(x, torch.device | str) for x in args)


@contextmanager
def waits():
    """Counts calls that wait, by name."""
    found = Counter()
    with Operators(found), Calls(found):
        yield found


@pytest.fixture
def model(model_cfg, monkeypatch):
    """A model that predicts as it does on a GPU."""
    torch.manual_seed(0)
    cfg = model_cfg()
    cfg.model.test_cfg.update(pose_score_thr=0.2, keypoint_score_thr=0.2)

    def suppress(bboxes, scores, labels, iou_thr, max_objects):
        keep = postprocess._suppress_together(bboxes, scores, labels, 18, iou_thr)
        return keep & (keep.cumsum(1) <= max_objects)

    monkeypatch.setattr(postprocess, '_suppress_alone', suppress)
    return MODELS.build(cfg.model)


def batch(num_images):
    """Images of noise with a person each."""
    samples = [PoseDataSample() for _ in range(num_images)]
    for sample in samples:
        sample.gt_instance_labels = InstanceData(
            bboxes=torch.tensor([[10.0, 10, 100, 120]]),
            keypoints=torch.full((1, 17, 2), 50.0),
            keypoints_visible=torch.ones(1, 17),
            labels=torch.zeros(1, dtype=torch.long),
        )
    images = [torch.randint(256, (3, 128, 192), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize(
    'call',
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[[1, 0]],
        lambda x: x[:, [0]],
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor(1, device=x.device),
        lambda x: x.to('cpu'),
        lambda x: x.to(device='cpu'),
        lambda x: x.max().item(),
        lambda x: bool(x.max() > 0),
        lambda x: x[0, 0].repeat_interleave(x.long()[0, :1]),
    ],
)
def test_each_kind_of_wait_is_counted(call):
    x = torch.ones(2, 3)
    with waits() as found:
        call(x)
    assert found.total() == 1


def test_the_preprocessor_does_not_wait(model):
    data = batch(3)
    with waits() as found:
        model.data_preprocessor(data, True)
    assert not found


@pytest.mark.parametrize('num_images', [1, 5])
def test_prediction_waits_six_times_a_batch(model, monkeypatch, num_images):
    copied = []
    monkeypatch.setattr(kapao_head, 'to_host', lambda x: copied.extend(x) or x)
    data = model.eval().data_preprocessor(batch(num_images))
    settings = model.settings['evaluation']
    with torch.no_grad():
        feats = model.extract_feat(data['inputs'])
        monkeypatch.setattr(kapao_head, 'split_by_image', lambda *_: None)
        with waits() as found:
            model.head.predict(feats, [], settings)
    assert found == dict(tolist=1, nms=2, nonzero=2)
    # One wait is that for the copies.
    assert len(copied) == 9 and len(copied[0]) > 10 and len(copied[5]) > 10


def test_the_loss_waits_for_numbers_of_objects_and_matches_only(model):
    data = model.data_preprocessor(batch(3), True)
    with waits() as found:
        losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
    levels = 4
    assert found == dict(nonzero=1 + 3 * levels)
