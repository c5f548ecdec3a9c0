# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Helpers that are independent of KAPAO; importing this package imports neither torch nor MM."""
