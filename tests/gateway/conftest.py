import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from farend import FarEnd, OddServer
from gatewayrig import CLIENT_KEY, Gateway, default_config
from openai import AsyncOpenAI

from llmgw.mock import Mock, Options, start


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_mock() -> AsyncIterator[Callable[..., Awaitable[Mock]]]:
    """Starts mock providers on the test's loop; they end with the test."""
    started: list[Mock] = []

    async def begin(**options: object) -> Mock:
        started.append(await start(options=Options(**options)))
        return started[-1]

    yield begin
    for mock in started:
        await mock.close()


@pytest.fixture
async def mock(start_mock: Callable[..., Awaitable[Mock]]) -> Mock:
    """A mock provider of the test's own, on its loop: never block that while the gateway is asked."""
    return await start_mock()


@pytest.fixture(scope="module")
def odd_socket() -> Iterator[socket.socket]:
    """Where the odd providers of a module's tests listen, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
async def odd(odd_socket: socket.socket) -> AsyncIterator[OddServer]:
    """A provider whose answers are the bytes that the test says."""
    server = await OddServer().start(odd_socket.dup())
    yield server
    await server.close()


@pytest.fixture(scope="module")
def shared_odd_gateway(
    odd_socket: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("odd"), default_config(odd_socket.getsockname()[1])).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def odd_gateway(shared_odd_gateway: Gateway, odd: OddServer) -> Gateway:
    """The default gateway in front of `odd`, one for all tests of a module. Its log starts empty."""
    await shared_odd_gateway.forget_log()
    return shared_odd_gateway


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """start_gateway(config, workers=1): a gateway of the test's own; it ends with the test."""
    started: list[Gateway] = []

    def begin(config: dict[str, Any], workers: int = 1, **environ: str) -> Gateway:
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", config, workers, **environ))
        return started[-1].start()

    yield begin
    for gateway in started:
        gateway.kill()


@pytest.fixture(scope="session")
def shared_far() -> Iterator[FarEnd]:
    far = FarEnd()
    yield far
    far.close()


@pytest.fixture(scope="session")
def shared_gateway(shared_far: FarEnd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), default_config(shared_far.port)).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def far(shared_far: FarEnd) -> FarEnd:
    """The default gateway's far end, with an empty script and nothing seen."""
    shared_far.reset()
    return shared_far


@pytest.fixture
async def gateway(shared_gateway: Gateway, far: FarEnd) -> Gateway:
    """The default gateway, one for all tests: `default_config`, one worker. Its log starts empty."""
    await shared_gateway.forget_log()
    far.reset()
    return shared_gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    """The official SDK as its users have it, retries included."""
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=CLIENT_KEY) as opened:
        yield opened
