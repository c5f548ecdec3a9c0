# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What the tests of datasets share."""

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """What MMEngine's current logger was told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
