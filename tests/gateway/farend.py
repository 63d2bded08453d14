"""Far ends of a gateway: a mock provider on a loop of its own, and one that answers any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import uvloop
from gatewayrig import DEADLINE_S

from llmgw.mock import Arrival, Mock, Options, start

Value = TypeVar("Value")


class FarEnd:
    """A mock provider on a loop and thread of its own, for whoever blocks the test's loop, and for many tests."""

    def __init__(self, host: str = "127.0.0.1", ssl: tls.SSLContext | None = None, **options: Any) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.mock: Mock = asyncio.run_coroutine_threadsafe(
            start(host, options=Options(**options), ssl=ssl), self._loop
        ).result()
        self.port = self.mock.port

    def call(self, function: Callable[[Mock], Value]) -> Value:
        """Runs it where the mock lives."""

        async def run() -> Value:
            return function(self.mock)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def script(self, *steps: dict[str, Any]) -> None:
        self.call(lambda mock: mock.script(*steps))

    def reset(self) -> None:
        self.call(lambda mock: mock.reset())

    def hang_up(self) -> None:
        """Ends every connection, so that the next request comes on a new one."""

        def run(mock: Mock) -> None:
            for connection in list(mock._connections):
                connection.transport.abort()

        self.call(run)

    @property
    def seen(self) -> list[Arrival]:
        return self.call(lambda mock: list(mock.seen))

    @property
    def requests(self) -> int:
        return self.call(lambda mock: mock.seen.requests)

    async def wait(self, condition: Callable[[Mock], bool], timeout_s: float = DEADLINE_S) -> None:
        waiting = asyncio.run_coroutine_threadsafe(self.mock.wait(condition, timeout_s), self._loop)
        await asyncio.wrap_future(waiting)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.mock.close(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class OddServer:
    """A provider that answers each request with the next bytes of its list, whatever was asked.

    A reply that ends with `END` is followed by the end of the connection. With `is_early` it answers
    before it reads a body.
    """

    END = b"\0end of the connection\0"

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.requests: list[tuple[int, bytes]] = []  # number of the connection, head and body
        self.connections = 0
        self.is_early = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, listening: socket.socket) -> OddServer:
        self._server = await asyncio.start_server(self._serve, sock=listening)
        return self

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append((number, head + await self._read_body(reader, head)))
                reply = self.replies.pop(0)
                writer.write(reply.removesuffix(self.END))
                while self.is_early and await reader.read(65536):
                    pass  # until the other end gives up
                if self.is_early or reply.endswith(self.END):
                    break
        writer.close()
        self._writers.discard(writer)

    async def _read_body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if self.is_early or not lengths:
            return b""
        return await reader.readexactly(int(lengths[0].partition(b":")[2]))
