# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Puts configs, tools and the model index into the wheel, where OpenMMLab's MIM looks for them.

Everything else about the package is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ('configs', 'tools', 'model-index.yml')  # into kapao_mm/.mim


class BuildWithConfigs(build_py):
    """Copies what a checkout has beside the package into the package that is built."""

    def run(self) -> None:
        """Builds the package and adds the folder ``.mim``."""
        super().run()
        if self.editable_mode:  # the checkout itself is used
            return
        target = Path(self.build_lib, 'kapao_mm', '.mim')
        shutil.rmtree(target, ignore_errors=True)
        for name in CARRIED:
            source = Path(__file__).parent / name
            if source.is_dir():
                ignored = shutil.ignore_patterns('__pycache__', 'install.sh')
                shutil.copytree(source, target / name, ignore=ignored)
            else:
                shutil.copy2(source, target / name)


setup(cmdclass=dict(build_py=BuildWithConfigs))
