# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts weights of other implementations to checkpoints of KAPAO-MM."""
