# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Serves a page in the browser where images and videos are uploaded; needs Gradio."""
