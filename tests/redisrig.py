"""A real Redis, and what stands between it and a client."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from freeport import free_port

HERE = Path(sys.executable).parent
START_S = 30


def binary(name: str = "redis-server") -> str:
    found = shutil.which(name) or shutil.which(name, path=str(HERE))
    assert found, f"no {name}: tests/need_redis.sh installs one"
    return found


class Server:
    """In memory only. `AssertionError` with its last words where it does not start."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.options = options
        # A node of a cluster listens on a second port, so far above.
        self.port = free_port(10_000 if "--cluster-enabled" in options else 0)
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home)]
        arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.options]
        said = self.home / "redis.out"
        with said.open("wb") as sink:
            self.process = subprocess.Popen([binary(), *arguments], stdout=sink, stderr=sink)
        until = time.monotonic() + START_S
        while b"PONG" not in self.command("PING"):
            assert self.process.poll() is None, f"redis-server ended: {said.read_text()[-1000:]}"
            assert time.monotonic() < until, f"redis-server does not answer: {said.read_text()[-1000:]}"
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


class Lossy:
    """A proxy that lets every command through and drops replies, with the connection, as `drops` says."""

    def __init__(self, port: int, drops: Callable[[], bool]) -> None:
        self.target = port
        self.drops = drops
        self.port = 0
        self.dropped = 0
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> Lossy:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        there = asyncio.ensure_future(self.copy(reader, far_writer))
        try:
            while data := await far_reader.read(65536):
                if self.drops():
                    self.dropped += 1
                    break
                writer.write(data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            there.cancel()
            await asyncio.gather(there, return_exceptions=True)
            for end in (writer, far_writer):
                end.close()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
