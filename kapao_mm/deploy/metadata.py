# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What an exported model says of itself; written into its file, read by the runtime."""

import json
from typing import Any, NamedTuple

from kapao_mm import __version__
from kapao_mm.errors import InputError

KEY = 'kapao'  # where the JSON lies in a model file


class ModelMetadata(NamedTuple):
    """All that is needed besides the network to predict and draw poses.

    Attributes:
        config: name of the config that the model was made from.
        use: whose thresholds are in the graph, ``pictures`` or ``evaluation``.
        settings: the thresholds and limits; those of fusion are for the runtime.
        input_size: long side of the network input that the config has, px.
        square_input: whether images are padded to squares, not only to multiples of 64.
        categories: a dict for each with ``name`` and ``keypoint_ids``.
        keypoint_names: K.
        flip_pairs: pairs of keypoint types that a left-right flip swaps.
        sigmas: of OKS, K.
        skeleton_links: pairs of keypoint types.
        keypoint_colors: RGB, K.
        link_colors: RGB, one a link.
        version: of kapao_mm.
    """

    config: str
    use: str
    settings: dict[str, float]
    input_size: int
    square_input: bool
    categories: list[dict[str, Any]]
    keypoint_names: list[str]
    flip_pairs: list[list[int]]
    sigmas: list[float]
    skeleton_links: list[list[int]]
    keypoint_colors: list[list[int]]
    link_colors: list[list[int]]
    version: str = __version__

    @property
    def keypoint_counts(self) -> list[int]:
        """The keypoint types of each category, C numbers."""
        return [len(category['keypoint_ids']) for category in self.categories]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str | None, source: str) -> 'ModelMetadata':
        """Reads what :meth:`to_json` wrote.

        Raises:
            InputError: there is none, or it has not these keys; ``source`` is named.
        """
        try:
            return cls(**json.loads(text or ''))
        except (TypeError, ValueError) as error:
            raise InputError(
                f'{source} has no metadata of KAPAO; export it with kapao export'
            ) from error
