# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes training or inference cheaper."""
