# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Damaged configs, YAML files with many aliases, and metainfo files with odd values."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import yaml
from _helpers import entries
from mmengine.config import Config

from kapao_mm.datasets import read_metainfo
from kapao_mm.utils.config import load_config

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

Attempt = tuple[str, Callable[[], None]]


def attempts(count: int, seed: int, folder: Path) -> Iterator[Attempt]:
    """Yields ``count`` attempts of all kinds in turn."""
    kinds = (yaml_with_aliases, damaged_data, odd_metainfo)
    for index, kind in enumerate(islice(cycle(kinds), count)):
        place = folder / f'{kind.__name__}_{index}'
        place.mkdir()
        name, attempt = kind(random.Random(f'{seed} {index}'), place)
        yield f'{kind.__name__}, {name}', attempt


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


def require(condition: bool, message: str) -> None:
    """Raises an AssertionError if a condition is false, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)
