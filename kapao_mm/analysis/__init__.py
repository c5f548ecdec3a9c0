# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the model and its parts, and compares results, for the tools of research."""
