# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads images, videos, cameras and streams, and writes videos; without torch."""

from .inputs import Frame, Source, open_inputs
from .video import VideoReader, VideoWriter

__all__ = ['Frame', 'Source', 'VideoReader', 'VideoWriter', 'open_inputs']
