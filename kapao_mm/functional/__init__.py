# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pure numpy parts shared by training, evaluation and the torch-free runtime."""
