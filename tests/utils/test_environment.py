# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from kapao_mm.errors import InputError
from kapao_mm.utils import environment
from kapao_mm.utils.environment import check_environment

REQUIRES = {
    'train': ['mmcv-lite>=2.1,<2.2', 'torch>=2.1,<2.12', 'torchvision>=0.16'],
    'openvino': ['openvino>=2024.4'],
}
FITTING = {
    'mmcv-lite': '2.1.0',
    'mmpose': '1.3.2',
    'opencv-python': '4.11.0',
    'openvino': '2026.4',
    'torch': '2.11.0',
    'torchvision': '0.26.0',
}


@pytest.fixture
def check(monkeypatch):
    """Makes a function that returns the remedies for an environment with changed packages."""
    monkeypatch.setattr(environment, 'TRAINING_PYTHON', environment.sys.version_info[:2])
    monkeypatch.setattr(
        environment, '_requirements', lambda extra: map(Requirement, REQUIRES.get(extra, []))
    )

    def run(**changes: str) -> dict[str, str]:
        installed = FITTING | {name.replace('_', '-'): value for name, value in changes.items()}
        monkeypatch.setattr(environment, '_installed', lambda name: installed.get(name, ''))
        parts = check_environment()
        return {part.name: part.remedy for part in parts if part.remedy and part.needed}

    return run


def test_correct_environment_needs_nothing(check):
    assert check() == {}


@pytest.mark.parametrize(
    ('change', 'name', 'remedy'),
    [
        (dict(torch='2.0.1', torchvision='0.15.0'), 'torch', "pip install 'torch<2.12,>=2.1'"),
        (dict(torchvision=''), 'torchvision', "pip install 'torchvision>=0.16'"),
        (dict(torchvision='0.25.0'), 'torchvision for torch', "'torchvision==0.26.*'"),
        (dict(mmpose=''), 'mmpose', 'pip install --no-deps'),
        (dict(mmcv_lite=''), 'mmcv', 'pip install mmcv-lite==2.1.0'),
        (dict(mmcv_lite='2.2.0'), 'mmcv', 'pip install mmcv-lite==2.1.0'),
        (dict(mmcv='2.1.0'), 'mmcv', 'pip uninstall mmcv mmcv-lite'),
        (dict(opencv_python=''), 'OpenCV', 'pip install opencv-python'),
        (dict(opencv_python_headless='4.11.0'), 'OpenCV', 'keep one: pip uninstall'),
    ],
)
def test_each_problem_has_a_command_that_fixes_it(check, change, name, remedy):
    assert remedy in check(**change)[name]


def test_optional_packages_may_be_missing(check):
    assert check(openvino='') == {}


@pytest.mark.parametrize(
    ('spec', 'error', 'remedy'),
    [
        (None, None, 'its operators are missing'),
        ('there', ImportError('undefined symbol'), 'compiled for another torch'),
        ('there', None, ''),
    ],
)
def test_operators_of_the_full_mmcv_are_checked(check, monkeypatch, spec, error, remedy):
    def load(name: str) -> None:
        if error and name == 'mmcv._ext':
            raise error

    monkeypatch.setattr(environment.importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(environment.importlib, 'import_module', load)
    assert remedy in check(mmcv='2.1.0', mmcv_lite='').get('mmcv', '')


def test_another_python_is_reported(check, monkeypatch):
    monkeypatch.setattr(environment, 'TRAINING_PYTHON', (3, 9))
    assert check()['Python'] == 'make an environment with it: python3.9 -m venv NAME'


def test_missing_installation_of_this_package_is_reported(monkeypatch):
    def fail(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'requires', fail)
    with pytest.raises(InputError, match='pip install --no-deps .'):
        check_environment()
