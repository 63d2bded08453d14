"""What a proof needs: gateways as users run them, a far end that counts, and a Redis of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from farend import FarEnd
from gatewayrig import Gateway
from redisrig import Server


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def far() -> Iterator[FarEnd]:
    """A far end of the test's own, which remembers every arrival."""
    end = FarEnd(keep=100_000)
    yield end
    end.close()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config, workers=1, **environ): a machine of its own; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1, **environ: str) -> Gateway:
        started.append(Gateway(tmp_path / f"machine-{len(started)}", config, workers, **environ))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path).start()
    yield server
    server.kill()
