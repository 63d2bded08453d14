"""Real processes, and the tools of tests/gateway and tests/attack to speak to them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

for room in ("gateway", "attack"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from clients import Session
from farend import FarEnd
from gatewayrig import Gateway


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def lifecycle_far() -> Iterator[FarEnd]:
    far = FarEnd()
    yield far
    far.close()


@pytest.fixture
def far(lifecycle_far: FarEnd) -> FarEnd:
    lifecycle_far.reset()
    return lifecycle_far


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config, workers=2): a gateway of the test's own; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 2) -> Gateway:
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", config, workers))
        return started[-1].start()

    yield begin
    for one in started:
        one.kill()


@pytest.fixture
async def close_sessions() -> AsyncIterator[None]:
    """What clients a test left open ends with it."""
    yield
    for session in Session.opened:
        session.close()
    Session.opened.clear()
    await asyncio.sleep(0)
