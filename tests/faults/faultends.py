"""Far ends that can go wrong: mock providers in any number, and ports where connecting itself fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import uvloop
from gatewayrig import DEADLINE_S

from llmgw.mock import Arrival, Mock, Options, parse_fault, start

Value = TypeVar("Value")
RST = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing is RST


class FarEnds:
    """Mock providers on one loop and thread of their own; a test may block its loop meanwhile."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._mocks: list[Mock] = []
        self._resetting: list[Resetting] = []

    def run(self, work: Awaitable[Value]) -> Value:
        async def awaited() -> Value:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(DEADLINE_S)

    def start(self, keep: int = 1000, **fault: Any) -> Mock:
        """One more, with this fault in each of its answers."""
        mock = self.run(start(options=Options(fault=parse_fault(fault), keep=keep)))
        self._mocks.append(mock)
        return mock

    def script(self, mock: Mock, *steps: dict[str, Any]) -> None:
        """These steps instead of those before."""

        async def run() -> None:
            mock._steps.clear()
            mock.script(*steps)

        self.run(run())

    def stop(self, mock: Mock) -> None:
        """Its port refuses, its connections are reset."""
        self.run(mock.close())
        self._mocks.remove(mock)

    def reset_connections(self, port: int = 0) -> Resetting:
        """One more that resets whoever connects."""
        self._resetting.append(self.run(Resetting.start(port)))
        return self._resetting[-1]

    def close(self) -> None:
        for mock in self._mocks:
            self.run(mock.close())
        for resetting in self._resetting:
            self.run(resetting.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def arrivals(mock: Mock) -> list[Arrival]:
    """A snapshot. Appending to the deque meanwhile would end its iteration with an error: then again."""
    while True:
        with contextlib.suppress(RuntimeError):
            return list(mock.seen)


class Resetting(asyncio.Protocol):
    """Accepts, and resets at once."""

    server: asyncio.Server
    port = 0
    connections = 0

    @classmethod
    async def start(cls, port: int = 0) -> Resetting:
        one = cls()
        one.server = await asyncio.get_running_loop().create_server(lambda: one, "127.0.0.1", port)
        one.port = one.server.sockets[0].getsockname()[1]
        return one

    async def close(self) -> None:
        self.server.close()

    def connection_made(self, transport: Any) -> None:
        self.connections += 1
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        transport.abort()


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A port that refuses: it is ours, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port whose queue is full: the kernel lets further attempts to connect wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for filler in fillers:
            filler.close()
