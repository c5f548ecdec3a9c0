# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Malicious, damaged and unsuitable weight files: local, from a server, and for the converter.

Weights that are read must be equal to the written ones, and no code may have run.
"""

import io
import os
import random
import struct
import sys
import threading
import time
import types
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from _helpers import load
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from kapao_mm import register_all_modules
from kapao_mm.engine import checkpoint_to_resume, load_weights, write_hashed
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError

MAX_SECONDS = 20  # for an attempt, on a busy machine
Attempt = tuple[str, Callable[[], None]]


class Runs:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


class Handler(BaseHTTPRequestHandler):
    """Sends the content of the server, or a part of it."""

    def do_GET(self) -> None:
        content, status = self.server.content, self.server.status
        self.send_response(status)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content[: int(len(content) * self.server.part)])

    def log_message(self, *args: object) -> None:
        pass


def attempts(count: int, seed: int, folder: Path) -> Iterator[Attempt]:
    """Yields a description and a callable for each attempt."""
    register_all_modules()
    MMLogger.get_current_instance().setLevel('ERROR')
    rng = random.Random(seed)
    torch.manual_seed(seed)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = dict(TORCH_HOME=str(folder / 'torch'), no_proxy='127.0.0.1')
    kinds = [partial(kind, server=server) for kind in (damaged, malicious, unsuitable)] + [released]
    with patch.dict(os.environ, environment):
        for index in range(count):
            place = folder / str(index)
            place.mkdir()
            name, attempt = kinds[index % len(kinds)](rng, place)
            yield f'{index}: {name}', partial(watched, attempt, place / 'ran')
    server.shutdown()
    server.server_close()


def watched(attempt: Callable[[], None], canary: Path) -> None:
    """Makes an attempt, and raises AssertionError if it took too long or ran code."""
    start = time.monotonic()
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action='ignore'):
            attempt()
    finally:
        if canary.exists():
            raise AssertionError('code of the file ran')
        if time.monotonic() - start > MAX_SECONDS:
            raise AssertionError(f'took {time.monotonic() - start:.0f} s')


def make_model() -> nn.Module:
    """Makes a model with weights, statistics and a counter."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def make_checkpoint(model: nn.Module) -> dict[str, Any]:
    """Makes a checkpoint of a model as MMEngine does."""
    weights = model.state_dict()
    return dict(
        meta=dict(epoch=1, iter=4),
        state_dict=weights,
        ema_state_dict={f'module.{name}': value for name, value in weights.items()},
        message_hub=dict(log_scalars={}, runtime_info={}),
        optimizer=dict(state={}),
    )


def read_somehow(rng: random.Random, path: Path, server: ThreadingHTTPServer) -> tuple[str, Any]:
    """Returns a random way to read a file: its name, and a function that returns the weights."""
    place = str(path)
    remote = rng.random() < 0.4
    if remote:
        place = f'http://127.0.0.1:{server.server_port}/{path.parent.name}/{path.name}'
    how = rng.choice(['load_weights', 'load_checkpoint', 'init_cfg', 'resume'])

    def read() -> dict[str, Tensor]:
        if remote:
            server.content = path.read_bytes()
        model = make_model()
        if how == 'load_weights':
            load_weights(model, place)
        elif how == 'load_checkpoint':
            load_checkpoint(model, place, strict=True)
        elif how == 'init_cfg':
            module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=place))
            for name, child in model.named_children():
                module.add_module(name, child)
            module.init_weights()
        else:
            load_weights(model, checkpoint_to_resume(path.parent, place))
        return model.state_dict()

    server.status, server.part = 200, 1.0
    return f'{how} {"from a server" if remote else "from a file"}', read


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises AssertionError if weights differ from the expected ones."""
    for name, value in expected.items():
        if not torch.equal(found[name], value):
            raise AssertionError(f'{name} was read wrongly')


def damage(rng: random.Random, path: Path) -> str:
    """Changes some bytes of a file, and returns a description."""
    content = bytearray(path.read_bytes())
    at, length = rng.randrange(len(content)), rng.choice([1, 4, 64, 500])
    how = rng.choice(['inverted', 'zeroed', 'random', 'cut', 'removed', 'inserted', 'exchanged'])
    part = content[at : at + length]
    if how == 'cut':
        del content[at:]
    elif how == 'removed':
        del content[at : at + length]
    elif how == 'inserted':
        content[at:at] = rng.randbytes(length)
    elif how == 'exchanged':
        other = rng.randrange(len(content) - len(part) + 1)
        part, content[at : at + len(part)] = part, content[other : other + len(part)]
        content[other : other + len(part)] = part
    else:
        change = dict(inverted=lambda b: 255 - b, zeroed=lambda b: 0)
        change = change.get(how, lambda b: rng.randrange(256))
        content[at : at + length] = bytes(map(change, part))
    path.write_bytes(content)
    return f'{len(part)} bytes {how} at {at}'


def damaged(rng: random.Random, folder: Path, server: ThreadingHTTPServer) -> Attempt:
    """Makes a checkpoint in which some bytes are changed, with or without a hash in its name."""
    model = make_model()
    path = folder / 'a.pth'
    if rng.random() < 0.3:
        path = write_hashed(make_checkpoint(model), path)
    else:
        torch.save(make_checkpoint(model), path)
    how, read = read_somehow(rng, path, server)
    what = damage(rng, path) if rng.random() < 0.95 else 'nothing changed'
    if rng.random() < 0.1:
        server.status, server.part = rng.choice([200, 404, 500]), rng.random()
        what += f', answer {server.status} with {server.part:.2f} of it'
    status, part = server.status, server.part

    def attempt() -> None:
        server.status, server.part = status, part
        require_equal(read(), model.state_dict())

    return f'{what}, {how}', attempt


def malicious(rng: random.Random, folder: Path, server: ThreadingHTTPServer) -> Attempt:
    """Makes a checkpoint with a pickle that would run code or take forever to read."""
    path = folder / 'a.pth'
    checkpoint = make_checkpoint(make_model())
    what = rng.choice(['call', 'call in old format', 'opcodes', 'doubling keys', 'zip bomb'])
    if what.startswith('call'):
        runs, place = Runs(folder / 'ran'), rng.choice([*checkpoint, 'more', 'weight', 'name'])
        if place == 'weight':
            checkpoint['state_dict'] = dict(checkpoint['state_dict']) | {'0.bias': runs}
        elif place == 'name':
            checkpoint['meta'] = {runs: 1}
        else:
            checkpoint[place] = rng.choice([runs, [runs], {'a': (runs,)}])
        torch.save(checkpoint, path, _use_new_zipfile_serialization=what == 'call')
        what += f' in {place}'
    else:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a/data.pkl', pickled(rng, what, folder / 'ran'))
            archive.writestr('a/version', '3')
            if what == 'zip bomb':
                archive.writestr('a/data/0', bytes(10**7), zipfile.ZIP_DEFLATED)
    how, read = read_somehow(rng, path, server)

    def attempt() -> None:
        read()
        raise AssertionError('a malicious file was read')

    return f'{what}, {how}', attempt


def pickled(rng: random.Random, what: str, canary: Path) -> bytes:
    """Returns a malicious pickle."""
    path = str(canary).encode()
    text = b'X' + struct.pack('<I', len(path)) + path
    if what == 'doubling keys':
        return b'\x80\x02})q\x00' + b'h\x00h\x00\x86q\x00' * rng.randint(20, 1000) + b'K\x01s.'
    call = rng.choice(
        [
            b'cos\nmkdir\n' + text + b'\x85R',
            b'cposix\nmkdir\n' + text + b'\x85R',
            b'(' + text + b'ios\nmkdir\n',
            b'(cos\nmkdir\n' + text + b'o',
            b'cbuiltins\ngetattr\ncos\nsystem\n' + text + b'\x86R',
            b'cbuiltins\neval\n' + text + b'\x85R',
            b'cpathlib\nPath\n' + text + b'\x85R',
            b'cmmengine.logging.history_buffer\nHistoryBuffer\n' + text + b'\x85R',
            b'cnumpy.core.multiarray\n_reconstruct\n' + text + b'\x85R',
        ]
    )
    return b'\x80\x02' + b'(' * rng.randint(0, 3) + call + rng.randbytes(rng.randint(0, 9)) + b'.'


def unsuitable(rng: random.Random, folder: Path, server: ThreadingHTTPServer) -> Attempt:
    """Makes a readable checkpoint whose weights do not fit the model."""
    path = folder / 'a.pth'
    checkpoint = make_checkpoint(make_model())
    weights = dict(checkpoint['state_dict'])
    name = rng.choice([name for name, value in weights.items() if value.is_floating_point()])
    value = weights[name].clone()
    value.view(-1)[rng.randrange(value.numel())] = rng.choice([torch.nan, torch.inf, -torch.inf])
    changes = {
        'not finite': dict(state_dict=weights | {name: value}),
        'half, not finite': dict(state_dict=weights | {name: value.half()}),
        'average not finite': dict(ema_state_dict={f'module.{name}': value}),
        'missing': dict(state_dict={k: v for k, v in weights.items() if k != name}),
        'other shape': dict(state_dict=weights | {name: torch.zeros(7)}),
        'integers': dict(state_dict=weights | {name: weights[name].long()}),
        'no tensor': dict(state_dict=weights | {name: rng.choice([None, 'a', [1.0], {}])}),
        'huge': dict(state_dict=weights | {name: torch.zeros(1).expand(2**40)}),
        'meta tensor': dict(state_dict=weights | {name: value.to('meta')}),
        'sparse': dict(state_dict=weights | {name: weights[name].to_sparse()}),
        'no dict': dict(state_dict=rng.choice([None, 3, [weights], 'a'])),
        'other names': dict(state_dict=rng.choice([{3: value}, {None: value}, {}])),
    }
    what = rng.choice([*changes])
    torch.save(checkpoint | changes[what], path)

    def attempt() -> None:
        load_weights(make_model(), path)
        raise AssertionError('weights that do not fit were loaded')

    return f'{what}: {name}', attempt


def released(rng: random.Random, folder: Path) -> Attempt:
    """Makes a released checkpoint for the converter, with a change in its tree or bytes."""
    made = load('tests/tools/test_official_to_mm.py')
    release = made.make_release()
    expected = tensors(release)
    what = change_release(rng, made, release, folder)
    path, out = folder / 'release.pt', folder / 'out.pth'
    module = types.ModuleType('models')
    module.Node = made.Node
    limit = sys.getrecursionlimit()
    with patch.dict(sys.modules, models=module):
        sys.setrecursionlimit(20_000)  # torch saves no deep modules otherwise
        torch.save(dict(epoch=-1, ema=None, model=release), path)
        sys.setrecursionlimit(limit)
    if what == 'bytes':
        what = damage(rng, path)

    def attempt() -> None:
        arguments = ['official_to_mm.py', str(path), str(out)]
        try:
            with patch.object(sys, 'argv', arguments):
                load('tools/model_converters/official_to_mm.py').main()
        except InputError:
            if out.exists():
                raise AssertionError('a refused checkpoint left an output') from None
            raise
        if sums(read(out).values()) != sums(expected):
            raise AssertionError('converted weights differ from the released ones')

    return f'release: {what}', attempt


def read(path: Path) -> dict[str, Tensor]:
    """Reads the weights in a file."""
    return load_weights_only(path)['state_dict']


def sums(tensors: Iterable[Tensor]) -> list[float]:
    """Returns the sorted sums of tensors."""
    return sorted(value.double().sum().item() for value in tensors)


def tensors(node: Any) -> list[Tensor]:
    """Returns the tensors of a released model without its anchors."""
    own = [*node._parameters.values(), *node._buffers.values()]
    if 'anchor_grid' in node._buffers:
        own = [*node._parameters.values()]
    return own + [value for child in node._modules.values() for value in tensors(child)]


def change_release(rng: random.Random, made: ModuleType, release: Any, folder: Path) -> str:
    """Changes a released model, and returns the name of the change."""
    layers = release._modules['model']._modules
    node = layers[rng.choice(['1', '5', '33'])]
    what = rng.choice(
        ['bytes', 'bytes', 'nothing', 'doubling', 'cycle', 'deep', 'long names', 'huge', 'nan']
        + ['call', 'attribute', 'no tensor', 'missing', 'anchors', 'classes', 'extra']
    )
    if what == 'doubling':
        shared = made.conv(2, 2)
        for _ in range(rng.randint(20, 200)):
            shared = made.Node(a=shared, b=shared)
        node._modules['more'] = shared
    elif what == 'cycle':
        node._modules['again'] = rng.choice([node, release])
    elif what == 'deep':
        for _ in range(rng.randint(10, 80)):
            node._modules['more'] = made.Node(**node._modules)
    elif what == 'long names':
        node._modules = {'x' * 10**5: made.Node(**{'y' * 10**5: made.Node(**node._modules)})}
    elif what == 'call':
        node.extra = Runs(folder / 'ran')
    elif what == 'attribute':
        setattr(node, rng.choice(['_parameters', '_buffers', '_modules']), rng.choice([None, 3]))
    elif what == 'anchors':
        anchors = rng.choice([None, 3, torch.zeros(0), torch.zeros(1).expand(4, 2**30, 2)])
        layers['33']._buffers['anchors'] = anchors
    elif what == 'classes':
        layers['33'].nc = rng.choice([None, -1, 0, 10**30, 'a', 1.5, torch.ones(3)])
        release.names = rng.choice([None, 3, {}, [1, 2], 'names'])
    elif what == 'extra':
        layers[rng.choice(['34', 'a', '-1', '9' * 5000])] = made.Node()
    elif what not in ('bytes', 'nothing'):
        while not node._parameters:
            node = rng.choice([*node._modules.values()])
        name = rng.choice([*node._parameters])
        value = node._parameters[name]
        if what == 'missing':
            del node._parameters[name]
        elif what == 'nan':
            value.data.view(-1)[0] = torch.nan
        else:
            huge = value.data.view(-1)[:1].expand(2**40, *value.shape[1:])
            node._parameters[name] = huge if what == 'huge' else rng.choice([3, 'a', [value]])
    return what
