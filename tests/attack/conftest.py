"""Gateways under attack, one of them with short deadlines, and the tools of tests/gateway to speak to them."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from farend import FarEnd
from gatewayrig import Gateway, default_config, up

# Of the gateway whose deadlines are tested: short, so that a test need not wait. Whatever else is tested
# meets the usual ones: a client that the machine let stand for a second is not to be refused for it.
DEADLINES = {"header": "400ms", "body": "400ms", "send": "1s", "keep_alive": "2s"}
PROVIDER = {"connect": "5s", "first_token": "20s", "idle": "20s", "total": "60s"}


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def attacked_far() -> Iterator[FarEnd]:
    far = FarEnd()
    yield far
    far.close()


@pytest.fixture(scope="session")
def attacked_gateway(attacked_far: FarEnd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("attacked"), attacked_config(attacked_far)).start()
    yield gateway
    gateway.kill()


@pytest.fixture(scope="session")
def hasty_gateway(attacked_far: FarEnd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = attacked_config(attacked_far, timeouts=DEADLINES)
    gateway = Gateway(tmp_path_factory.mktemp("hasty"), config).start()
    yield gateway
    gateway.kill()


def attacked_config(far: FarEnd, **server: Any) -> dict[str, Any]:
    provider = up(far.port, timeouts=PROVIDER)
    return default_config(far.port, server={"max_body": "1MB"} | server, providers={"up": provider})


@pytest.fixture
def far(attacked_far: FarEnd) -> FarEnd:
    attacked_far.reset()
    return attacked_far


@pytest.fixture
async def gateway(attacked_gateway: Gateway, far: FarEnd) -> AsyncIterator[Gateway]:
    """One gateway for all attacks. Afterwards it still runs, and has said nothing of errors of its own."""
    yield attacked_gateway
    assert attacked_gateway.worker_pids()
    assert [line for line in attacked_gateway.own_lines if '"error"' in line or "Traceback" in line] == []


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config, workers=1): a gateway of the test's own; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1) -> Gateway:
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", config, workers))
        return started[-1].start()

    yield begin
    for one in started:
        one.kill()
