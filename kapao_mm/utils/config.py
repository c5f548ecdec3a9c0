# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loads configs, and applies ``--cfg-options`` and the other command-line flags of a run."""

import argparse
import difflib
import traceback
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log

from kapao_mm.errors import InputError

from .atomic_file import check_folder
from .cli import OptionText
from .config_variables import (
    DERIVED_KEYS,
    RUNNER_KEYS,
    check_variables,
    has_derived_values,
    set_everywhere,
)
from .dist import join_processes
from .plain_yaml import read_yaml_as_data
from .project_files import find_config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Loads a config and applies ``--cfg-options``.

    Options change the loaded config, as in MMEngine. An option for a variable at the top level of
    the config, such as ``data_root``, also changes the values derived from it
    (:func:`set_everywhere`), and these changes are logged.

    Args:
        path: Config file, or the name of one of this package's configs.
        options: Values by key; nested keys contain dots. Texts from the command line
            (:class:`kapao_mm.utils.cli.OptionText`) are converted to the types that MMEngine
            gives them.

    Raises:
        InputError: If the file is missing or broken, a key is unknown, or a variable at the top
            level has no effect.
    """
    cfg = read_config(path)
    options = options or {}
    _check_keys(cfg, options)
    try:
        options = {
            key: typed_value(value) if isinstance(value, OptionText) else value
            for key, value in options.items()
        }
        for line in _set_variables(cfg, options):
            print_log(line, 'current')
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        keys = ', '.join(options)
        raise InputError(f'--cfg-options {keys} do not fit {path}: {error}') from error
    check_variables(cfg)
    return cfg


def read_config(path: str | Path) -> Config:
    """Reads a config file as MMEngine does, but never executes tags in YAML files.

    A Python config is executed when it is read.

    Raises:
        InputError: If the file is missing, is not a config, or raises an error when executed.
    """
    read_yaml_as_data()
    path = find_config(path)
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise InputError(f'config file {path.absolute()} must end in .py, .json, .yaml or .yml')
    try:
        cfg = Config.fromfile(path)
    except InputError as error:
        raise InputError(f'config file {path.absolute()}: {error}') from error
    except (Exception, SystemExit) as error:  # the code in a config may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
        where = f', line {lines[-1]}' if lines else ''
        raise InputError(
            f'config file {path.absolute()}{where} cannot be read: {type(error).__name__}: {error}'
        ) from error
    return cfg


def typed_value(text: str) -> Any:
    """Converts the VALUE of a command-line KEY=VALUE as MMEngine's DictAction does."""
    stripped = text.strip('\'"')
    if set(stripped).isdisjoint('[(,'):  # only lists: DictAction would remove blanks in paths
        return DictAction._parse_int_float_bool(stripped)
    return DictAction._parse_iterable(text)


def apply_run_options(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the flags of ``add_run_options``, except ``--cfg-options``, into a config.

    With a launcher, it also prepares this process for its group, see :func:`join_processes`.

    Args:
        cfg: Config to change.
        args: Parsed command line.
    """
    join_processes(args.launcher)
    cfg.launcher = args.launcher
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    check_folder(cfg.work_dir)
    if args.show_dir:
        check_folder(args.show_dir)
        # Made absolute, because relative paths would be below the work directory.
        where = dict(out_dir=str(Path(args.show_dir).absolute()), interval=args.interval)
        hooks = cfg.setdefault('default_hooks', {})
        hooks['visualization'] = dict(type='PictureHook', enable=True, **where)
    fit_loaders(cfg)


def fit_loaders(cfg: Config) -> None:
    """Disables ``pin_memory`` without a GPU and ``persistent_workers`` without workers."""
    for loader in filter(None, map(cfg.get, LOADERS)):
        # Otherwise torch warns about the first and raises an error for the second.
        loader.pin_memory = loader.get('pin_memory', False) and torch.cuda.is_available()
        loader.persistent_workers = (
            loader.get('persistent_workers', False) and loader.get('num_workers', 0) > 0
        )


def inner_datasets(cfg: dict, outer: Sequence[dict] = ()) -> Iterator[tuple[dict, list[dict]]]:
    """Yields the datasets inside wrappers (RepeatDataset, CombinedDataset) with all transforms.

    Args:
        cfg: Config of a dataset or a wrapper.
        outer: Transforms of the wrappers around it.

    Yields:
        The config of a dataset, and its transforms followed by those of its wrappers.
    """
    transforms = [*(cfg.get('pipeline') or []), *outer]
    inner = cfg.get('datasets') or [cfg[key] for key in ('dataset',) if key in cfg]
    for dataset in inner:
        yield from inner_datasets(dataset, transforms)
    if not inner:
        yield cfg, transforms


def letterbox_settings(cfg: Config) -> tuple[int, bool]:
    """Returns how the ``test_dataloader`` of a config makes network inputs of images.

    Returns:
        The longer side of the network input, px, and whether it is padded to a square.

    Raises:
        InputError: If the pipeline has no Letterbox.
    """
    for _, pipeline in inner_datasets(cfg.test_dataloader.dataset):
        for step in pipeline:
            if step['type'] == 'Letterbox':
                return step['input_size'], step.get('square', False)
    raise InputError(
        f'{cfg.filename or "the config"} has no Letterbox in the pipeline of test_dataloader'
    )


def _check_keys(cfg: Config, options: dict[str, Any]) -> None:
    """Raises InputError if the first part of a key is unknown to the config and the Runner."""
    known = list(dict.fromkeys([*cfg, *DERIVED_KEYS, *RUNNER_KEYS]))
    for key in options:
        root = key.partition('.')[0]
        if root not in known:
            near = difflib.get_close_matches(root, known, n=3)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise InputError(f'{cfg.filename} has no key {root!r} (--cfg-options {key}=...){hint}')


def _set_variables(cfg: Config, options: dict[str, Any]) -> list[str]:
    """Applies the options for variables at the top level or keys inside them.

    Returns:
        Messages that say what changed.
    """
    chosen = {
        key: value
        for key, value in options.items()
        if (root := key.partition('.')[0]) not in RUNNER_KEYS and has_derived_values(cfg, root)
    }
    roots = dict.fromkeys(key.partition('.')[0] for key in chosen)
    values = Config({root: deepcopy(cfg[root]) for root in roots if root in cfg})
    values.merge_from_dict(chosen)
    return set_everywhere(cfg, **{root: values[root] for root in roots})
