# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Configs whose top-level variables the command line can change."""

import ast
import difflib
import inspect
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from kapao_mm.errors import InputError


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Loads a config and applies ``--cfg-options``.

    MMEngine alone applies options after the config was evaluated, so that ``data_root=/x`` would
    change the variable and nothing made from it. Here options that are top-level variables
    (``data_root``, ``input_size``) take effect before, in the file that assigns them.

    Args:
        path: Config file.
        options: Values by key as MMEngine's DictAction gives them; nested keys have dots.

    Raises:
        InputError: If the file is missing, or the first part of a key is unknown to it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'config file {path.absolute()} does not exist')
    cfg = Config.fromfile(path)
    if not options:
        return cfg
    _check_keys(path, cfg, options)
    with tempfile.TemporaryDirectory() as folder:
        changed = Config.fromfile(_copy_with_values(path, options, folder))
    cfg = Config(changed.to_dict(), filename=path)
    cfg.merge_from_dict(options)
    return cfg


def _check_keys(path: Path, cfg: Config, options: dict[str, Any]) -> None:
    """Raises if a key starts with a word that neither the config nor the Runner knows."""
    known = [*cfg, *inspect.signature(Runner.__init__).parameters]
    for key in options:
        root = key.partition('.')[0]
        if root not in known:
            near = difflib.get_close_matches(root, known, n=3)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise InputError(f'{path} has no key {root!r} (--cfg-options {key}=...){hint}')


def _copy_with_values(path: Path, values: dict[str, Any], folder: str) -> Path:
    """Copies a config and its bases into ``folder``, with ``values`` for top-level variables."""
    if path.suffix != '.py':
        return path.absolute()
    module = ast.parse(path.read_text(encoding='utf-8'))
    for node in module.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        if name == '_base_':
            bases = ast.literal_eval(node.value)
            bases = [bases] if isinstance(bases, str) else bases
            value = [
                # 'mmpose::...' names a config of an installed package
                base if '::' in base else str(_copy_with_values(path.parent / base, values, folder))
                for base in bases
            ]
        elif name in values:
            value = values[name]
        else:
            continue
        node.value = ast.parse(repr(value), mode='eval').body
    copy = Path(tempfile.mkdtemp(dir=folder)) / path.name
    copy.write_text(ast.unparse(module), encoding='utf-8')
    return copy
