# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads YAML files safely: no code is executed, and the expansion of aliases is limited."""

from typing import IO, Any

import yaml
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import YamlHandler

from kapao_mm.errors import InputError

MAX_VALUES = 1_000_000  # maximum number of values after the expansion of aliases (*name)


class _Loader(yaml.SafeLoader):
    """SafeLoader of PyYAML that also reads the tuples that MMEngine writes."""


_Loader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node))
)


class PlainYamlHandler(YamlHandler):
    """YAML handler for MMEngine that does not support tags that call Python functions.

    Raises:
        InputError: If a file is not YAML, has a tag that is not plain data, or exceeds
            :data:`MAX_VALUES` because of its aliases.
    """

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        """Reads an open file."""
        try:
            value = yaml.load(file, Loader=_Loader)
        except yaml.constructor.ConstructorError as error:
            raise InputError(f'YAML may hold only data: {error.problem}{_line(error)}') from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            problem = getattr(error, 'problem', None) or error
            raise InputError(f'not valid YAML: {problem}{_line(error)}') from error
        if _count(value, {}) > MAX_VALUES:
            raise InputError(f'its aliases (*name) expand to more than {MAX_VALUES:,} values')
        return value


def read_yaml_as_data() -> None:
    """Makes MMEngine read YAML configs and metainfo files with :class:`PlainYamlHandler`."""
    register_handler(['yaml', 'yml'])(PlainYamlHandler)


def _count(value: Any, known: dict[int, float]) -> float:
    """Returns the number of values in nested containers; infinite if one contains itself."""
    if not isinstance(value, (dict, list, tuple)):
        return 1
    if id(value) not in known:
        known[id(value)] = float('inf')  # remains if the container contains itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def _line(error: Exception) -> str:
    mark = getattr(error, 'problem_mark', None)
    return f' (line {mark.line + 1})' if mark else ''
