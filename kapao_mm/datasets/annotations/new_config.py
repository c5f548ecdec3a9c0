# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes the config and metainfo files of a new dataset."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple

from yapf.yapflib.yapf_api import FormatCode

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_folder
from kapao_mm.utils.project_files import project_dir

from .new_metainfo import Category, can_flip, join_metainfos

WIDTH = 100  # maximum line length of the written files
STYLE = dict(based_on_style='pep8', column_limit=WIDTH, dedent_closing_brackets=True)
SHORT_BASES = (
    '_base_/default_runtime.py',
    '_base_/models/kapao_{size}.py',
    '_base_/datasets/short_loaders.py',
    '_base_/schedules/kapao_short.py',
)
CONFIG = '''\
"""KAPAO-{size} on {name}, {about}."""

_base_ = {bases!r}

from kapao_mm.utils.config import set_everywhere

# Changes these values wherever the base configs use them.
set_everywhere(_base_, {values})

model = dict(
    {model}
    test_cfg=dict(fusion_distance={fusion_distance}),  # px of the original image; 0: no fusion
)
{more}'''
NO_AREA = """
val_evaluator = dict(use_area=False)
test_evaluator = val_evaluator
"""
NO_FLIPS = """
# Without left/right pairs for all sides, a mirror image has wrong names of keypoints.
set_everywhere(
    _base_,
    train_pipeline=[step for step in _base_.train_pipeline if step.type != 'HorizontalFlip'],
)
tta_model = dict(passes=[(0.8, False), (1.0, False), (1.2, False)])
"""


class NewConfig(NamedTuple):
    """Describes the config of a new dataset.

    Attributes:
        name: Name of the dataset.
        folder: Folder of the written files.
        size: Size of the model: 'n', 's', 'm' or 'l'.
        short: Whether to use the short schedule with small inputs, or the published one.
        data: Values of data_root, train_ann, train_img, val_ann and val_img.
        parts: Files of annotations in ``folder`` that replace train_ann and val_ann, see
            :func:`part_files`.
        categories: Categories of the model.
        use_area: Whether evaluation uses the areas of the annotations.
        fusion_distance: Maximum distance of fusion, px of the original image.
    """

    name: str
    folder: Path
    size: str
    short: bool
    data: Mapping[str, str]
    parts: Mapping[str, Path]
    categories: list[Category]
    use_area: bool
    fusion_distance: int

    @property
    def path(self) -> Path:
        """Path of the config file."""
        return self.folder / f'kapao_{self.size}_{self.name}.py'


def file_name(text: str) -> str:
    """Replaces characters that names of files and configs cannot have by underscores."""
    return re.sub(r'[^\w-]+', '_', text)


def config_text(config: NewConfig) -> str:
    """Returns the text of the config file."""
    configs = project_dir() / 'configs'
    if config.short:
        names = [name.format(size=config.size) for name in SHORT_BASES]
        bases = [os.path.relpath(configs / name, config.folder) for name in names]
    else:
        bases = os.path.relpath(configs / f'kapao/kapao_{config.size}_coco.py', config.folder)
    flips = all(map(can_flip, config.categories))
    text = CONFIG.format(
        size=config.size.upper(),
        name=config.name,
        about='short schedule, from scratch' if config.short else 'published schedule',
        bases=bases,
        values=', '.join(f'{key}={value!r}' for key, value in _values(config).items()),
        model='head=dict(loss=dict(scale_gains=False)),' if config.short else '',
        fusion_distance=config.fusion_distance,
        more=('' if config.use_area else NO_AREA) + ('' if flips else NO_FLIPS),
    )
    return FormatCode(text, style_config=STYLE)[0]


def texts(config: NewConfig, metainfos: Iterable[Mapping[str, Any]]) -> dict[Path, str]:
    """Returns the texts of the metainfo files and of the config file, by path.

    Args:
        config: The config.
        metainfos: Metainfo of each category.

    Raises:
        InputError: If two categories would share a file.
    """
    files = {}
    for name, metainfo in zip(_metainfo_names(config.categories), metainfos, strict=True):
        if not metainfo:  # of a category without keypoints
            continue
        source = pformat(metainfo, width=WIDTH, compact=True, sort_dicts=False)
        files[config.folder / name] = f'dataset_info = {source}\n'
    return files | {config.path: config_text(config)}


def write_files(files: Mapping[Path, str], force: bool) -> None:
    """Writes all files or none.

    Raises:
        InputError: If a file exists and ``force`` is not set, or it cannot be written.
    """
    existing = [str(path) for path in files if os.path.exists(path)]
    if existing and not force:
        raise InputError(f'{", ".join(existing)} exists already: --force replaces it')
    if folders := [str(path) for path in files if os.path.isdir(path)]:
        raise InputError(f'{", ".join(folders)} cannot be written: it is a folder')
    with _removed_on_error(files), ExitStack() as stack:
        for path, text in files.items():
            check_folder(path.parent)
            stack.enter_context(atomic_path(path)).write_text(text, encoding='utf-8')


@contextmanager
def _removed_on_error(files: Iterable[Path]) -> Iterator[None]:
    """Removes files and their folders if the block fails, except those that existed before."""
    paths = dict.fromkeys(path for file in files for path in (file, *file.parents))
    new = [path for path in paths if not os.path.exists(path)]
    try:
        yield
    except BaseException:
        for path in sorted(new, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it was not written, or is a folder with files of others
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _metainfo_names(categories: Sequence[Category]) -> list[str]:
    """Returns the name of the metainfo file of each category."""
    if len(categories) == 1:
        return ['metainfo.py']
    names = [f'metainfo_{file_name(category.name)}.py' for category in categories]
    if len(set(names)) < len(names):
        shown = ', '.join(repr(category.name) for category in categories)
        raise InputError(f'categories {shown} would share metainfo files: rename some')
    return names


def _values(config: NewConfig) -> dict[str, Any]:
    """Returns the values that replace those of the base configs."""
    # MMEngine replaces fileDirname by the folder of the config, whatever the working directory.
    here = '{{ fileDirname }}/'
    files = [here + name for name in _metainfo_names(config.categories)]
    counts = [len(category.keypoints) for category in config.categories]
    parts = [dict(from_file=file) if n else {} for file, n in zip(files, counts, strict=True)]
    return dict(
        **config.data | {key: here + path.name for key, path in config.parts.items()},
        metainfo=join_metainfos(config.name, config.categories, parts),
        num_keypoints=counts if len(counts) > 1 else counts[0],
        input_size=384 if config.short else 1280,
    )
