# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts files of other formats to COCO-format annotations, and back."""
