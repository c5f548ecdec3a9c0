# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os
import shlex
import sys
import types
import zipfile

import pytest
import torch
from mmengine.config import DictAction
from mmpose.registry import MODELS
from torch import nn

from kapao_mm import __version__
from kapao_mm.engine import check_checkpoint
from kapao_mm.engine.weights_only import TORCH_CAN, load_weights_only
from kapao_mm.utils.config import load_config

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
    """A module of a release: of a foreign class, with the attributes of torch's."""

    __module__ = 'models'  # where pickle looks for it

    def __init__(self, parameters=(), buffers=(), **modules):
        self._parameters = {k: nn.Parameter(v.half(), False) for k, v in dict(parameters).items()}
        self._buffers = {
            k: v.half() if v.is_floating_point() else v for k, v in dict(buffers).items()
        }
        self._modules = modules


def conv(width_in, width_out, size=1):
    weight = torch.randn(width_out, width_in, size, size)
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
    """The layers of a release (docs/method.md); ``depth`` blocks where the base depth is 3."""
    c = widths
    layers = {0: Node(conv=conv(12, c[0], 3))}
    for i, blocks in enumerate([depth, 3 * depth, 3 * depth, depth]):
        layers[2 * i + 1] = conv(c[i], c[i + 1], 3)
        layers[2 * i + 2] = csp(c[i + 1], c[i + 1], blocks)
    layers[9] = conv(c[4], c[5], 3)
    layers[10] = Node(cv1=conv(c[5], c[5] // 2), cv2=conv(c[5] // 2 * 4, c[5]))
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


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Makes a function that pickles a release whose class is gone afterwards."""

    def save(**content):
        path = tmp_path / 'release.pt'
        with monkeypatch.context() as patch:
            module = types.ModuleType('models')
            module.Node = Node
            patch.setitem(sys.modules, 'models', module)
            torch.save(dict(epoch=-1, ema=None, optimizer=None) | content, path)
        return path

    return save


def options_of(command):
    """The config and the --cfg-options of a printed command."""
    words = shlex.split(command)
    at = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    pairs = (word.split('=', 1) for word in words[at + 1 :])
    config = next(word for word in words if word.endswith('.py') and 'configs/' in word)
    return config, {key: DictAction._parse_iterable(value) for key, value in pairs}


def build(repo, command):
    """The model that a printed command would build."""
    config, options = options_of(command)
    return MODELS.build(load_config(repo / config, options).model)


def test_a_small_release_gets_the_config_of_its_size(run_tool, save, repo, tmp_path, capsys):
    widths = [16, 32, 64, 128, 192, 256]
    path, out = save(model=make_release(widths)), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        'KAPAO, 17 keypoints, width 0.25, depth 0.33: 3.20 M parameters',
        f'{out}: float32, {out.stat().st_size / 1e6:.1f} MB',
        f'Next: kapao test configs/kapao/kapao_n_coco.py {out}',
    ]
    check_checkpoint(out, build(repo, lines[-1]))


def test_the_file_says_what_it_is(run_tool, save, tmp_path):
    release = make_release()
    path, out = save(model=release), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    found = load_weights_only(out)
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
    ('sizes', 'said'),
    [
        (dict(depth=2), 'width 0.125, depth 0.67'),
        (dict(widths=[16, 32, 56, 104, 160, 208]), 'width 0.203, depth 0.33'),  # of 0.2, rounded up
        (dict(anchors=[[[10, 20]] * 3] * 4), 'width 0.125, depth 0.33'),
    ],
)
def test_any_size_and_anchors_are_set_by_the_command(
    run_tool, save, repo, tmp_path, capsys, sizes, said
):
    path, out = save(model=make_release(**sizes)), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    printed = capsys.readouterr().out
    assert f'KAPAO, 17 keypoints, {said}: ' in printed
    model = build(repo, printed.splitlines()[-1])
    check_checkpoint(out, model)
    anchors = torch.tensor(sizes.get('anchors', ANCHORS)) / torch.tensor([8, 16, 32, 64]).view(
        4, 1, 1
    )
    torch.testing.assert_close(model.head.anchors, anchors)
    assert ('anchors are not' in printed) == ('anchors' in sizes)


@pytest.mark.slow
def test_other_keypoints_get_their_own_config(run_tool, save, repo, tmp_path, capsys):
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
        'Its keypoints are of no dataset known here, or in another order: type0, type1' in printed
    )
    assert 'Next: kapao test CONFIG ' in printed
    assert 'dataset_meta' not in load_weights_only(out)['meta']


def test_another_order_of_keypoints_is_said(run_tool, save, tmp_path, capsys):
    release = make_release()
    release.names[1:3] = 'left_eye', 'nose'
    assert run_tool(TOOL, save(model=release), tmp_path / 'out.pth') is None
    assert 'in another order: left_eye, nose, right_eye, ' in capsys.readouterr().out


def test_the_averaged_model_is_taken(run_tool, save, tmp_path):
    averaged = make_release()
    path, out = save(model=make_release(), ema=averaged), tmp_path / 'out.pth'
    assert run_tool(TOOL, path, out) is None
    expected = averaged._modules['model']._modules['1']._modules['conv']._parameters['weight']
    found = load_weights_only(out)['state_dict']['backbone.stage1.0.conv.weight']
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0)


@pytest.fixture
def detector(save):
    return save(model=make_release(num_classes=80, outputs=85))


def test_a_detector_leaves_its_head(run_tool, detector, tmp_path, capsys):
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
def test_training_starts_from_it_and_the_head_from_nothing(
    run_tool, detector, toy, tmp_path, capsys
):
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, detector, out) is None
    _, options = options_of(capsys.readouterr().out.splitlines()[-1])
    del options['load_from']
    options |= {'data_root': toy, 'input_size': 128, 'max_epochs': 1, 'batch_size': 2}
    options |= {'train_dataloader.num_workers': 0, 'default_hooks.checkpoint.interval': 1}
    options['optim_wrapper.optimizer.lr'] = 0  # the end is the start

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
def test_training_of_another_size_does_not_start_from_it(run_tool, detector, toy, tmp_path):
    out = tmp_path / 'out.pth'
    assert run_tool(TOOL, detector, out) is None
    values = [f'data_root={toy}', f'load_from={out}']
    args = ['--work-dir', tmp_path / 'work', '--cfg-options', *values]
    message = run_tool('train.py', 'configs/kapao/kapao_n_toy.py', *args)
    assert f'training cannot start from {out}: ' in message


def foreign_files(tmp_path):
    """Files that are no release, by what the message says of them."""
    (tmp_path / 'empty.pt').write_bytes(b'')
    (tmp_path / 'text.pt').write_text('weights')
    (tmp_path / 'image.pt').write_bytes(b'\xff\xd8\xff\xe0 JFIF')
    with zipfile.ZipFile(tmp_path / 'zip.pt', 'w') as file:
        file.writestr('a/readme', 'no pickle')
    torch.save([1, 2], tmp_path / 'list.pt')
    torch.save(dict(model=3), tmp_path / 'dict.pt')
    torch.save(dict(meta={}, state_dict={}), tmp_path / 'converted.pt')
    return {
        'empty.pt': 'cannot be read safely',
        'text.pt': 'cannot be read safely',
        'image.pt': 'cannot be read safely',
        'zip.pt': 'cannot be read safely',
        'list.pt': 'it holds a list',
        'dict.pt': 'it has no model',
        'converted.pt': 'it is in the format of MMEngine already',
        'missing.pt': 'does not exist',
    }


def test_foreign_files_get_one_line_and_leave_nothing(run_tool, tmp_path):
    for name, said in foreign_files(tmp_path).items():
        message = run_tool(TOOL, tmp_path / name, tmp_path / 'out.pth')
        assert message.startswith(f'error: {tmp_path / name} ')
        assert said in message
        assert '\n' not in message
    assert {path.suffix for path in tmp_path.iterdir()} == {'.pt'}


@pytest.mark.slow
def test_other_layouts_are_refused(run_tool, save, tmp_path):
    def refuse(model, said):
        path = save(model=model)
        message = run_tool(TOOL, path, tmp_path / 'out.pth')
        assert message.startswith(f'error: {path} is no released KAPAO or YOLOv5-P6: ')
        assert said in message
        assert not list(tmp_path.glob('out*'))

    def layers(model):
        return model._modules['model']._modules

    five_levels = make_release()
    for i in range(25, 34):
        del layers(five_levels)[str(i)]
    refuse(five_levels, 'its layers are 0 to 24; P6 has 0 to 33')
    refuse(make_release(outputs=60), 'its head has 60 outputs an anchor for 18 classes')
    fused = make_release()
    del layers(fused)['20']._modules['bn']
    refuse(fused, 'the first is neck.reduce_layers.2.bn.bias')
    wider = make_release()
    layers(wider)['26'] = csp(64, 72, 1)
    refuse(wider, 'the first is neck.bottom_up_blocks.0.')
    longer = make_release()
    layers(longer)['13'] = conv(8, 8)
    refuse(longer, 'the first is model.13.bn.bias')
    stemless = make_release()
    layers(stemless)['0'] = conv(3, 8, 6)
    refuse(stemless, 'its first layer is a convolution, as in later YOLOv5s')
    refuse(Node(), "KeyError('model')")


class Runs:
    def __reduce__(self):
        return os.mkdir, ('ran',)


def test_a_hostile_file_is_refused(run_tool, save, tmp_path, repo):
    path = save(model=make_release(), opt=Runs())
    message = run_tool(TOOL, path, tmp_path / 'out.pth')
    assert message == f'error: {path} cannot be read safely: ' + message.partition('safely: ')[2]
    assert 'posix.mkdir' in message
    assert not (repo / 'ran').exists()
    assert not list(tmp_path.glob('out*'))


def test_a_truncated_file_leaves_an_older_output_alone(run_tool, save, tmp_path):
    path, out = save(model=make_release()), tmp_path / 'out.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    out.write_text('old')
    assert 'cannot be read safely' in run_tool(TOOL, path, out)
    assert out.read_text() == 'old'


def test_the_output_needs_a_place_of_its_own(run_tool, detector, tmp_path):
    assert 'would replace the file' in run_tool(TOOL, detector, detector)
    assert 'does not exist' in run_tool(TOOL, detector, tmp_path / 'new/out.pth')
    assert 'is a folder' in run_tool(TOOL, detector, tmp_path)


def refuse(run_tool, path, folder, said):
    message = run_tool(TOOL, path, folder / 'out.pth')
    assert message.startswith(f'error: {path} ') and said in message and '\n' not in message
    assert not list(folder.glob('out*'))


def test_modules_that_double_are_refused_at_once(run_tool, save, tmp_path):
    """A tree of them has 2 ** 60 leaves, the file 60 modules."""
    model = make_release()
    shared = conv(8, 8)
    for _ in range(60):
        shared = Node(a=shared, b=shared)
    model._modules['more'] = shared
    said = 'it has more modules than any release' if TORCH_CAN else 'are larger than the file'
    refuse(run_tool, save(model=model), tmp_path, said)


def test_a_module_inside_itself_is_refused(run_tool, save, tmp_path):
    model = make_release()
    model._modules['model']._modules['5']._modules['self'] = model
    refuse(run_tool, save(model=model), tmp_path, 'is no released KAPAO')


def test_modules_nested_too_deeply_are_refused(run_tool, save, tmp_path):
    model = make_release()
    deep = conv(8, 8)
    for _ in range(300):  # torch saves no more
        deep = Node(a=Node(a=Node(a=deep)))
    model._modules['more'] = deep
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    path = save(model=model)
    sys.setrecursionlimit(limit)
    refuse(run_tool, path, tmp_path, 'is no released KAPAO')


def test_names_that_add_up_are_refused(run_tool, save, tmp_path):
    model = make_release()
    for _ in range(50):
        model = Node(**{'x' * 100_000: model})
    refuse(run_tool, save(model=model), tmp_path, 'it has more modules than any release')


def test_weights_that_claim_more_than_the_file_holds_are_refused(run_tool, save, tmp_path):
    model = make_release()
    layer = model._modules['model']._modules['0']._modules['conv']._modules['conv']
    layer._parameters['weight'] = torch.zeros(1).expand(2**40, 12, 3, 3)
    refuse(run_tool, save(model=model), tmp_path, 'its weights are larger than the file')


def test_weights_that_are_not_finite_are_not_converted(run_tool, save, tmp_path):
    model = make_release()
    bias = model._modules['model']._modules['33']._modules['m']._modules['1']._parameters['bias']
    bias.data[2] = torch.inf
    said = '1 of its weights are not finite, the first is head.head_module.convs.1.bias'
    refuse(run_tool, save(model=model), tmp_path, said)


def test_a_damaged_release_is_not_converted(run_tool, save, tmp_path):
    path = save(model=make_release())
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 64] = bytes(255 - byte for byte in content[half : half + 64])
    path.write_bytes(content)
    refuse(run_tool, path, tmp_path, 'cannot be read safely: it')


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['test.py', 'train.py', 'demo.py'])
def test_a_release_given_to_another_tool_names_the_converter(run_tool, save, toy, tmp_path, tool):
    path, config = save(model=make_release()), 'configs/kapao/kapao_n_toy.py'
    args = {
        'test.py': [config, path, '--work-dir', tmp_path / 'work'],
        'demo.py': [
            toy / 'val2017',
            '--config',
            config,
            '--checkpoint',
            path,
            '--out-dir',
            tmp_path / 'out',
        ],
        'train.py': [config, '--work-dir', tmp_path / 'work'],
    }
    options = [f'data_root={toy}', *([f'load_from={path}'] if tool == 'train.py' else [])]
    message = run_tool(tool, *args[tool], '--cfg-options', *options)
    assert f'convert it first: kapao convert {path} ' in message
