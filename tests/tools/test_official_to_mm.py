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
    """Module of a released model: an unknown class with the attributes of torch's modules."""

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


@pytest.mark.parametrize(
    ('content', 'message'),
    [
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


def layers(model):
    return model._modules['model']._modules


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
