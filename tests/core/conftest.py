import time

import pytest

from llmgw._core.segment import Segment


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state" / "segment")


@pytest.fixture
def segment(path):
    return Segment(path, 2)


@pytest.fixture
def spin():
    """Lets real time pass without sleeping: what a blocked loop does."""

    def until(seconds):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            pass

    return until
