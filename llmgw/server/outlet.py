"""The general lane's outlet: from the calls of a relay to the steps of an aiohttp response."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from llmgw._wire.outlet import Outlet

HIGH_WATER_BYTES = 65536


class AppOutlet(Outlet):
    """Turns the calls of a relay into the steps of an aiohttp response, at the client's pace."""

    def __init__(self) -> None:
        self.steps: deque[tuple[str, Any]] = deque()
        self.queued_bytes = 0
        self.is_slowed = False
        self.has_steps = asyncio.Event()

    def answer(self, status: int, head: bytes, body: bytes) -> int:
        self.is_begun = True
        return self._put("answer", (status, head, body))

    def begin(self, status: int, head: bytes, length: int) -> int:
        self.is_begun = True
        return self._put("begin", (status, head, length))

    def write(self, data: bytes) -> int:
        if not data:
            return 0
        self.queued_bytes += len(data)
        if self.queued_bytes > HIGH_WATER_BYTES and not self.is_slowed:
            self.is_slowed = True
            self.slow_down()
        return self._put("write", data)

    def end(self) -> int:
        return self._put("end", None)

    def cut(self) -> int:
        return self._put("cut", None)

    def finished(self) -> None:
        """The gateway has ended; what it left unanswered is cut off."""
        self._put("cut", None)

    def _put(self, step: str, value: Any) -> int:
        self.steps.append((step, value))
        self.has_steps.set()
        return 0

    async def next_step(self) -> tuple[str, Any]:
        while not self.steps:
            self.has_steps.clear()
            await self.has_steps.wait()
        return self.steps.popleft()

    def written(self, size: int) -> None:
        self.queued_bytes -= size
        if self.is_slowed and self.queued_bytes < HIGH_WATER_BYTES // 2:
            self.is_slowed = False
            self.speed_up()


def head_lines(head: bytes) -> list[tuple[str, str]]:
    """Our own block of header lines, as aiohttp wants it."""
    lines = head.decode("ascii").split("\r\n")
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines if line)]
