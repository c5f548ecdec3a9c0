# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the metadata of an exported model, which is stored in its file for the runtime."""

import json
from dataclasses import asdict, fields
from typing import NamedTuple

from kapao_mm import __version__
from kapao_mm.errors import InputError
from kapao_mm.structures import InferenceSettings, Metainfo

KEY = 'kapao'  # key of the JSON in a model file


class ModelMetadata(NamedTuple):
    """Data that is needed besides the network to predict and draw poses.

    Attributes:
        config: Name of the config of the model.
        use: Use whose thresholds are in the graph, such as ``demo`` or ``evaluation``.
        settings: Inference settings. Those of fusion are applied by the runtime.
        input_size: Longer side of the network input in the config, px.
        square_input: Whether images are padded to squares instead of multiples of 64 px.
        metainfo: Names, skeleton and colors.
        precision: Precision of the convolutions, ``float32`` or ``int8``.
        version: Version of kapao_mm.
    """

    config: str
    use: str
    settings: InferenceSettings
    input_size: int
    square_input: bool
    metainfo: Metainfo
    precision: str = 'float32'
    version: str = __version__

    def to_json(self) -> str:
        """Returns the metadata as one line of JSON."""
        values = self._asdict()
        names = asdict(values.pop('metainfo'))
        return json.dumps({**values, **names, 'settings': asdict(self.settings)})

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
            values = dict(json.loads(text or ''))
            names = {field.name: values.pop(field.name) for field in fields(Metainfo)}
            settings = InferenceSettings(**values.pop('settings'))
            return cls(**values, settings=settings, metainfo=Metainfo(**names))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f'{source} has no metadata of KAPAO; export it with kapao export'
            ) from error
