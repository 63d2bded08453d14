"""What these tests need: a gateway in front of two or three far ends, all of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))
sys.path.insert(0, str(Path(__file__).parents[1] / "proofs"))

from farend import FarEnd
from gatewayrig import Gateway


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def far_ends() -> Iterator[tuple[FarEnd, FarEnd, FarEnd]]:
    ends = FarEnd(keep=10_000), FarEnd(keep=10_000), FarEnd(keep=10_000)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def a(far_ends: tuple[FarEnd, ...]) -> FarEnd:
    far_ends[0].reset()
    return far_ends[0]


@pytest.fixture
def b(far_ends: tuple[FarEnd, ...]) -> FarEnd:
    far_ends[1].reset()
    return far_ends[1]


@pytest.fixture
def c(far_ends: tuple[FarEnd, ...]) -> FarEnd:
    far_ends[2].reset()
    return far_ends[2]


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """module_gateway(config): one for all tests of a module."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1) -> Gateway:
        started.append(Gateway(tmp_path_factory.mktemp("resilience"), config, workers))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1, **environ: str) -> Gateway:
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", config, workers, **environ))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()
