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

# Keys whose values may be derived from each variable; those that have its value follow it.
_IN = r'_dataloader\.(.+\.)?'
DERIVED_KEYS = dict(
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


class Entry(NamedTuple):
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
    def is_used(self) -> bool:
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
        **values: New value of each variable. Allowed are those in :data:`DERIVED_KEYS` and any
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


def check_variables(cfg: Config) -> None:
    """Checks that each top-level variable in :data:`DERIVED_KEYS` has an effect if it was set.

    A variable may be overridden by values set inside the config, as usual in MMEngine.

    Raises:
        InputError: If a variable was set, in a config file or later, without the values derived
            from it.
    """
    for name in (name for name in DERIVED_KEYS if name in cfg):
        entries = _candidates(cfg, name)
        if entries and not _derived(entries, cfg[name]) and _was_set_alone(cfg, name):
            given = f'{name}={cfg[name]!r}'
            first, *more = (entry.key for entry in entries)
            others = f' (and {", ".join(more)})' if more else ''
            raise InputError(
                f'{given} at the top of {cfg.filename} changes nothing: the values that its base '
                f'configs derived from it stay, such as {first}={entries[0].value!r}. In a config, '
                'write "from kapao_mm.utils.config import set_everywhere" and '
                f'"set_everywhere(_base_, {given})" below _base_. On the command line, the tools '
                f'of this project accept --cfg-options {name}=..., others need {first}=...{others}'
            )


def has_derived_values(cfg: Config | dict, name: str) -> bool:
    """Returns whether values inside a config are derived from a variable."""
    if name in DERIVED_KEYS:
        return True
    value = cfg.get(name)
    return not isinstance(value, (bool, type(None))) and bool(_candidates(cfg, name))


def _set(cfg: Config | dict, name: str, new: Any) -> str:
    """Sets one variable and the values derived from it, see :func:`set_everywhere`."""
    entries, old = _candidates(cfg, name), cfg.get(name)
    changed = _derived(entries, old) if name in cfg else []
    if not changed and len({str(entry.value) for entry in entries}) == 1:
        old, changed = entries[0].value, entries  # not at the top, or overridden inside
    # Equal texts, lists and dicts probably have one source, equal numbers may be a coincidence.
    if name not in DERIVED_KEYS and not (isinstance(old, (str, list, dict)) and old):
        changed = []
    if not changed:
        found = ', '.join(f'{entry.key}={entry.value!r}' for entry in entries)
        raise InputError(
            f'{name}={new!r} would change nothing in this config: '
            + (f'set the keys inside it instead ({found})' if found else 'it is not used')
        )
    indices = {entry.index for entry in changed}
    copies = [e for e in _walk(cfg) if '.' in e.key and not e.is_used and e.index in indices]
    for entry in changed + _derived(copies, old):
        entry.holder[entry.index] = deepcopy(_replaced(entry.value, old, new))
    cfg[name] = new
    kept = [entry for entry in entries if entry not in changed and entry.value != new]
    keys = [entry.key for entry in changed] + _rescale_gain(cfg, name, old, new)
    counts = Counter(key.partition('.')[0] for key in keys)
    return f'{name}={new!r}: ' + '; '.join(
        [
            ', '.join(key if n == 1 else f'{key} ({n} places)' for key, n in counts.items()),
            *(f'{entry.key} stays {entry.value!r}' for entry in kept),
        ]
    )


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


def _candidates(cfg: Mapping, name: str) -> list[Entry]:
    """Returns the values inside a config that may be derived from a variable."""
    inside = [entry for entry in _walk(cfg) if entry.is_used]
    if name not in DERIVED_KEYS:
        return _derived(inside, cfg[name]) if name in cfg else []
    return [
        entry
        for entry in inside
        if re.fullmatch(DERIVED_KEYS[name], entry.key)
        and not (isinstance(entry.holder, dict) and entry.holder.get('by_epoch') is False)
    ]


def _derived(entries: list[Entry], old: Any) -> list[Entry]:
    """Returns the entries whose value is the old value of a variable or contains it as a path."""
    return [entry for entry in entries if _replaced(entry.value, old, '\0') != entry.value]


def _walk(value: Any, path: str = '') -> Iterator[Entry]:
    """Yields all values inside nested dicts and lists."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        entry = Entry(f'{path}{key}', value, key, value[key])
        yield entry
        if isinstance(entry.value, (dict, list)):
            yield from _walk(entry.value, f'{entry.key}.')


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
    """Returns whether a variable was set without the values derived from it.

    The alternative is that values set inside the config override the variable, which is intended.
    """
    if not cfg.filename or not Path(cfg.filename).is_file():
        return False  # nothing is known about a config without a file
    loaded = Config.fromfile(cfg.filename)
    if loaded.get(name) != cfg[name]:  # set later, such as by --cfg-options of MMPose's tools
        before = [(entry.key, entry.value) for entry in _candidates(loaded, name)]
        return any((entry.key, entry.value) in before for entry in _candidates(cfg, name))
    path, text = _last_setting(loaded, name)
    if not re.search('_base_|read_base', text):
        return False  # not set, or a complete config in one file, as MMEngine dumps it
    origin = loaded if Path(path).samefile(cfg.filename) else Config.fromfile(path)
    return not _derived(_candidates(origin, name), cfg[name])


def _last_setting(cfg: Config, name: str) -> tuple[str, str]:
    """Returns path and text of the last file of a config that sets a variable, or empty texts."""
    # The text of a config consists of its bases and its own file, each preceded by its path.
    parts = re.split(r'^(/.*\.(?:py|json|ya?ml))\n', cfg.text, flags=re.M)
    parts = parts if len(parts) > 1 else ['', str(cfg.filename), cfg.text]
    setting = re.compile(rf'^(?:{name}\s*[=:]|\s*"{name}"\s*:)', re.M)
    files = zip(parts[1::2], parts[2::2], strict=True)
    return ([('', '')] + [(path, text) for path, text in files if setting.search(text)])[-1]
