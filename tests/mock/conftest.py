from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from llmgw.mock import Mock, Options, start


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
async def mock(start_mock: Callable[..., Awaitable[Mock]]) -> Mock:
    return await start_mock()
