# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Serves a page in the browser that predicts uploads; needs Gradio."""
