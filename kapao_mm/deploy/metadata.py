# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the metadata of an exported model, which is stored in its file for the runtime."""

import json
from dataclasses import asdict
from typing import Any, NamedTuple

from kapao_mm import __version__
from kapao_mm.errors import InputError
from kapao_mm.structures import InferenceSettings

KEY = 'kapao'  # key of the JSON in a model file


class ModelMetadata(NamedTuple):
    """Data that is needed besides the network to predict and draw poses.

    Attributes:
        config: Name of the config of the model.
        use: Use whose thresholds are in the graph, such as ``demo`` or ``evaluation``.
        settings: Inference settings. Those of fusion are applied by the runtime.
        input_size: Longer side of the network input in the config, px.
        square_input: Whether images are padded to squares instead of multiples of 64 px.
        categories: A dict for each category with ``name`` and ``keypoint_ids``.
        keypoint_names: Names of the K keypoint types.
        flip_pairs: Pairs of keypoint types that a flip from left to right swaps.
        sigmas: Sigmas of OKS, K numbers.
        skeleton_links: Pairs of keypoint types.
        keypoint_colors: RGB colors of the K keypoint types.
        link_colors: RGB colors of the links.
        version: Version of kapao_mm.
    """

    config: str
    use: str
    settings: InferenceSettings
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
        """Returns the number of keypoint types of each category, C numbers."""
        return [len(category['keypoint_ids']) for category in self.categories]

    def to_json(self) -> str:
        """Returns the metadata as one line of JSON."""
        return json.dumps({**self._asdict(), 'settings': asdict(self.settings)})

    @classmethod
    def from_json(cls, text: str | None, source: str) -> 'ModelMetadata':
        """Reads the JSON of :meth:`to_json`.

        Args:
            text: JSON, or None if the file has no metadata.
            source: Name of the file, for messages.

        Raises:
            InputError: If there is no metadata, or it is that of another version.
        """
        try:
            fields = json.loads(text or '')
            return cls(**fields | dict(settings=InferenceSettings(**fields['settings'])))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f'{source} has no metadata of KAPAO; export it with kapao export'
            ) from error
