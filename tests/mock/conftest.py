from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from llmgw.mock import Mock, Options, start
from llmgw.mock.protocol import Connection


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_mock() -> AsyncIterator[Callable[..., Awaitable[Mock]]]:
    """Starts mocks that end with the test."""
    started: list[Mock] = []

    async def begin(**options: object) -> Mock:
        started.append(await start(options=Options(**options)))
        return started[-1]

    yield begin
    for mock in started:
        await mock.close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the mocks write, each when all before it has left; how a client reads it is the kernel's choice."""
    noted: list[bytes] = []
    write = Connection.write

    async def note(connection: Connection, data: bytes) -> None:
        assert connection.transport.get_write_buffer_size() == 0, (
            "it would leave together with what was before"
        )
        noted.append(data)
        await write(connection, data)

    monkeypatch.setattr(Connection, "write", note)
    return noted


@pytest.fixture
async def mock(start_mock: Callable[..., Awaitable[Mock]]) -> Mock:
    return await start_mock()
