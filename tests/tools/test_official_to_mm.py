# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os
import re
import shlex
import sys
import types
import zipfile
from pathlib import PurePosixPath

import pytest
import torch
from mmdet.models.backbones import CSPDarknet
from mmdet.models.necks import YOLOXPAFPN
from mmengine.config import DictAction
from mmpose.registry import MODELS
from torch import nn
from torch.nn import functional

from kapao_mm import __version__
from kapao_mm.engine import check_checkpoint
from kapao_mm.engine.stored_config import read_stored_config
from kapao_mm.engine.weights_only import TORCH_CAN, load_weights_only
from kapao_mm.utils.config import letterbox_settings, load_config

TOOL = 'model_converters/official_to_mm.py'
ANCHORS = [
    [[19, 27], [44, 40], [38, 94]],
    [[96, 68], [86, 152], [180, 137]],
    [[140, 301], [303, 264], [238, 542]],
    [[436, 615], [739, 380], [925, 792]],
]
COCO = (
    'nose',
    *(
        f'{side}_{part}'
        for part in ['eye', 'ear', 'shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle']
        for side in ('left', 'right')
    ),
)
TINY = [8, 16, 32, 64, 96, 128]  # widths of the stem and the stages


class Node:
    """Module of a released model: an unknown class with the attributes of torch's modules."""

    __module__ = 'models'  # where pickle looks for it

    def __init__(self, parameters=(), buffers=(), **modules):
        self._parameters = {k: nn.Parameter(v.half(), False) for k, v in dict(parameters).items()}
        self._buffers = {
            k: v.half() if v.is_floating_point() else v for k, v in dict(buffers).items()
        }
        self._modules = modules


def layers(model):
    return model._modules['model']._modules


def conv(width_in, width_out, size=1):
    weight = torch.randn(width_out, width_in, size, size) / (width_in**0.5 * size)
    statistics = dict(running_mean=torch.randn(width_out), running_var=torch.rand(width_out) + 1)
    return Node(
        conv=Node(dict(weight=weight)),
        bn=Node(
            dict(weight=torch.randn(width_out), bias=torch.randn(width_out)),
            statistics | dict(num_batches_tracked=torch.tensor(7)),
        ),
    )


def csp(width_in, width_out, blocks):
    half = width_out // 2
    block = [Node(cv1=conv(half, half), cv2=conv(half, half, 3)) for _ in range(blocks)]
    return Node(
        cv1=conv(width_in, half),
        cv2=conv(width_in, half),
        cv3=conv(2 * half, width_out),
        m=Node(**{str(i): block for i, block in enumerate(block)}),
    )


def pool(size):
    node = Node()
    node.kernel_size = size
    return node


def spp(width, pools):
    """Makes a spatial pyramid pooling; one pool is applied three times."""
    many = isinstance(pools, list)
    return Node(
        cv1=conv(width, width // 2),
        cv2=conv(width // 2 * 4, width),
        m=Node(**{str(i): pool(size) for i, size in enumerate(pools)}) if many else pool(pools),
    )


def make_head(widths, num_classes, outputs, anchors):
    pixels = torch.tensor(anchors, dtype=torch.float)
    head = Node(
        buffers=dict(
            anchors=pixels / torch.tensor([8, 16, 32, 64.0])[:, None, None],
            anchor_grid=pixels.view(4, 1, 3, 1, 1, 2),
        ),
        m=Node(
            **{
                str(i): Node(
                    dict(weight=torch.randn(3 * outputs, w, 1, 1), bias=torch.randn(3 * outputs))
                )
                for i, w in enumerate(widths)
            }
        ),
    )
    head.nc = num_classes
    return head


def make_release(widths=TINY, depth=1, num_classes=18, outputs=57, anchors=ANCHORS):
    """Makes the layers of a released model (docs/method.md) with ``depth`` / 3 of the blocks."""
    c = widths
    layers = {0: Node(conv=conv(12, c[0], 3))}
    for i, blocks in enumerate([depth, 3 * depth, 3 * depth, depth]):
        layers[2 * i + 1] = conv(c[i], c[i + 1], 3)
        layers[2 * i + 2] = csp(c[i + 1], c[i + 1], blocks)
    layers[9] = conv(c[4], c[5], 3)
    layers[10] = spp(c[5], [3, 5, 7])
    layers[11] = csp(c[5], c[5], depth)
    for i, level in enumerate([4, 3, 2]):
        layers[12 + 4 * i] = conv(c[level + 1], c[level])
        layers[15 + 4 * i] = csp(2 * c[level], c[level], depth)
    for i, level in enumerate([2, 3, 4]):
        layers[24 + 3 * i] = conv(c[level], c[level], 3)
        layers[26 + 3 * i] = csp(2 * c[level], c[level + 1], depth)
    layers[33] = make_head(c[2:], num_classes, outputs, anchors)
    layers = {str(i): layers.get(i, Node()) for i in range(34)}
    model = Node(model=Node(**layers))
    names = COCO if num_classes == 18 else [f'type{i}' for i in range(num_classes - 1)]
    model.names = ['person', *names]
    return model


def make_newer_release(**kwargs):
    """Makes the layers of YOLOv5 6.0 and later, which differ from those of 5.0 in four layers."""
    model = make_release(**kwargs)
    c = kwargs.get('widths', TINY)
    layers(model).update(
        {
            '0': conv(3, c[0], 6),
            '4': csp(c[2], c[2], 2 * kwargs.get('depth', 1)),  # 6 blocks times 1 / 3
            '10': csp(c[5], c[5], kwargs.get('depth', 1)),
            '11': spp(c[5], 5),
        }
    )
    return model


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Makes a function that pickles a released model, whose class does not exist afterwards."""

    def save(**content):
        path = tmp_path / 'release.pt'
        with monkeypatch.context() as patch:
            module = types.ModuleType('models')
            module.Node = Node
            patch.setitem(sys.modules, 'models', module)
            torch.save(dict(epoch=-1, ema=None, optimizer=None) | content, path)
        return path

    return save


def run_conv(module, images, stride=1):
    """Runs a convolution with batch norm and SiLU, in float64."""
    weight = module._modules['conv']._parameters['weight'].double()
    bn, padding = module._modules['bn'], (weight.shape[-1] - 1) // 2
    outputs = functional.conv2d(images, weight, stride=stride, padding=padding)
    values = [bn._buffers['running_mean'], bn._buffers['running_var'], *bn._parameters.values()]
    return functional.silu(functional.batch_norm(outputs, *(v.double() for v in values), eps=1e-3))


def run_csp(module, images, shortcut):
    parts = module._modules
    outputs = run_conv(parts['cv1'], images)
    for block in parts['m']._modules.values():
        inner = run_conv(block._modules['cv2'], run_conv(block._modules['cv1'], outputs))
        outputs = inner + outputs if shortcut else inner
    return run_conv(parts['cv3'], torch.cat([outputs, run_conv(parts['cv2'], images)], 1))


def run_newer_backbone(model, images):
    """Runs layers 0 to 11 of YOLOv5 6.0 one by one; returns the outputs of the last four stages."""
    parts, outputs = layers(model), []
    images = run_conv(parts['0'], images, 2)
    for number in (1, 3, 5, 7, 9):
        images = run_conv(parts[str(number)], images, 2)
        images = run_csp(parts[str(number + 1)], images, number < 9)
        outputs.append(images)
    pooled = [run_conv(parts['11']._modules['cv1'], images)]
    for _ in range(3):
        pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
    last = run_conv(parts['11']._modules['cv2'], torch.cat(pooled, 1))
    return [*outputs[1:4], last]


def options_of(command):
    """Returns the config and the --cfg-options of a printed command."""
    words = shlex.split(command)
    at = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    pairs = (word.split('=', 1) for word in words[at + 1 :])
    config = next(word for word in words if word.endswith('.py') and 'configs/' in word)
    return config, {key: DictAction._parse_iterable(value) for key, value in pairs}


def build(repo, command):
    """Builds the model of a printed command."""
    config, options = options_of(command)
    return MODELS.build(load_config(repo / config, options).model)


def test_small_model_is_converted_for_its_config(run_tool, save, repo, tmp_path, capsys):
    widths = [16, 32, 64, 128, 192, 256]
    path, out = save(model=make_release(widths)), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        'KAPAO, 17 keypoints, width 0.25, depth 0.33: 3.20 M parameters',
        lines[1],
        f'{out}: float32, {out.stat().st_size / 1e6:.1f} MB',
        f'Next: kapao test configs/kapao/kapao_n_coco.py {out}',
    ]
    check_checkpoint(out, build(repo, lines[-1]))


def test_meta_describes_the_model_and_its_source(run_tool, save, tmp_path):
    release = make_release()
    path, out = save(model=release), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    found = load_weights_only(out)
    stored = read_stored_config(found, str(out))  # enough to predict
    found['meta'].pop('cfg')
    assert letterbox_settings(stored) == (1280, False)
    check_checkpoint(out, MODELS.build(stored.model))
    dataset_meta = found['meta'].pop('dataset_meta')
    assert [*dataset_meta['keypoint_id2name'].values()] == release.names[1:]
    assert found['meta'] == dict(
        kind='KAPAO',
        num_keypoints=17,
        classes=release.names,
        anchors=ANCHORS,
        widen_factor=0.125,
        deepen_factor=0.33,
        source='release.pt',
        source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        kapao_mm_version=__version__,
    )
    weight = release._modules['model']._modules['33']._modules['m']._modules['2']._parameters
    converted = found['state_dict']['head.head_module.convs.2.weight']
    assert converted.dtype == torch.float32
    torch.testing.assert_close(converted, weight['weight'].float(), rtol=0, atol=0)
    assert found['state_dict']['backbone.stem.conv.bn.num_batches_tracked'] == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ('sizes', 'printed'),
    [
        (dict(depth=2), 'width 0.125, depth 0.67'),
        (dict(widths=[16, 32, 56, 104, 160, 208]), 'width 0.203, depth 0.33'),  # of 0.2, rounded up
        (dict(anchors=[[[10, 20]] * 3] * 4), 'width 0.125, depth 0.33'),
    ],
)
def test_command_sets_unusual_sizes_and_anchors(
    run_tool, save, repo, tmp_path, capsys, sizes, printed
):
    path, out = save(model=make_release(**sizes)), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    text = capsys.readouterr().out
    assert f'KAPAO, 17 keypoints, {printed}: ' in text
    model = build(repo, text.splitlines()[-1])
    check_checkpoint(out, model)
    anchors = torch.tensor(sizes.get('anchors', ANCHORS)) / torch.tensor([8, 16, 32, 64]).view(
        4, 1, 1
    )
    torch.testing.assert_close(model.head.anchors, anchors)
    stored = MODELS.build(read_stored_config(load_weights_only(out), str(out)).model)
    torch.testing.assert_close(stored.head.anchors, anchors)
    check_checkpoint(out, stored)
    assert ('anchors differ' in text) == ('anchors' in sizes)


@pytest.mark.slow
def test_command_names_the_config_with_the_same_keypoints(run_tool, save, repo, tmp_path, capsys):
    path, out = save(model=make_release(num_classes=15, outputs=48)), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    printed = capsys.readouterr().out
    assert printed.startswith('KAPAO, 14 keypoints, ')
    assert 'configs/kapao/kapao_l_crowdpose.py' in printed
    check_checkpoint(out, build(repo, printed.splitlines()[-1]))

    path = save(model=make_release(num_classes=21, outputs=66))
    assert run_tool(TOOL, path, out) is None
    printed = capsys.readouterr().out
    assert (
        'Its keypoints are those of no known dataset, or in another order: type0, type1' in printed
    )
    assert 'Next: kapao test CONFIG ' in printed
    assert 'dataset_meta' not in load_weights_only(out)['meta']


def test_another_order_of_keypoints_is_reported(run_tool, save, tmp_path, capsys):
    release = make_release()
    release.names[1:3] = 'left_eye', 'nose'
    assert run_tool(TOOL, save(model=release), tmp_path / 'out.pth') is None
    assert 'in another order: left_eye, nose, right_eye, ' in capsys.readouterr().out


def test_averaged_model_is_converted(run_tool, save, tmp_path):
    averaged = make_release()
    path, out = save(model=make_release(), ema=averaged), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    expected = averaged._modules['model']._modules['1']._modules['conv']._parameters['weight']
    found = load_weights_only(out)['state_dict']['backbone.stage1.0.conv.weight']
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0)


@pytest.fixture
def detector(save):
    return save(model=make_release(num_classes=80, outputs=85))


def test_detector_is_converted_without_its_head(run_tool, detector, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, detector, out) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('YOLOv5-P6, width 0.125, depth 0.33: 0.7')
    assert lines[0].endswith('of backbone and neck; left out: the head, for 80 classes')
    config, options = options_of(lines[-1])
    assert lines[-1].startswith(f'Next: kapao train {config} --cfg-options ')
    assert options['load_from'] == str(out)
    found = load_weights_only(out)
    assert {name.partition('.')[0] for name in found['state_dict']} == {'backbone', 'neck'}
    assert found['meta']['num_keypoints'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [{}, dict(widths=[32, 64, 128, 256, 384, 512])])
def test_newer_detector_computes_the_same_after_conversion(
    run_tool, save, repo, tmp_path, capsys, sizes
):
    release = make_newer_release(num_classes=80, outputs=85, **sizes)
    path, out = save(model=release), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    printed = capsys.readouterr().out
    assert 'stem of 6 x 6 as Focus, the same convolution' in printed
    assert 'Its pyramid pooling has kernels [5, 9, 13]; the command below sets them' in printed
    assert 'Its pyramid pooling comes after the last CSP layer' in printed
    model = build(repo, printed.splitlines()[-1]).double().eval()
    found = load_weights_only(out)
    model.load_state_dict(found['state_dict'], strict=False)
    assert 'partial' not in found['meta']
    images = torch.rand(2, 3, 64, 128, dtype=torch.double)
    with torch.no_grad():
        for level, expected in zip(
            model.backbone(images), run_newer_backbone(release, images), strict=True
        ):
            torch.testing.assert_close(level, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('change', ['0', '4', '10 11', ''])
def test_each_difference_between_releases_is_found_by_itself(
    run_tool, save, repo, tmp_path, capsys, change
):
    release, newer = make_release(num_classes=80, outputs=85), make_newer_release()
    for number in change.split():
        layers(release)[number] = layers(newer)[number]
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, save(model=release), out) is None
    command = capsys.readouterr().out.splitlines()[-1]
    assert ('spp_last=True' in command) == ('spp_kernal_sizes=[5,9,13]' in command)
    assert ('spp_last=True' in command) == ('10' in change)
    _, options = options_of(command)
    assert options['model.backbone.arch_ovewrite'][1][2] == (2 if change == '4' else 3)
    model = build(repo, command)
    missing, unexpected = model.load_state_dict(load_weights_only(out)['state_dict'], strict=False)
    assert (unexpected, {name.split('.')[0] for name in missing}) == ([], {'head'})


def numbers_of(line):
    """Returns the numbers after `taken`, `adapted` and `left out`."""
    return [int(x.replace(',', '')) for x in re.findall(r'(?:taken|adapted|out): ([\d,]+)', line)]


def count_numbers(node):
    own = [*node._parameters.values(), *node._buffers.values()]
    return sum(value.numel() for value in own) + sum(map(count_numbers, node._modules.values()))


@pytest.mark.parametrize('make', [make_release, make_newer_release])
@pytest.mark.parametrize('head', [{}, dict(num_classes=80, outputs=85)])
def test_each_number_of_a_release_is_taken_adapted_or_left_out(
    run_tool, save, tmp_path, capsys, make, head
):
    release = make(**head)
    assert run_tool(TOOL, save(model=release), tmp_path / 'out.pth') is None
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith('Numbers taken: '))
    taken, adapted, left_out = numbers_of(line)
    assert taken + adapted + left_out == count_numbers(release)
    assert adapted == (8 * 3 * 36 if make is make_newer_release else 0)
    assert left_out == 48 + (255 * (32 + 64 + 96 + 128 + 4) if head else 0)


@pytest.mark.slow
@pytest.mark.parametrize('spelled', ['head', 'top_head', 'Top-Head'])
def test_crowdpose_is_known_in_other_spellings(run_tool, save, tmp_path, capsys, spelled):
    release = make_release(num_classes=15, outputs=48)
    joints = ['shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle']
    sides = [f'{side}_{joint}' for joint in joints for side in ('left', 'right')]
    release.names = ['person', *sides, spelled, 'neck']
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, save(model=release), out) is None
    assert 'no known dataset' not in capsys.readouterr().out
    meta = load_weights_only(out)['meta']
    assert meta['dataset_meta']['dataset_name'] == 'crowdpose'
    assert meta['classes'] == release.names


def make_yolox(width=0.25):
    """The weights of MMDetection's YOLOX of the width of KAPAO-N."""
    widths = [int(size * width) for size in (256, 512, 1024)]
    backbone = CSPDarknet(widen_factor=width, deepen_factor=0.33)
    neck = YOLOXPAFPN(widths, widths[0], 1)
    weights = nn.ModuleDict(dict(backbone=backbone, neck=neck)).state_dict()
    return weights | {'bbox_head.multi_level_cls_convs.0.0.conv.weight': torch.zeros(7)}


@pytest.mark.slow
def test_training_starts_from_a_part_of_yolox(run_tool, toy, tmp_path, capsys):
    path, out = tmp_path / 'yolox.pth', tmp_path / 'out.pth'
    torch.save(dict(meta={}, state_dict=make_yolox()), path)
    assert run_tool(TOOL, path, out) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('YOLOX-P5, width 0.25, depth 0.33: ')
    assert 'stem for RGB from 0 to 1 instead of BGR from 0 to 255' in lines[1]
    assert ': a part of the ' in lines[0]
    assert lines[2].endswith(' numbers of backbone and neck keep their initial values')
    assert (
        lines[-1]
        == f'Next: kapao train configs/kapao/kapao_n_coco.py --cfg-options load_from={out}'
    )
    values = dict(data_root=toy, load_from=out, input_size=128, max_epochs=1, batch_size=2)
    values |= {'train_dataloader.num_workers': 0, 'default_hooks.checkpoint.interval': 1}
    values['optim_wrapper.optimizer.lr'] = 0  # the weights stay as they start
    args = ['--no-validate', '--cfg-options', *(f'{key}={value}' for key, value in values.items())]
    work = tmp_path / 'work'
    config = 'configs/kapao/kapao_n_toy.py'
    assert run_tool('train.py', config, '--work-dir', work, *args) is None
    trained = load_weights_only(work / 'epoch_1.pth')['state_dict']
    for name, value in load_weights_only(out)['state_dict'].items():
        if 'running_' not in name and 'num_b' not in name:
            torch.testing.assert_close(trained[name], value, rtol=0, atol=0)
    (log,) = work.glob('*/*.log')
    assert 'weights of backbone and neck, and 8 of the head, keep their initial' in log.read_text()


@pytest.mark.slow
def test_unconverted_yolox_is_told_how_to_start_training(run_tool, toy, tmp_path):
    path = tmp_path / 'yolox.pth'
    torch.save(dict(meta={}, state_dict=make_yolox()), path)
    values = [f'data_root={toy}', f'load_from={path}']
    args = ['--work-dir', tmp_path / 'work', '--cfg-options', *values]
    message = run_tool('train.py', 'configs/kapao/kapao_n_toy.py', *args)
    assert 'it is a YOLOX detector of MMDetection; take what fits: kapao convert ' in message


@pytest.mark.slow
def test_training_starts_from_a_detector_with_a_new_head(run_tool, detector, toy, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, detector, out) is None
    _, options = options_of(capsys.readouterr().out.splitlines()[-1])
    del options['load_from']
    options |= {'data_root': toy, 'input_size': 128, 'max_epochs': 1, 'batch_size': 2}
    options |= {'train_dataloader.num_workers': 0, 'default_hooks.checkpoint.interval': 1}
    options['optim_wrapper.optimizer.lr'] = 0  # the weights stay as they start

    def train(name, **more):
        values = (f'{key}={value}' for key, value in (options | more).items())
        args = ['--work-dir', tmp_path / name, '--no-validate', '--cfg-options', *values]
        assert run_tool('train.py', 'configs/kapao/kapao_n_toy.py', *args) is None
        found = load_weights_only(tmp_path / name / 'epoch_1.pth')['state_dict']
        return {k: v for k, v in found.items() if 'running_' not in k and 'num_b' not in k}

    given = load_weights_only(out)['state_dict']
    fresh, started = train('fresh'), train('started', load_from=out)
    for name, weight in started.items():
        expected = fresh[name] if name.startswith('head.') else given[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=0)
    assert sum(name.startswith('head.') for name in started) == 8
    (log,) = (tmp_path / 'started').glob('*/*.log')
    assert f'{out} fills backbone and neck; 8 weights of the head are missing' in log.read_text()


@pytest.mark.slow
def test_training_of_another_size_does_not_start_from_a_detector(run_tool, detector, toy, tmp_path):
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, detector, out) is None
    values = [f'data_root={toy}', f'load_from={out}']
    args = ['--work-dir', tmp_path / 'work', '--cfg-options', *values]
    message = run_tool('train.py', 'configs/kapao/kapao_n_toy.py', *args)
    assert f'training cannot start from {out}: ' in message


@pytest.fixture
def refused(run_tool, tmp_path):
    """Makes a function that checks that a file is refused with one line and without output."""

    def check(path, message):
        printed = run_tool(TOOL, path, tmp_path / 'out.pth')
        assert printed.startswith(f'error: {path} ') and message in printed
        assert '\n' not in printed
        assert not list(tmp_path.glob('out*'))

    return check


@pytest.mark.parametrize('content', [b'', b'weights', b'\xff\xd8\xff\xe0 JFIF'])
def test_file_that_is_not_a_checkpoint_is_refused(refused, tmp_path, content):
    (tmp_path / 'a.pt').write_bytes(content)
    refused(tmp_path / 'a.pt', 'cannot be read safely')


def save_ultralytics(path, monkeypatch):
    """Pickles a model as the package Ultralytics does, which is not installed."""
    for name in ('ultralytics', 'ultralytics.nn', 'ultralytics.nn.tasks'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    cls = type('PoseModel', (Node,), dict(__module__='ultralytics.nn.tasks'))
    sys.modules['ultralytics.nn.tasks'].PoseModel = cls
    model = cls(model=cls())
    torch.save(dict(model=model, train_args={}, version='8.3.0', path=PurePosixPath('a')), path)
    monkeypatch.undo()


def test_pickle_of_ultralytics_is_named_by_the_converter(refused, tmp_path, monkeypatch):
    save_ultralytics(tmp_path / 'a.pt', monkeypatch)
    refused(tmp_path / 'a.pt', f'{UNKNOWN}it is a model of the Ultralytics package (YOLOv8, YOLO11')


@pytest.mark.slow
def test_pickle_of_ultralytics_is_named_as_a_start_of_training(
    run_tool, toy, tmp_path, monkeypatch
):
    path = tmp_path / 'yolo11n-pose.pt'
    save_ultralytics(path, monkeypatch)
    values = [f'data_root={toy}', f'load_from={path}']
    args = ['--work-dir', tmp_path / 'work', '--cfg-options', *values]
    message = run_tool('train.py', 'configs/kapao/kapao_n_toy.py', *args)
    assert f'checkpoint {path} is a model of the Ultralytics package (YOLOv8, YOLO11' in message


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            dict(model={'backbone.backbone.dark2.0.conv.weight': torch.zeros(2)}),
            "it is a YOLOX detector of its authors' release, whose layers do not fit",
        ),
        ([1, 2], 'it holds a list'),
        (dict(model=3), 'it has no model'),
        (dict(meta={}, state_dict={}), 'it already is in the format of MMEngine'),
    ],
)
def test_checkpoint_of_another_kind_is_refused(refused, tmp_path, content, message):
    torch.save(content, tmp_path / 'a.pt')
    refused(tmp_path / 'a.pt', message)


def test_missing_and_empty_archives_are_refused(refused, tmp_path):
    refused(tmp_path / 'missing.pt', 'does not exist')
    with zipfile.ZipFile(tmp_path / 'zip.pt', 'w') as file:
        file.writestr('a/readme', 'no pickle')
    refused(tmp_path / 'zip.pt', 'cannot be read safely')


def remove_the_last_level(model):
    for i in range(25, 34):
        del layers(model)[str(i)]


def set_layer(number, *args, make=conv):
    return lambda model: layers(model).update({number: make(*args)})


def remove_batch_norm(model):
    del layers(model)['20']._modules['bn']


def set_attribute(name, value):
    return lambda model: setattr(layers(model)['5'], name, value)


def set_parameter(value):
    def change(model):
        parameters = layers(model)['5']._modules['conv']._parameters
        parameters['weight'] = value
        if value is MISSING:
            del parameters['weight']

    return change


def set_head(number_of_classes=18, anchors=None):
    def change(model):
        layers(model)['33'].nc = number_of_classes
        if anchors is not None:
            layers(model)['33']._buffers['anchors'] = anchors

    return change


def add_doubling_modules(model):
    """Adds a tree with 2 ** 60 leaves, of which the file has 60 modules."""
    shared = conv(8, 8)
    for _ in range(60):
        shared = Node(a=shared, b=shared)
    model._modules['more'] = shared


def add_itself(model):
    layers(model)['5']._modules['self'] = model


def add_long_names(model):
    for _ in range(50):
        model._modules = {'x' * 100_000: Node(**model._modules)}


def enlarge_a_weight(model):
    parameters = layers(model)['0']._modules['conv']._modules['conv']._parameters
    parameters['weight'] = torch.zeros(1).expand(2**40, 12, 3, 3)


def make_a_bias_infinite(model):
    layers(model)['33']._modules['m']._modules['1']._parameters['bias'].data[2] = torch.inf


MISSING = object()
UNKNOWN = 'is not a released checkpoint of KAPAO or YOLOv5-P6: '
TOO_MANY = 'it has more modules than any released model'
OTHER_MODELS = [
    (remove_the_last_level, 'its layers are 0 to 24; P6 has 0 to 33'),
    (remove_batch_norm, 'the first is neck.reduce_layers.2.bn.bias'),
    (set_layer('26', 64, 72, 1, make=csp), 'the first is neck.bottom_up_blocks.0.'),
    (set_layer('13', 8, 8), 'the first is model.13.bn.bias'),
    (
        set_layer('0', 3, 8, 5),
        'its stem is neither Focus nor a convolution of 3 x 6 x 6, but 3 x 5 x 5',
    ),
    (lambda model: model._modules.clear(), "KeyError('model')"),
    (add_doubling_modules, TOO_MANY if TORCH_CAN else 'are larger than the file'),
    (add_itself, UNKNOWN),
    (add_long_names, TOO_MANY),
    (enlarge_a_weight, 'its weights are larger than the file'),
    (
        make_a_bias_infinite,
        '1 of its weights are not finite, the first is head.head_module.convs.1.bias',
    ),
    *((set_layer(number, 8, 8), UNKNOWN) for number in ('34', 'a', '-1', '9' * 5000)),
    *(
        (set_attribute(name, value), UNKNOWN)
        for name in ('_parameters', '_buffers', '_modules')
        for value in (None, 3)
    ),
    *((set_parameter(value), UNKNOWN) for value in (MISSING, 3, 'a', [])),
    *((set_head(value), UNKNOWN) for value in (None, -1, 0, 10**30, 'a', 1.5, torch.ones(3))),
    *(
        (set_head(anchors=value), UNKNOWN)
        for value in (3, torch.zeros(0), torch.zeros(1).expand(4, 2**30, 2))
    ),
    (lambda model: setattr(model, 'names', 3), UNKNOWN),
]


@pytest.mark.slow
@pytest.mark.parametrize(('change', 'message'), OTHER_MODELS)
def test_other_models_are_refused(refused, save, change, message):
    model = make_release()
    change(model)
    refused(save(model=model), message)


def test_head_with_another_number_of_outputs_is_refused(refused, save):
    message = 'its head has 60 outputs per anchor for 18 classes'
    refused(save(model=make_release(outputs=60)), message)


def test_deeply_nested_modules_are_refused(refused, save):
    model = make_release()
    deep = conv(8, 8)
    for _ in range(300):  # torch cannot save more
        deep = Node(a=Node(a=Node(a=deep)))
    model._modules['more'] = deep
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    path = save(model=model)
    sys.setrecursionlimit(limit)
    refused(path, 'is not a released checkpoint')


def test_code_in_a_released_checkpoint_is_not_run(refused, save, repo):
    class MakesFolder:
        def __reduce__(self):
            return os.mkdir, ('ran',)

    refused(save(model=make_release(), opt=MakesFolder()), 'posix.mkdir')
    assert not (repo / 'ran').exists()


def test_damaged_file_is_refused(refused, save):
    path = save(model=make_release())
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 64] = bytes(255 - byte for byte in content[half : half + 64])
    path.write_bytes(content)
    refused(path, 'cannot be read safely: it')


def test_truncated_file_does_not_replace_an_older_output(run_tool, save, tmp_path):
    path, out = save(model=make_release()), tmp_path / 'out.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    out.write_text('old')
    assert 'cannot be read safely' in run_tool(TOOL, path, out)
    assert out.read_text() == 'old'


def test_unsuitable_output_path_is_refused(run_tool, detector, tmp_path):
    assert 'would overwrite the input file' in run_tool(TOOL, detector, detector)
    assert 'does not exist' in run_tool(TOOL, detector, tmp_path / 'new/out.pth')
    assert 'is a folder' in run_tool(TOOL, detector, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['test.py', 'train.py', 'demo.py'])
def test_other_tools_refuse_released_checkpoints(run_tool, save, toy, tmp_path, tool):
    path, config = save(model=make_release()), 'configs/kapao/kapao_n_toy.py'
    work_dir = ['--work-dir', tmp_path / 'work']
    out_dir = ['--out-dir', tmp_path / 'out']
    args = {
        'test.py': [config, path, *work_dir],
        'train.py': [config, *work_dir],
        'demo.py': [toy / 'val2017', '--config', config, '--checkpoint', path, *out_dir],
    }
    options = [f'data_root={toy}', *([f'load_from={path}'] if tool == 'train.py' else [])]
    message = run_tool(tool, *args[tool], '--cfg-options', *options)
    assert f'convert it first: kapao convert {path} ' in message
