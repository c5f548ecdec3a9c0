# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Malicious and broken configs and metainfo files, wrong options, and unwritable outputs."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml
from _helpers import REPO, entries
from mmengine.config import Config

from kapao_mm.datasets import read_metainfo
from kapao_mm.utils.atomic_file import atomic_path, check_folder, check_writable
from kapao_mm.utils.config import load_config
from kapao_mm.utils.config_variables import check_variables

CONFIGS = REPO / 'configs'
TAGS = (
    '!!python/object/apply:os.system ["touch {mark}"]',
    '!!python/object/apply:subprocess.check_call [[touch, {mark}]]',
    '!!python/object/new:subprocess.Popen [[touch, {mark}]]',
    '!!python/object/apply:builtins.open [{mark}, w]',
    "!!python/object/apply:builtins.exec [\"open('{mark}', 'w')\"]",
    '!!python/object/new:type {{args: [x, !!python/tuple [], {{}}]}}',
    '!!python/name:os.system',
    '!!python/module:antigravity',
    '!!python/object:kapao_mm.errors.InputError {{}}',
)
DATA = dict(
    a=1,
    data_root='data/x',
    nested=dict(b=[1, 2, dict(c='text')], d=None),
    train_dataloader=dict(dataset=dict(data_root='data/x')),
)
METAINFO = dict(
    dataset_name='cats',
    keypoint_info={
        0: dict(name='nose', color=[1, 2, 3], swap=''),
        1: dict(name='left_ear', swap='right_ear'),
        2: dict(name='right_ear', swap='left_ear'),
    },
    skeleton_info={0: dict(link=['nose', 'left_ear'])},
    joint_weights=[1.0, 1.0, 1.0],
    sigmas=[0.02, 0.03, 0.04],
)
ODD = (None, True, -1, 0, 3.5, float('nan'), '', 'x', [], [[]], {}, dict(a=1), ['a', 1])
# Variables of a config: a new value, and a key that must follow it.
VARIABLES = dict(
    data_root=('elsewhere', 'train_dataloader.dataset.data_root'),
    train_ann=('a.json', 'train_dataloader.dataset.ann_file'),
    input_size=(320, 'train_dataloader.dataset.pipeline.1.input_size'),
    max_epochs=(3, 'train_cfg.max_epochs'),
    batch_size=(3, 'train_dataloader.batch_size'),
    metainfo=(dict(from_file='b.py'), 'train_dataloader.dataset.metainfo'),
    num_keypoints=(5, 'model.head.num_keypoints'),
)

BROKEN = [
    *(
        (text, 'a.py')
        for text in (
            'a = (',
            'raise SystemExit',
            "raise BaseExceptionGroup('x', [KeyError()])",
            'a = a',
            'a = 1 / 0',
            'import gone_module_x\na = gone_module_x.b()',
            "_base_ = 'gone.py'",
            "_base_ = 'a.py'",
            '_base_ = 3',
            "_base_ = ['mmpose::gone.py']",
            "a = '{{ $GONE_VARIABLE: }}'",
            '_base_ = []\na = {{ _base_.gone }}',
            "custom_imports = dict(imports=['gone_module_x'], allow_failed_imports=False)",
            "filename = 'x'",
            'with open("x") as f:\n    pass',
            'from .gone import *',
            '\x00',
        )
    ),
    *(('a = 1', 'a.txt'), ('a = 1', 'a'), ('3', 'a.json'), ('', 'a.json')),
    *(('[1]', 'a.yaml'), ('', 'a.yaml')),
]

Attempt = tuple[str, Callable[[], None]]


def attempts(count: int, seed: int, folder: Path) -> Iterator[Attempt]:
    """Yields ``count`` attempts of all kinds in turn."""
    kinds = [
        yaml_with_tags,
        yaml_with_aliases,
        damaged_data,
        broken_python,
        odd_metainfo,
        variables_set_alone,
        variables_set_everywhere,
        wrong_options,
        unwritable_outputs,
    ]
    for index, kind in enumerate(islice(cycle(kinds), max(count, len(kinds)))):
        place = folder / f'{kind.__name__}_{index}'
        place.mkdir()
        name, attempt = kind(random.Random(f'{seed} {index}'), place)
        yield f'{kind.__name__}, {name}', attempt


def yaml_with_tags(rng: random.Random, folder: Path) -> Attempt:
    """Makes a config, base or metainfo file with a tag that would run code."""
    mark = folder / 'mark'
    tag = rng.choice(TAGS).format(mark=mark)
    path = folder / f'evil{rng.choice([".yaml", ".yml"])}'
    lines = ['dataset_info:', '  dataset_name: x', 'a: 1', 'b: [1, 2]']
    lines.insert(rng.randrange(len(lines) + 1) or 2, f'evil: {tag}')
    if lines[1].startswith('evil'):
        lines[1] = f'  {lines[1]}'
    path.write_text('\n'.join(lines))
    derived = folder / 'derived.yaml'
    derived.write_text(f'_base_: {path.name}\n')
    read = rng.choice(
        [
            lambda: load_config(path),
            lambda: load_config(derived),
            lambda: read_metainfo(dict(from_file=str(path))),
        ]
    )

    def attempt() -> None:
        try:
            read()
        finally:
            require(not mark.exists(), 'the tag was executed')
        raise AssertionError('a tag was accepted')

    return tag, attempt


def yaml_with_aliases(rng: random.Random, folder: Path) -> Attempt:
    """Makes a file whose aliases may expand to a huge or endless content."""
    depth, width = rng.randrange(1, 60), rng.randrange(1, 5)
    lines = ['a0: &a0 [1, 2]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * width)}]' for i in range(1, depth)]
    if rng.random() < 0.2:
        lines.append('a: &a [1, {b: *a}]')
    path = folder / 'a.yaml'
    path.write_text('\n'.join(lines))
    return f'depth {depth}, width {width}', lambda: require(load_config(path).a0 == [1, 2], 'a0')


def damaged_data(rng: random.Random, folder: Path) -> Attempt:
    """Makes a JSON or YAML file in which bytes are removed, changed or repeated."""
    suffix = rng.choice(['.json', '.yaml'])
    text = json.dumps(DATA) if suffix == '.json' else yaml.safe_dump(DATA)
    content = bytearray(text.encode())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                del content[at : at + rng.randrange(1, 30)]
            case 1:
                content[at] = rng.randrange(256)
            case 2:
                content[at:at] = bytes(rng.choices(b'{}[]:,&*!%@"\'#-\n\t \x00\xff', k=3))
            case 3:
                content[at:at] = content[at:]
        content = content or bytearray(b'\n')
    path = folder / f'a{suffix}'
    path.write_bytes(content)

    def attempt() -> None:
        first, second = load_config(path), load_config(path)
        require(repr(first.to_dict()) == repr(second.to_dict()), 'two readings differ')

    return bytes(content[:60]).decode(errors='replace'), attempt


def broken_python(rng: random.Random, folder: Path) -> Attempt:
    """Makes a Python config that cannot be run, or a config with a wrong type or path."""
    text, name = rng.choice(BROKEN)
    path = folder / name
    path.write_bytes(text.encode())
    if rng.random() < 0.1:
        path = path.with_name('gone.py')

    def attempt() -> None:
        load_config(path)
        raise AssertionError('a broken config was accepted')

    return f'{name}: {text!r}', attempt


def odd_metainfo(rng: random.Random, folder: Path) -> Attempt:
    """Makes a metainfo file in which one value is odd or missing."""
    info = json.loads(json.dumps(METAINFO))
    holder, key = rng.choice(list(entries(info)))
    value = rng.choice(ODD)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = value
    path = folder / f'metainfo{rng.choice([".py", ".json", ".yaml"])}'
    Config(dict(dataset_info=info)).dump(path)

    def attempt() -> None:
        parsed = read_metainfo(dict(from_file=str(path)))
        count = parsed['num_keypoints']
        require(len(parsed['sigmas']) == len(parsed['flip_indices']) == count, 'lengths differ')
        require(bool((parsed['sigmas'] > 0).all()), 'a sigma is not above 0')

    return f'{path.suffix}, {key}: {value!r}', attempt


def variables_set_alone(rng: random.Random, folder: Path) -> Attempt:
    """Sets a variable without an effect, in a derived config or by MMEngine's options."""
    config = _config(rng)
    name = rng.choice(list(VARIABLES))
    value, _ = VARIABLES[name]
    path = folder / 'derived.py'
    by_option = rng.random() < 0.5
    line = '' if by_option else f'{name} = {value!r}'
    path.write_text(f'_base_ = {str(config)!r}\n{line}\n')

    def attempt() -> None:
        before = Config.fromfile(config)
        if by_option:
            cfg = Config.fromfile(path)
            cfg.merge_from_dict({name: value})
            check_variables(cfg)
        else:
            load_config(path)
        require(name not in before, 'a variable without effect was accepted')

    return f'{config.stem}, {name}', attempt


def variables_set_everywhere(rng: random.Random, folder: Path) -> Attempt:
    """Sets a variable by an option or with ``set_everywhere`` in a derived config."""
    config = _config(rng)
    name = rng.choice(list(VARIABLES))
    value, key = VARIABLES[name]
    path = folder / 'derived.py'
    path.write_text(
        f'_base_ = {str(config)!r}\nfrom kapao_mm.utils.config import set_everywhere\n'
        f'set_everywhere(_base_, {name}={value!r})\n'
    )
    by_option = rng.random() < 0.5

    def attempt() -> None:
        cfg = load_config(config, {name: value}) if by_option else load_config(path)
        check_variables(cfg)
        found: Any = cfg
        for part in key.split('.'):
            found = found[int(part) if part.isdecimal() else part]
        if by_option and isinstance(value, dict):  # MMEngine merges dicts
            found = {part: found.get(part) for part in value}
        require(found == value, f'{key} is {found!r}')

    return f'{config.stem}, {name}', attempt


def wrong_options(rng: random.Random, folder: Path) -> Attempt:
    """Makes an option with a mistyped or invalid key."""
    cfg = Config.fromfile(CONFIGS / 'kapao/kapao_n_toy.py')
    key = rng.choice(
        ['train_dataloader.dataset.data_root', 'train_cfg.max_epochs', 'data_root', 'input_size']
    )
    match rng.randrange(4):
        case 0:
            at = rng.randrange(4)
            key = key[:at] + rng.choice('xyz_') + key[at + 1 :]
        case 1:
            key = f'{key}.a'
        case 2:
            key = f'train_dataloader.dataset.pipeline.{rng.randrange(6, 99)}.input_size'
        case 3:
            key = f'train_dataloader.dataset.pipeline.{rng.choice(["a", "-1", "1e1", ""])}.x'

    def attempt() -> None:
        load_config(cfg.filename, {key: 64})
        raise AssertionError('a wrong option was accepted')

    return key, attempt


def unwritable_outputs(rng: random.Random, folder: Path) -> Attempt:
    """Chooses an output path whose folder, suffix or name is invalid, or a valid one."""
    (folder / 'file').write_text('')
    (folder / 'folder.json').mkdir()
    (folder / 'loop').symlink_to(folder / 'loop')
    place = rng.choice(
        ['file/a.json', 'folder.json', 'loop/a.json', 'a.txt', 'a', f'{"n" * 300}.json', 'n/a.json']
    )
    path = Path('/proc/a.json') if rng.random() < 0.1 else folder / place

    def attempt() -> None:
        check_writable(path, ['.json'])
        check_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_text('{}')
        require(path.read_text() == '{}', 'the file is not what was written')
        shutil.rmtree(path.parent)

    return str(path)[:120], attempt


def require(condition: bool, message: str) -> None:
    """Raises an AssertionError if a condition is false, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def _config(rng: random.Random) -> Path:
    return CONFIGS / f'kapao/{rng.choice(["kapao_n_toy", "kapao_n_people_wheels"])}.py'
