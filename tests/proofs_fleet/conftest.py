"""Two gateways of two workers each, a far end that counts, and a Redis of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

ROOMS = Path(__file__).parents[1]
sys.path[:0] = [str(ROOMS / room) for room in ("gateway", "proofs", "store")]

from farend import FarEnd
from gatewayrig import Gateway
from redisrig import Server


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def far() -> Iterator[FarEnd]:
    end = FarEnd(keep=100_000)
    yield end
    end.close()


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], list[Gateway]]]:
    """start_fleet(config): two machines; they end with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any]) -> list[Gateway]:
        for number in range(2):
            started.append(Gateway(tmp_path / f"machine-{number}", config, 2))
            started[-1].start()
        return started

    yield begin
    for gateway in started:
        gateway.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path).start()
    yield server
    server.kill()
