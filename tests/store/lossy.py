"""What stands between a Redis and its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


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
