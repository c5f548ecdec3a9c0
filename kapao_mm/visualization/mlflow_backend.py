# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes curves and pictures to MLflow under names that it accepts."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.visualization import MLflowVisBackend
from mmpose.registry import VISBACKENDS


@VISBACKENDS.register_module()
class KAPAOMLflowVisBackend(MLflowVisBackend):
    """MMEngine's MLflowVisBackend with names that MLflow accepts.

    MLflow refuses metrics with parentheses, such as AP (M), and pictures without a suffix, and it
    keeps one picture of each name. Here parentheses are left out, and the name of a picture has its
    step and a suffix. The config is logged as a text, and its values are no parameters, because
    MLflow limits their length.

    Args:
        *args: Arguments of :class:`MLflowVisBackend`.
        tracked_config_keys: Keys of the config that are logged as parameters, too.
        **kwargs: Arguments of :class:`MLflowVisBackend`.
    """

    def __init__(self, *args: Any, tracked_config_keys: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, tracked_config_keys=tracked_config_keys, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Logs a picture, RGB (h, w, 3) uint8, as ``NAME_STEP.png``."""
        super().add_image(f'{name}_{step}.png', image, step, **kwargs)

    def add_scalars(
        self, scalar_dict: dict[str, float], step: int = 0, *args: Any, **kwargs: Any
    ) -> None:
        """Logs metrics under their names without the characters that MLflow refuses."""
        named = {re.sub(r'[^\w./: -]', '', name): value for name, value in scalar_dict.items()}
        super().add_scalars(named, step, *args, **kwargs)
