# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""KAPAO (Keypoints And Poses As Objects, ECCV 2022) as a plugin of MMPose and MMDetection.

Importing this package imports neither torch nor MM; :func:`register_all_modules` does.
"""

__version__ = '0.1.0'


def register_all_modules() -> None:
    """Registers every KAPAO part with MMPose's registries and makes MMPose the default scope."""
    from mmengine.registry import init_default_scope

    import kapao_mm.apis
    import kapao_mm.datasets
    import kapao_mm.engine
    import kapao_mm.evaluation
    import kapao_mm.models
    import kapao_mm.visualization  # noqa: F401

    init_default_scope('mmpose')
