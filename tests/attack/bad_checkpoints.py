# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Damaged weight files: local, from a server, and for the converter of released checkpoints.

Weights that are read must be equal to the written ones.
"""

import io
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
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
    kinds = (damaged, released)
    with patch.dict(os.environ, environment):
        for index in range(count):
            place = folder / str(index)
            place.mkdir()
            name, attempt = kinds[index % len(kinds)](rng, place, server)
            yield f'{index}: {name}', partial(watched, attempt)
    server.shutdown()
    server.server_close()


def watched(attempt: Callable[[], None]) -> None:
    """Makes an attempt, and raises AssertionError if it took too long."""
    start = time.monotonic()
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action='ignore'):
            attempt()
    finally:
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


def load_by_init_cfg(model: nn.Module, place: str) -> None:
    """Loads weights as ``init_cfg`` in a config does."""
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=place))
    for name, child in model.named_children():
        module.add_module(name, child)
    module.init_weights()


READERS = dict(
    load_weights=load_weights,
    load_checkpoint=lambda model, place: load_checkpoint(model, place, strict=True),
    init_cfg=load_by_init_cfg,
    resume=lambda model, place: load_weights(model, checkpoint_to_resume('.', place)),
)


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
    """Makes a checkpoint in which some bytes are changed, or which a server sends incompletely."""
    model = make_model()
    path = folder / 'a.pth'
    if rng.random() < 0.3:
        path = write_hashed(make_checkpoint(model), path)
    else:
        torch.save(make_checkpoint(model), path)
    what = damage(rng, path) if rng.random() < 0.95 else 'nothing changed'
    reader, is_remote = rng.choice([*READERS]), rng.random() < 0.4
    url = f'http://127.0.0.1:{server.server_port}/{folder.name}/{path.name}'
    status, part = (rng.choice([200, 404, 500]), rng.random()) if rng.random() < 0.1 else (200, 1.0)

    def attempt() -> None:
        server.content, server.status, server.part = path.read_bytes(), status, part
        found = make_model()
        READERS[reader](found, url if is_remote else str(path))
        for name, value in model.state_dict().items():
            if not torch.equal(found.state_dict()[name], value):
                raise AssertionError(f'{name} was read wrongly')

    return f'{what}, {reader}, remote: {is_remote}, answer {status}, {part:.2f} of it', attempt


def released(rng: random.Random, folder: Path, server: ThreadingHTTPServer) -> Attempt:
    """Makes a released checkpoint for the converter in which some bytes are changed."""
    made = load('tests/tools/test_official_to_mm.py')
    release = made.make_release()
    path, out = folder / 'release.pt', folder / 'out.pth'
    with patch.dict(sys.modules, models=SimpleNamespace(Node=made.Node)):
        torch.save(dict(epoch=-1, ema=None, model=release), path)
    what = damage(rng, path) if rng.random() < 0.95 else 'nothing changed'

    def attempt() -> None:
        try:
            with patch.object(sys, 'argv', ['official_to_mm.py', str(path), str(out)]):
                load('tools/model_converters/official_to_mm.py').main()
        except InputError:
            if out.exists():
                raise AssertionError('a refused checkpoint left an output') from None
            raise
        if sums(load_weights_only(out)['state_dict'].values()) != sums(tensors(release)):
            raise AssertionError('converted weights differ from the released ones')

    return f'released, {what}', attempt


def sums(tensors: Iterable[Tensor]) -> list[float]:
    """Returns the sorted sums of tensors."""
    return sorted(value.double().sum().item() for value in tensors)


def tensors(node: Any) -> list[Tensor]:
    """Returns the tensors of a released model without its anchors."""
    own = [*node._parameters.values(), *node._buffers.values()]
    if 'anchor_grid' in node._buffers:
        own = [*node._parameters.values()]
    return own + [value for child in node._modules.values() for value in tensors(child)]
