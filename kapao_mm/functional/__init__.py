# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains numpy and OpenCV code that training, evaluation and the torch-free runtime share."""
