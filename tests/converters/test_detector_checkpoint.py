# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""YOLOX is built by MMDetection; MMYOLO's names are those of its published files."""

import pytest
import torch
from mmdet.models import CSPDarknet
from mmdet.models.dense_heads import YOLOXHead
from mmdet.models.necks import YOLOXPAFPN
from mmengine.registry import DefaultScope
from torch import nn

from kapao_mm.converters.conversion import (
    build_model,
    find_model_config,
    make_checkpoint,
    read_source,
)
from kapao_mm.converters.detector_checkpoint import take_detector
from kapao_mm.errors import InputError
from kapao_mm.models import KAPAOCSPDarknet

TINY = 0.125  # width multiple


def randomize(model):
    """Sets every weight and every statistic of batch norm to a random value."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if 'running_var' in name else value.normal_(0, 0.3)
    return model.eval()


def make_yolox(width=TINY, depth=0.33, depthwise=False):
    """Makes a YOLOX detector of MMDetection; its outputs are those of random weights."""
    widths = [int(size * width) for size in (256, 512, 1024)]
    blocks = round(3 * depth)
    act = dict(type='Swish')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = nn.ModuleDict(
            dict(
                backbone=CSPDarknet(
                    deepen_factor=depth,
                    widen_factor=width,
                    out_indices=(1, 2, 3),
                    act_cfg=act,
                    use_depthwise=depthwise,
                ),
                neck=YOLOXPAFPN(widths, widths[0], blocks, use_depthwise=depthwise, act_cfg=act),
                bbox_head=YOLOXHead(80, widths[0], feat_channels=8),
            )
        )
    return randomize(model)


def convert(weights, tmp_path):
    """Converts a state dict; returns what was taken, the checkpoint and the loaded model."""
    source = tmp_path / 'source.pth'
    torch.save(dict(state_dict=weights, meta={}), source)
    taken = take_detector(weights)
    size, options = find_model_config(taken)
    checkpoint = make_checkpoint(taken, build_model(taken, size, options), source)
    model = build_model(taken, size, options).to_empty(device='cpu')
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    return taken, checkpoint, model.eval()


def assert_same(found, expected):
    """Checks that feature maps differ by the rounding of float32 at most."""
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


def count(weights):
    return sum(value.numel() for value in weights.values())


@pytest.mark.slow
def test_fitting_stages_of_yolox_compute_the_same_from_rgb_images(tmp_path):
    yolox = make_yolox()
    _, _, model = convert(yolox.state_dict(), tmp_path)
    images = torch.rand(2, 3, 64, 64)  # RGB
    with torch.no_grad():
        expected = yolox['backbone'](images.flip(1) * 255)
        model.backbone.out_indices = (1, 2, 3)
        found = model.backbone(images)
    for stage in range(3):
        assert_same(found[stage], expected[stage])


@pytest.mark.slow
def test_finest_levels_of_the_neck_of_yolox_are_taken(tmp_path):
    yolox = make_yolox()
    _, _, model = convert(yolox.state_dict(), tmp_path)
    fine, middle = torch.randn(1, 32, 8, 8), torch.randn(1, 64, 4, 4)

    def finest(neck, last):
        """Output P3 and the inputs of P4's output, from inputs P3 and reduced P4."""
        reduced = neck.reduce_layers[last](middle)
        top = neck.top_down_blocks[last](torch.cat([neck.upsample(reduced), fine], 1))
        bottom = torch.cat([neck.downsamples[0](top), reduced], 1)
        return top, neck.bottom_up_blocks[0](bottom), neck.downsamples[1](middle)

    with torch.no_grad():
        for found, expected in zip(finest(model.neck, 2), finest(yolox['neck'], 1), strict=True):
            assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('width', 'depth', 'config'),
    [
        (0.5, 0.33, ('kapao_s', {})),
        (0.75, 0.67, ('kapao_m', {})),
        (1.0, 1.0, ('kapao_l', {})),
    ],
)
def test_published_sizes_of_yolox_have_a_config_of_their_size(width, depth, config):
    with torch.device('meta'):
        taken = take_detector(make_yolox(width, depth).state_dict())
    assert find_model_config(taken) == config


@pytest.mark.slow
def test_each_number_of_yolox_is_taken_or_left_out(tmp_path):
    weights = make_yolox().state_dict()
    taken, checkpoint, model = convert(weights, tmp_path)
    assert count(taken.weights) + sum(taken.left_out.values()) == count(weights)
    assert set(taken.left_out) == {
        *('head', 'backbone.stage4', 'neck.out_convs'),
        *('neck.reduce_layers', 'neck.top_down_blocks', 'neck.bottom_up_blocks'),
    }
    assert set(taken.adapted) == {'backbone.stem.conv.conv.weight'}
    assert checkpoint['meta']['kind'] == 'YOLOX-P5'
    assert checkpoint['meta']['partial'] is True
    assert len(checkpoint['state_dict']) < len(model.state_dict())


def test_depthwise_yolox_is_refused():
    with pytest.raises(InputError, match='with depthwise convolutions'):
        take_detector(make_yolox(depthwise=True).state_dict())


def conv_of_focus(weight):
    """The 6 x 6 convolution that a Focus stem computes."""
    conv = weight.new_zeros(len(weight), 3, 6, 6)
    for group, (x, y) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        conv[:, :, y::2, x::2] = weight[:, 3 * group : 3 * group + 3]
    return conv


def to_mmyolo(weights, levels):
    """Renames the weights of a backbone and YOLOXPAFPN as MMYOLO names those of YOLOv5."""
    renamed = {'bbox_head.head_module.convs_pred.0.weight': torch.zeros(255, 32, 1, 1)}
    last = levels - 2
    for name, value in weights.items():
        module, part, *rest = name.split('.')
        if part == 'stem':
            rest = rest[1:]
            value = conv_of_focus(value) if rest == ['conv', 'weight'] else value
        if module == 'neck':
            at = int(rest.pop(0))
            if part == 'reduce_layers':
                part, index = (part, [levels - 1]) if at == 0 else ('top_down_layers', [at - 1, 1])
            else:
                index = [at, 0] if part == 'top_down_blocks' and at < last else [at]
                part = dict(
                    top_down_blocks='top_down_layers',
                    downsamples='downsample_layers',
                    bottom_up_blocks='bottom_up_layers',
                )[part]
            rest = [*map(str, index), *rest]
        renamed['.'.join((module, part, *rest))] = value
    return renamed


def make_yolov5(p6):
    """Makes backbone and neck of MMYOLO's YOLOv5 with 6 blocks in the second stage."""
    stages = [[64, 128, 1], [128, 256, 2], [256, 512, 3], [512, 768, 1], [768, 1024, 1]]
    if not p6:
        stages = [*stages[:3], [512, 1024, 1]]
    last = len(stages) - 1
    backbone = KAPAOCSPDarknet(
        spp_last=True,
        widen_factor=TINY,
        arch_ovewrite=[[*stage, i < last, i == last] for i, stage in enumerate(stages)],
        out_indices=range(2, len(stages) + 1),
        act_cfg=dict(type='SiLU'),
    )
    widths = [int(stage[1] * TINY) for stage in stages[1:]]
    neck = YOLOXPAFPN(widths, 1, 1, act_cfg=dict(type='SiLU'))
    neck.out_convs = nn.ModuleList()
    return randomize(nn.ModuleDict(dict(backbone=backbone, neck=neck)))


@pytest.mark.slow
def test_yolov5_p6_of_mmyolo_is_taken_completely(tmp_path):
    yolov5 = make_yolov5(p6=True)
    weights = to_mmyolo(yolov5.state_dict(), 4)
    assert 'backbone.stage5.2.conv1.conv.weight' in weights
    taken, checkpoint, model = convert(weights, tmp_path)
    assert 'partial' not in checkpoint['meta']
    assert checkpoint['meta']['kind'] == 'YOLOv5-P6'
    assert taken.left_out == dict(head=255 * 32)
    assert count(taken.weights) + 255 * 32 == count(weights)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = yolov5['neck'](yolov5['backbone'](images))
        found = model.neck(model.backbone(images))
    for level in range(4):
        assert_same(found[level], expected[level])


@pytest.mark.slow
def test_yolov5_p5_of_mmyolo_is_taken_in_part(tmp_path):
    yolov5 = make_yolov5(p6=False)
    weights = to_mmyolo(yolov5.state_dict(), 3)
    taken, checkpoint, model = convert(weights, tmp_path)
    assert checkpoint['meta']['partial'] is True
    assert taken.depths == [1, 2, 3, 1, 1, 1]
    assert count(taken.weights) + sum(taken.left_out.values()) == count(weights)
    assert 'neck.bottom_up_blocks.0.main_conv.conv.weight' in checkpoint['state_dict']
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = yolov5['backbone'](images)[:2]
        found = model.backbone(images)[:2]
    for stage in range(2):
        assert_same(found[stage], expected[stage])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('head.gau.beta', 'it is an RTMPose model of MMPose, whose layers do not fit'),
        ('head.head_module.convs.0.weight', 'it already is in the format of MMEngine'),
        ('a.b', 'it is no known model, whose layers do not fit'),
    ],
)
def test_other_state_dicts_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        take_detector({name: torch.zeros(1)})


def without(text):
    return lambda weights: {n: v for n, v in weights.items() if text not in n}


def with_value(name, value):
    return lambda weights: weights | {name: value}


STEM, STAGE = 'backbone.stem.conv.conv.weight', 'backbone.stage2.0.conv.weight'


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        without('stem'),
        without('backbone.'),
        without('stage4'),
        with_value(STEM, torch.zeros(())),
        with_value(STEM, torch.zeros(8, 3, 3, 3)),
        with_value(STAGE, torch.zeros(0, 16, 3, 3)),
        with_value(STAGE, torch.zeros(48, 16, 3, 3)),
        with_value(STAGE, torch.full((32, 16, 3, 3), torch.nan)),
        with_value('backbone.stage2.1.blocks.99.conv1.conv.weight', torch.zeros(1)),
        with_value('backbone', torch.zeros(1)),
    ],
)
def test_damaged_state_dict_is_refused_with_one_line(tmp_path, change):
    source = tmp_path / 'yolox.pth'
    torch.save(dict(state_dict=change(make_yolox().state_dict())), source)
    with pytest.raises(InputError) as caught:
        taken = read_source(source)
        size, options = find_model_config(taken)
        make_checkpoint(taken, build_model(taken, size, options), source)
    assert str(source) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.slow
def test_missing_part_of_a_state_dict_starts_anew(tmp_path):
    weights = without('neck.downsamples.0')(make_yolox().state_dict())
    taken, checkpoint, _ = convert(weights, tmp_path)
    assert count(taken.weights) + sum(taken.left_out.values()) == count(weights)
    assert not any('downsamples.0' in name for name in checkpoint['state_dict'])
