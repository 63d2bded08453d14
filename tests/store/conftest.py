"""A real Redis for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redisrig import Server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def redis(shared_redis: Server) -> Server:
    """One that is emptied; for tests that leave it as it was."""
    assert b"OK" in shared_redis.command("FLUSHALL")
    return shared_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    """One that a test may freeze, kill and start again."""
    server = Server(tmp_path).start()
    yield server
    server.kill()
