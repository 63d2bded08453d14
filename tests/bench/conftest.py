from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from llmgw.bench import Job, Target
from llmgw.mock import Mock, Options, parse_fault, start


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_mock() -> AsyncIterator[Callable[..., Awaitable[Mock]]]:
    """Starts mocks whose every answer has the faults given, and ends them with the test."""
    started: list[Mock] = []

    async def begin(**fault: object) -> Mock:
        started.append(await start(options=Options(fault=parse_fault(fault))))
        return started[-1]

    yield begin
    for mock in started:
        await mock.close()


@pytest.fixture
def job_for() -> Callable[..., Job]:
    """A short job against mocks, by the names of the ways to them."""

    def make(*mocks: Mock, **settings: object) -> Job:
        names = ("gateway", "direct")
        targets = [
            Target(name, f"http://127.0.0.1:{m.port}/v1") for name, m in zip(names, mocks, strict=False)
        ]
        return Job(
            **{"targets": tuple(targets), "warmup_s": 0.05, "duration_s": 0.6, "timeout_s": 20.0, **settings}
        )

    return make
