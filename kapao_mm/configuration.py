# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loads configs with ``--cfg-options``, and has the flags of a run."""

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

from kapao_mm.distributed import join_processes
from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_folder
from kapao_mm.utils.config_names import (
    PLACES,
    RUNNER_KEYS,
    check_names,
    has_followers,
    set_everywhere,
)
from kapao_mm.utils.plain_yaml import read_yaml_as_data

__all__ = [
    'LOADERS',
    'ConfigOptions',
    'add_config_options',
    'add_run_options',
    'apply_run_options',
    'fit_loaders',
    'inner_datasets',
    'load_config',
    'positive',
    'read_config',
    'set_everywhere',
]

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Loads a config and applies ``--cfg-options``.

    Options act as in MMEngine, on the loaded config. One that is a name at the top of the config,
    such as ``data_root``, also changes what was made from it (:func:`set_everywhere`), and a line
    of the log says what that was.

    Args:
        path: Config file.
        options: Values by key as :class:`ConfigOptions` gives them; nested keys have dots.

    Raises:
        InputError: If the file is missing or broken, a key is unknown to it, or a name at its top
            has no effect.
    """
    cfg = read_config(path)
    options = options or {}
    _check_keys(cfg, options)
    try:
        for line in _set_names(cfg, options):
            print_log(line, 'current')
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        given = ', '.join(options)
        raise InputError(f'--cfg-options {given} do not fit {path}: {error}') from error
    check_names(cfg)
    return cfg


def read_config(path: str | Path) -> Config:
    """Reads a config file as MMEngine does, but YAML only as data.

    A config in Python is code, which runs when it is read.

    Raises:
        InputError: If the file is missing, is no config or cannot be run.
    """
    read_yaml_as_data()
    path = Path(path)
    if not path.is_file():
        raise InputError(f'config file {path.absolute()} does not exist')
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise InputError(f'config file {path.absolute()} must end in .py, .json, .yaml or .yml')
    try:
        cfg = Config.fromfile(path)
    except InputError as error:
        raise InputError(f'config file {path.absolute()}: {error}') from error
    except (Exception, SystemExit) as error:  # whatever the code in it raises
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
        where = f', line {lines[-1]}' if lines else ''
        raise InputError(
            f'config file {path.absolute()}{where} cannot be read: {type(error).__name__}: {error}'
        ) from error
    return cfg


class ConfigOptions(DictAction):
    """MMEngine's DictAction, which takes blanks out of paths and fails where the = is missing."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        """Adds the options of one flag."""
        for text in values:
            if '=' not in text:
                parser.error(f'{option_string} {text}: give KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        single = val.strip('\'"')
        if set(single).isdisjoint('[(,'):
            return DictAction._parse_int_float_bool(single)
        return DictAction._parse_iterable(val)


def add_config_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds ``--cfg-options``, whose value is for :func:`load_config`.

    Args:
        parser: The parser of the tool.
        example: Config values, KEY=VALUE, that its help shows.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help=f'replace config values, as in: {example}',
    )


def add_run_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds the flags that training and testing share, as MMPose's tools have them.

    Args:
        parser: The parser of the tool.
        example: A config value, KEY=VALUE, that its help shows.
    """
    parser.add_argument('--work-dir', help='where logs and checkpoints go [work_dirs/CONFIG]')
    parser.add_argument('--show-dir', help='draw predictions of the evaluation into this directory')
    parser.add_argument('--interval', type=positive, default=1, help='draw every n-th image [1]')
    add_config_options(parser, f'data_root=DIR input_size=640 {example}')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes that work together, as tools/dist_*.sh set it [none]',
    )
    # torch.distributed.launch, the forerunner of torchrun, gives it to every tool.
    parser.add_argument('--local_rank', '--local-rank', help=argparse.SUPPRESS)


def positive(text: str) -> int:
    """A number of at least 1; a type for argparse."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def apply_run_options(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the flags of :func:`add_run_options`, but for ``--cfg-options``, into a config.

    With a launcher, this process then belongs to a group, see :func:`join_processes`.
    """
    join_processes(args.launcher)
    cfg.launcher = args.launcher
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    check_folder(cfg.work_dir)
    if args.show_dir:
        check_folder(args.show_dir)
        # The absolute path: others are below the work directory.
        where = dict(out_dir=str(Path(args.show_dir).absolute()), interval=args.interval)
        hooks = cfg.setdefault('default_hooks', {})
        hooks['visualization'] = dict(type='PictureHook', enable=True, **where)
    fit_loaders(cfg)


def fit_loaders(cfg: Config) -> None:
    """Turns off switches of dataloaders that make no sense here, without a GPU or workers."""
    for loader in filter(None, map(cfg.get, LOADERS)):
        # torch warns of the first, and refuses the second.
        loader.pin_memory = loader.get('pin_memory', False) and torch.cuda.is_available()
        loader.persistent_workers = (
            loader.get('persistent_workers', False) and loader.get('num_workers', 0) > 0
        )


def inner_datasets(cfg: dict, outer: Sequence[dict] = ()) -> Iterator[tuple[dict, list[dict]]]:
    """The datasets inside wrappers (RepeatDataset, CombinedDataset), each with all its transforms.

    Args:
        cfg: config of a dataset or a wrapper.
        outer: transforms of the wrappers around it.
    """
    transforms = [*(cfg.get('pipeline') or []), *outer]
    inner = cfg.get('datasets') or [cfg[key] for key in ('dataset',) if key in cfg]
    for dataset in inner:
        yield from inner_datasets(dataset, transforms)
    if not inner:
        yield cfg, transforms


def _check_keys(cfg: Config, options: dict[str, Any]) -> None:
    """Raises if a key starts with a word that neither the config nor the Runner knows."""
    known = list(dict.fromkeys([*cfg, *PLACES, *RUNNER_KEYS]))
    for key in options:
        root = key.partition('.')[0]
        if root not in known:
            near = difflib.get_close_matches(root, known, n=3)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise InputError(f'{cfg.filename} has no key {root!r} (--cfg-options {key}=...){hint}')


def _set_names(cfg: Config, options: dict[str, Any]) -> list[str]:
    """Applies the options that are names at the top, or keys inside one, and says what changed."""
    names = {
        key: value
        for key, value in options.items()
        if (root := key.partition('.')[0]) not in RUNNER_KEYS and has_followers(cfg, root)
    }
    roots = dict.fromkeys(key.partition('.')[0] for key in names)
    values = Config({root: deepcopy(cfg[root]) for root in roots if root in cfg})
    values.merge_from_dict(names)
    return set_everywhere(cfg, **{root: values[root] for root in roots})
