# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads, checks and reviews annotation files in COCO's format."""
