# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Saves time or memory in training and inference."""
