# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Exports the network with decoding and suppression, and runs exported models without torch."""
