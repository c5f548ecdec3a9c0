# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import numpy as np
import pytest

from kapao_mm.utils.stand_in_extensions import MASKS, OPERATORS, install_stand_ins


@pytest.fixture
def import_anew(monkeypatch):
    """Makes a function that imports a module again."""

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def without_real_operators(monkeypatch):
    find = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder,
        'find_spec',
        lambda name, *args: None if name == OPERATORS else find(name, *args),
    )


class Loader:
    """Loads an empty module, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if self.error:
            raise self.error
        module.real = True


def use_loader(monkeypatch, name: str, loader: Loader) -> None:
    find = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder,
        'find_spec',
        lambda asked, *args: ModuleSpec(name, loader) if asked == name else find(asked, *args),
    )


def test_missing_operator_can_be_imported_and_fails_when_called(
    import_anew, without_real_operators
):
    operators = import_anew(OPERATORS)
    with pytest.raises(RuntimeError, match='nms needs .*pip install mmcv==2.1.0'):
        operators.nms([], [])


def test_stand_in_has_no_special_attributes(import_anew, without_real_operators):
    assert not hasattr(import_anew(OPERATORS), '__path__')


@pytest.mark.parametrize('name', [OPERATORS, MASKS])
def test_usable_module_is_not_replaced(import_anew, monkeypatch, name):
    use_loader(monkeypatch, name, Loader())
    assert import_anew(name).real


@pytest.mark.parametrize('error', [ImportError('_ARRAY_API'), ValueError('numpy.dtype size')])
def test_masks_compiled_for_another_numpy_are_replaced(import_anew, monkeypatch, error):
    use_loader(monkeypatch, MASKS, Loader(error))
    masks = import_anew(MASKS)
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10.0]])
    assert masks.iou(boxes, boxes, [0, 0])[0] == pytest.approx([1, 1 / 3])
    assert masks.__name__ == MASKS


def test_operators_compiled_for_another_torch_are_an_error(import_anew, monkeypatch):
    use_loader(monkeypatch, OPERATORS, Loader(ImportError('undefined symbol')))
    with pytest.raises(ImportError, match='undefined symbol'):
        import_anew(OPERATORS)


def test_installing_twice_changes_nothing():
    before = list(sys.meta_path)
    install_stand_ins()
    assert sys.meta_path == before
