# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Configs whose top-level variables the command line can change, and the flags of a run."""

import argparse
import ast
import difflib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from kapao_mm.distributed import join_processes
from kapao_mm.errors import InputError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Loads a config and applies ``--cfg-options``.

    MMEngine alone applies options after the config was evaluated, so that ``data_root=/x`` would
    change the variable and nothing made from it. Here options that are top-level variables
    (``data_root``, ``input_size``) take effect before, in the file that assigns them.

    Args:
        path: Config file.
        options: Values by key as :class:`ConfigOptions` gives them; nested keys have dots.

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
    parser.add_argument('--interval', type=int, default=1, help='draw every n-th image [1]')
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
    if args.show_dir:
        cfg.default_hooks.visualization.update(
            enable=True,
            out_dir=str(Path(args.show_dir).absolute()),  # MMPose puts others into the work_dir
            interval=args.interval,
        )
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
