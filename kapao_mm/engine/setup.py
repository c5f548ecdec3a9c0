# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prepares MMEngine for KAPAO when it is imported; ``custom_imports`` of the configs names it.

From then on MMEngine reads every weight file with :func:`read_weight_file`, and a deprecation
warning that MMDetection causes is hidden.
"""

import warnings

from .weight_file import use_safe_reader

use_safe_reader()
# MMDetection's SPP uses the deprecated name of autocast.
warnings.filterwarnings('ignore', message='.torch.cuda.amp.autocast', category=FutureWarning)
