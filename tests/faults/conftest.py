"""Real gateways, and the tools of other rooms to speak to them and to count at their far end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

for room in ("gateway", "attack", "lifecycle", "proofs"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from faultends import FarEnds
from gatewayrig import Gateway


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def far_ends() -> Iterator[FarEnds]:
    ends = FarEnds()
    yield ends
    ends.close()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config, workers=1): a machine of its own; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1) -> Gateway:
        started.append(Gateway(tmp_path / f"machine-{len(started)}", config, workers))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()
