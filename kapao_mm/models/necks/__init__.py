# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .kapao_pafpn import KAPAOPAFPN

__all__ = ['KAPAOPAFPN']
