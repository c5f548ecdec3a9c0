# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""KAPAO (Keypoints And Poses As Objects, ECCV 2022) as a plugin of MMPose and MMDetection.

Importing this package imports neither torch nor MM; :func:`register_all_modules` does.
"""

from kapao_mm.utils.project_files import find_config
from kapao_mm.utils.stand_in_extensions import install_stand_ins

__version__ = '0.1.0'

install_stand_ins()


def register_all_modules() -> None:
    """Registers every KAPAO part with MMPose's registries and makes MMPose the default scope.

    It also makes MMEngine read weight files safely (:mod:`kapao_mm.engine.setup`), and thresholds
    of MMPose's inferencers work on KAPAO (:mod:`kapao_mm.apis.setup`).
    """
    from mmengine.registry import init_default_scope

    import kapao_mm.apis.setup
    import kapao_mm.datasets
    import kapao_mm.engine.setup
    import kapao_mm.evaluation
    import kapao_mm.models
    import kapao_mm.visualization  # noqa: F401

    init_default_scope('mmpose')


def config_path(name: str) -> str:
    """Returns the path of one of this package's configs, for ``_base_`` in a config elsewhere.

    Args:
        name: Such as ``kapao_s_coco``; the command ``kapao configs`` lists them.

    Raises:
        InputError: If there is no config of this name.
    """
    return str(find_config(name))
