# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the config inside a checkpoint as data, so that the checkpoint alone can predict.

MMEngine stores the config of a training as Python text and would execute it. Here only literals and
``dict(...)`` are understood, and only registered classes can be built from it.
"""

import ast
from collections.abc import Iterator
from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from mmpose.registry import MODELS, TASK_UTILS

from kapao_mm.errors import InputError
from kapao_mm.utils.config import letterbox_settings

REGISTRIES = (MODELS, TASK_UTILS, MMDET_MODELS, MMENGINE_MODELS)


def read_stored_config(checkpoint: dict[str, Any], place: str) -> Config:
    """Returns what prediction needs of the config inside a checkpoint.

    These are the model, without initial weights, and the input size. No code of the config is run.

    Args:
        checkpoint: Content of the checkpoint.
        place: Path or URL of the checkpoint, for messages.

    Raises:
        InputError: If there is no config, it is not a config of KAPAO, or it is not plain data.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise InputError(
            f'checkpoint {place} has no config inside: give the config too, such as kapao_s_coco '
            '(`kapao configs` lists the names)'
        )
    try:
        stored = Config(read_literals(text))
        model = stored.model
        input_size, square = letterbox_settings(stored)
    except (AttributeError, KeyError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(
            f'the config inside checkpoint {place} cannot be read as data ({error}): give the '
            'config too'
        ) from error
    for part in _parts(model):
        part.pop('init_cfg', None)  # it could name a file to load
        if not _is_registered(part['type']):
            raise InputError(
                f'the config inside checkpoint {place} has a model with the unknown part '
                f'{part["type"]!r}: give the config too, which is executed'
            )
    return _config_for_prediction(model, input_size, square)


def read_literals(text: str) -> dict[str, Any]:
    """Evaluates assignments of literals and of ``dict(...)``, as MMEngine writes them.

    Args:
        text: Python text, such as ``a = dict(b=[1, 2])``.

    Returns:
        The values by name.

    Raises:
        ValueError: If there is anything else in the text.
        SyntaxError: If the text is not Python.
    """
    values = {}
    for statement in ast.parse(text).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise ValueError(f'line {statement.lineno} is not an assignment')
        values[statement.targets[0].id] = _literal(statement.value)
    return values


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = map(_literal, node.keys)
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict':
        if len(node.args) == 1 and isinstance(node.args[0], ast.Dict) and not node.keywords:
            return _literal(node.args[0])  # dict({...}), which names that are not identifiers need
        if not node.args and all(word.arg for word in node.keywords):
            return {word.arg: _literal(word.value) for word in node.keywords}
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    return ast.literal_eval(node)


def _parts(value: Any) -> Iterator[dict]:
    """Yields all dicts inside a value that have a type."""
    if isinstance(value, dict):
        if 'type' in value:
            yield value
        for item in list(value.values()):
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)


def _is_registered(name: Any) -> bool:
    """Returns whether a registry has a class of this name.

    A registry itself would also import any class that is named by its module.
    """
    scope, _, plain = name.rpartition('.') if isinstance(name, str) else ('', '', '')
    return any(_has(registry, scope, plain) for registry in REGISTRIES)


def _has(registry: Registry, scope: str, name: str) -> bool:
    return scope in ('', registry.scope) and name in registry.module_dict


def _config_for_prediction(model: dict, input_size: int, square: bool) -> Config:
    pipeline = [
        dict(type='CheckedLoadImage'),
        dict(type='Letterbox', input_size=input_size, square=square),
        dict(type='PackKAPAOInputs'),
    ]
    return Config(
        dict(
            default_scope='mmpose',
            data_mode='bottomup',
            model=model,
            test_dataloader=dict(dataset=dict(pipeline=pipeline)),
            visualizer=dict(type='KAPAOVisualizer'),
        )
    )
