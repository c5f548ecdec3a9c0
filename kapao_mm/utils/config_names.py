# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Sets top-level variables of a config, such as ``data_root``, and all values derived from them.

MMEngine evaluates a config once. If a derived config or ``--cfg-options`` sets a variable
afterwards, the values that the base configs derived from it do not change. The functions here
change these values in the loaded config.
"""

import inspect
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from kapao_mm.errors import InputError

# Keys that may be derived from each name. Those that have the value of the name follow it.
_IN = r'_dataloader\.(.+\.)?'
PLACES = dict(
    data_root=rf'\w+{_IN}data_root|(val|test)_evaluator\.(.+\.)?ann_file',
    train_ann=rf'train{_IN}ann_file',
    train_img=rf'train{_IN}data_prefix\.img',
    val_ann=rf'(val|test){_IN}ann_file|(val|test)_evaluator\.(.+\.)?ann_file',
    val_img=rf'(val|test){_IN}data_prefix\.img',
    test_ann=rf'test{_IN}ann_file|test_evaluator\.(.+\.)?ann_file',
    test_img=rf'test{_IN}data_prefix\.img',
    metainfo=rf'\w+{_IN}metainfo',
    image_cache=rf'train{_IN}image_cache',
    input_size=rf'\w+{_IN}(input_size|img_scale(\.\d)?)',
    square_input=rf'(val|test){_IN}square',
    train_pipeline=rf'train{_IN}pipeline',
    val_pipeline=rf'(val|test){_IN}pipeline',
    batch_size=r'\w+_dataloader\.batch_size',
    max_epochs=r'train_cfg\.max_epochs|param_scheduler\.\d+\.(T_max|end)',
    num_keypoints=r'model\.head\.num_keypoints',
)
RUNNER_KEYS = inspect.signature(Runner.__init__).parameters  # top-level keys that a run uses


class Place(NamedTuple):
    """A value inside a config.

    Attributes:
        key: Full key with dots.
        holder: Dict or list that contains the value.
        index: Key or index of the value in ``holder``.
        value: The value.
    """

    key: str
    holder: dict | list
    index: str | int
    value: Any

    @property
    def acts(self) -> bool:
        """Whether a run uses the value; variables such as ``train_pipeline`` are only copies."""
        root, dot, _ = self.key.partition('.')
        return bool(dot) and root in RUNNER_KEYS


def set_everywhere(cfg: Config | dict, **values: Any) -> list[str]:
    """Sets top-level variables of a config and all values inside it that are derived from them.

    A value is changed if it equals the old value of the variable or is a path below it. Other
    values are kept, for example the ``data_root`` of a second dataset. A derived config file calls
    this function on ``_base_``, after the line that sets it.

    Args:
        cfg: Loaded config, or ``_base_`` in a config file; it is changed in place.
        **values: New value of each variable. Allowed are the names in :data:`PLACES` and any
            others whose value is a text, a list or a dict.

    Returns:
        For each variable a message that says which values changed and which were kept.

    Raises:
        InputError: If no value inside the config is derived from a variable.

    Examples:
        >>> _base_ = 'kapao_n_toy.py'
        >>> from kapao_mm.utils.config import set_everywhere
        >>> set_everywhere(_base_, data_root='/data/toy', input_size=512)
    """
    return [_set(cfg, name, value) for name, value in values.items()]


def check_names(cfg: Config) -> None:
    """Checks that each top-level variable in :data:`PLACES` has an effect if it was set.

    A variable may be overridden by values set inside the config, as usual in MMEngine.

    Raises:
        InputError: If a variable was set, in a config file or later, without the values derived
            from it.
    """
    for name in (name for name in PLACES if name in cfg):
        places = _places(cfg, name)
        if places and not _followers(places, cfg[name]) and _was_set_alone(cfg, name):
            given = f'{name}={cfg[name]!r}'
            first, *more = (place.key for place in places)
            others = f' (and {", ".join(more)})' if more else ''
            raise InputError(
                f'{given} at the top of {cfg.filename} changes nothing: what its bases made from '
                f'the name keeps its value, as {first}={places[0].value!r}. In a config write '
                f'"from kapao_mm.utils.config import set_everywhere" and '
                f'"set_everywhere(_base_, {given})" below _base_. On the command line tools/ of '
                f'this project take --cfg-options {name}=...; others need {first}=...{others}'
            )


def has_followers(cfg: Config | dict, name: str) -> bool:
    """Returns whether values inside a config are derived from a name."""
    if name in PLACES:
        return True
    value = cfg.get(name)
    return not isinstance(value, (bool, type(None))) and bool(_places(cfg, name))


def _set(cfg: Config | dict, name: str, new: Any) -> str:
    """Sets one name and its derived values, see :func:`set_everywhere`."""
    places, old = _places(cfg, name), cfg.get(name)
    followers = _followers(places, old) if name in cfg else []
    if not followers and len({str(place.value) for place in places}) == 1:
        old, followers = places[0].value, places  # not at the top, or overridden inside
    # Equal texts, lists and dicts probably have one source, equal numbers may be a coincidence.
    if name not in PLACES and not (isinstance(old, (str, list, dict)) and old):
        followers = []
    if not followers:
        found = ', '.join(f'{place.key}={place.value!r}' for place in places)
        raise InputError(
            f'{name}={new!r} would change nothing in this config: '
            + (f'set the keys inside it that it is for ({found})' if found else 'it has no use')
        )
    tails = {place.index for place in followers}
    copies = [p for p in _walk(cfg) if '.' in p.key and not p.acts and p.index in tails]
    for place in followers + _followers(copies, old):
        place.holder[place.index] = deepcopy(_replaced(place.value, old, new))
    cfg[name] = new
    changed = [place.key for place in followers] + _rescale_gain(cfg, name, old, new)
    used = Counter(key.partition('.')[0] for key in changed)
    line = f'{name}={new!r}: ' + ', '.join(
        root if count == 1 else f'{root} ({count} places)' for root, count in used.items()
    )
    kept = [place for place in places if place not in followers and place.value != new]
    return line + ''.join(f'; {place.key} stays {place.value!r}' for place in kept)


def _rescale_gain(cfg: Config | dict, name: str, old: Any, new: Any) -> list[str]:
    """Updates ``obj_gain = 0.7 * (640 / input_size) ** 2``, which older configs computed.

    Returns:
        The changed keys.
    """
    loss = cfg.get('model', {}).get('head', {}).get('loss', {})
    if name != 'input_size' or not loss.get('scale_gains', True):
        return []
    if old == 640 or not math.isclose(loss.get('obj_gain', 0), 0.7 * (640 / old) ** 2):
        return []
    loss['obj_gain'] = 0.7 * (640 / new) ** 2
    return ['model.head.loss.obj_gain']


def _places(cfg: Mapping, name: str) -> list[Place]:
    """Returns the values inside a config that may be derived from a name."""
    inside = [place for place in _walk(cfg) if place.acts]
    if name not in PLACES:
        return _followers(inside, cfg[name]) if name in cfg else []
    return [
        place
        for place in inside
        if re.fullmatch(PLACES[name], place.key)
        and not (isinstance(place.holder, dict) and place.holder.get('by_epoch') is False)
    ]


def _walk(value: Any, path: str = '') -> Iterator[Place]:
    """Yields all values inside nested dicts and lists."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        place = Place(f'{path}{key}', value, key, value[key])
        yield place
        if isinstance(place.value, (dict, list)):
            yield from _walk(place.value, f'{place.key}.')


def _followers(places: list[Place], old: Any) -> list[Place]:
    """Returns the places whose value equals the old value of a name or contains it as a path."""
    return [place for place in places if _replaced(place.value, old, '\0') != place.value]


def _replaced(value: Any, old: Any, new: Any) -> Any:
    """Replaces ``old`` by ``new`` in a value: the whole value, in a tuple, or in a path."""
    if value == old:
        return new
    if isinstance(value, tuple):
        return tuple(_replaced(part, old, new) for part in value)
    if isinstance(value, str) and isinstance(old, str) and old:
        folder = old.rstrip('/') + '/'
        if value.startswith(folder):
            return os.path.join(new, value.removeprefix(folder))
        if value.endswith(f'/{old}'):
            return os.path.join(value[: -len(old)], new)
    return value


def _was_set_alone(cfg: Config, name: str) -> bool:
    """Returns whether a name was set without its derived values.

    The alternative is that values set inside the config override the name, which is intended.
    """
    if not cfg.filename or not Path(cfg.filename).is_file():
        return False  # the config has no file, or the file is gone, so there is no evidence
    loaded = Config.fromfile(cfg.filename)
    if loaded.get(name) != cfg[name]:
        before = [place[::3] for place in _places(loaded, name)]  # keys and values
        return any(place[::3] in before for place in _places(cfg, name))
    # The text of a config consists of its bases and its own file, each preceded by its path.
    parts = re.split(r'^(/.*\.(?:py|json|ya?ml))\n', loaded.text, flags=re.M)
    parts = parts if len(parts) > 1 else ['', str(cfg.filename), loaded.text]
    setting = rf'^(?:{name}\s*[=:]|\s*"{name}"\s*:)'
    found = [
        (path, text)
        for path, text in zip(parts[1::2], parts[2::2], strict=True)
        if re.search(setting, text, re.M)
    ]
    if not found or not re.search('_base_|read_base', found[-1][1]):
        return False  # a complete config in one file, as MMEngine dumps it
    path, _ = found[-1]
    origin = loaded if Path(path).samefile(cfg.filename) else Config.fromfile(path)
    return not _followers(_places(origin, name), cfg[name])
