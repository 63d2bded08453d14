"""Real gateways and clients from the tools of tests/gateway."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

for room in ("gateway", "attack"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from farend import FarEnd
from gatewayrig import Gateway


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def far() -> Iterator[FarEnd]:
    end = FarEnd()
    yield end
    end.close()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config): one worker; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any]) -> Gateway:
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", config))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()
