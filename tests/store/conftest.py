"""A real Redis for each test that asks for one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(sys.executable).parent


def binary(name: str = "redis-server") -> str:
    found = shutil.which(name) or shutil.which(name, path=str(HERE))
    assert found, f"no {name}: tests/need_redis.sh installs one"
    return found


def free_port() -> int:
    """Below those that the kernel hands out, and low enough for a cluster's second port, 10,000 above."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home)]
        arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.options]
        self.process = subprocess.Popen(
            [binary(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 10
        while b"PONG" not in self.command("PING"):
            assert self.process.poll() is None and time.monotonic() < until, "redis-server did not start"
            time.sleep(0.01)
        return self

    def command(self, *words: str) -> bytes:
        """One inline command, past all clients; b"" where nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                line.sendall(b"*%d\r\n" % len(words))
                for word in words:
                    line.sendall(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()))
                return line.recv(65536)
        except OSError:
            return b""

    def freeze(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.wait()
        self.process = None


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
