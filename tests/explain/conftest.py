"""Explanations: of rings in a segment, and of gateways as users run them."""

import sys
from pathlib import Path

import pytest
import uvloop

for room in ("gateway", "core"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from explainrig import config_of
from farend import FarEnd
from gatewayrig import Gateway

from llmgw._core.segment import Segment


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state" / "segment")


@pytest.fixture
def segment(path):
    return Segment(path, 2)


@pytest.fixture(scope="module")
def shared_ends():
    ends = {name: FarEnd() for name in "ab"}
    yield ends
    for end in ends.values():
        end.close()


@pytest.fixture(scope="module")
def shared_explaining(shared_ends, tmp_path_factory):
    config = config_of({name: end.port for name, end in shared_ends.items()})
    gateway = Gateway(tmp_path_factory.mktemp("explaining"), config, workers=2).start()
    yield gateway
    gateway.kill()


@pytest.fixture
def ends(shared_ends):
    for end in shared_ends.values():
        end.hang_up()
        end.reset()
    return shared_ends


@pytest.fixture
async def gateway(shared_explaining, ends):
    """Two workers, of which either may be asked; limits stay used from test to test."""
    await shared_explaining.forget_log()
    return shared_explaining
