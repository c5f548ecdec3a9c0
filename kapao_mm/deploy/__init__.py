# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Export of the network with its post-processing, and a runtime without torch and MM."""
