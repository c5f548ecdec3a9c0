# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures that write drawn images in CarFusion's layout and convert them."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from kapao_mm import register_all_modules
from kapao_mm.utils.cli import exit_on_input_error

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def main():
    """Returns the main function of the converter."""
    register_all_modules()
    spec = importlib.util.spec_from_file_location('converter', PROJECT / 'carfusion_to_coco.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def convert(main, tmp_path, monkeypatch):
    """Makes a function that converts ``tmp_path`` and returns the error message, or None."""

    def convert(*args):
        monkeypatch.setattr(sys, 'argv', ['carfusion_to_coco.py', str(tmp_path), *args])
        try:
            with exit_on_input_error():
                main()
        except SystemExit as stop:
            return stop.code
        return None

    return convert


@pytest.fixture
def frame(tmp_path):
    """Makes a function that writes an 80 x 60 image and the given text files."""

    def write(name='train/car_a/1', images='images_jpg', **texts):
        camera, stem = (tmp_path / name).parent, (tmp_path / name).name
        for folder in (images, 'gt', *texts):
            (camera / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(camera / f'{images}/{stem}.jpg'), np.zeros((60, 80, 3), np.uint8))
        for folder, text in texts.items():
            (camera / folder / f'{stem}.txt').write_text(text)

    return write
