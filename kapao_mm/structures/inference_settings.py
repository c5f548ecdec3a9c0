# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the thresholds and limits of inference (docs/method.md, Inference)."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from kapao_mm.errors import InputError

USES = ('evaluation', 'validation', 'tta', 'demo')


@dataclass(frozen=True)
class InferenceSettings:
    """Thresholds and limits of a use of the model, such as evaluation.

    Attributes:
        pose_score_thr: Pose objects need a score above this.
        pose_iou_thr: A pose object is dropped if its IoU with a better one is above this.
        keypoint_score_thr: Keypoint objects need a score above this.
        keypoint_iou_thr: A keypoint object is dropped if its IoU with a better one of its type is
            above this.
        fusion_score_thr: Only poses with a score above this take part in fusion.
        fusion_distance: A keypoint object must be nearer than this to the keypoint that it
            replaces, px of the original image. 0 turns fusion off.
        max_candidates: Number of candidates of an image that take part in suppression.
        max_objects: Number of objects of an image that suppression keeps.

    Raises:
        InputError: If a value makes no sense, such as a threshold that is not between 0 and 1.
    """

    pose_score_thr: float
    pose_iou_thr: float
    keypoint_score_thr: float
    keypoint_iou_thr: float
    fusion_score_thr: float
    fusion_distance: float
    max_candidates: int
    max_objects: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    @property
    def candidate_thrs(self) -> tuple[float, float]:
        """Returns the scores up to which pose objects and keypoint objects have no effect."""
        # In a shared suppression, keypoint objects below their own threshold still count for the
        # limits of numbers.
        keypoint_thr = self.pose_score_thr if self.shares_one_nms else self.keypoint_score_thr
        return self.pose_score_thr, keypoint_thr

    @property
    def shares_one_nms(self) -> bool:
        """Returns whether a single suppression can handle pose objects and keypoint objects.

        It can if both have the same IoU threshold, and the score threshold of keypoint objects is
        not below that of pose objects.
        """
        same = self.pose_iou_thr == self.keypoint_iou_thr
        return same and self.keypoint_score_thr >= self.pose_score_thr

    def changed(self, **changes: float) -> 'InferenceSettings':
        """Returns settings with other values.

        Raises:
            InputError: If a name is not a setting, or a value makes no sense.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f'did you mean {near[0]}?' if near else f'there are {", ".join(names)}'
                raise InputError(f'{name} is not a setting; {hint}')
        return replace(self, **changes)

    @classmethod
    def from_test_cfg(cls, test_cfg: Mapping[str, Any], use: str) -> 'InferenceSettings':
        """Reads the settings of a use from ``model.test_cfg`` of a config.

        Args:
            test_cfg: All settings for evaluation, and for each other use a dict of the settings
                that differ there.
            use: One of :data:`USES`.

        Raises:
            InputError: If a setting for evaluation is missing, or a key is unknown.
        """
        names = [field.name for field in fields(cls)]
        changes = {name: test_cfg.get(name, {}) for name in USES[1:]}
        base = {key: value for key, value in test_cfg.items() if key not in changes}
        given = [*base, *(f'{name}.{key}' for name in changes for key in changes[name])]
        unknown = [key for key in given if key.split('.')[-1] not in names]
        if unknown:
            raise InputError(
                f'model.test_cfg.{unknown[0]} is not a setting; there are {", ".join(names)}, and '
                f'dicts of them for {", ".join(changes)}'
            )
        missing = [name for name in names if name not in base]
        if missing:
            raise InputError(f'model.test_cfg lacks {", ".join(missing)}')
        return cls(**base | changes.get(use, {}))


def _check(name: str, value: float) -> None:
    """Raises InputError if the value of a setting makes no sense."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if name.endswith('_thr'):
        valid, allowed = number and 0 <= value <= 1, 'a number from 0 to 1'
    elif name == 'fusion_distance':
        valid, allowed = number and value >= 0, 'a number of px, 0 or more'
    else:
        valid = number and value >= 1 and float(value).is_integer()
        allowed = 'a whole number, 1 or more'
    if not valid:
        raise InputError(f'{name} must be {allowed}, got {value!r}')
