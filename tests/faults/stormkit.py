"""Callers that come at a set rate whatever becomes of those before them, and what each of them got."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from gatewayrig import Gateway
from swarm import Line, Reply
from wireclient import chat, post

from llmgw.mock import Arrival

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Sample:
    sent_s: float
    took_s: float
    reply: Reply

    @property
    def is_good(self) -> bool:
        return self.reply.is_whole and self.reply.status == 200 and b"choices" in self.reply.body

    def header(self, name: str) -> str | None:
        _, found, rest = self.reply.raw.partition(b"\r\n" + name.encode() + b": ")
        return rest.partition(b"\r\n")[0].decode() if found else None


@dataclass
class Storm:
    """Over connections that are kept, and opened where none is free."""

    gateway: Gateway
    rate: float
    samples: list[Sample] = field(default_factory=list)
    resting: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)  # all that were ever open
    runs: list[asyncio.Task[list[Sample]]] = field(default_factory=list)

    def begin(self, seconds: float) -> asyncio.Task[list[Sample]]:
        """The samples of those that are sent in this time; all of them have ended."""
        self.runs.append(asyncio.ensure_future(self._run(seconds)))
        return self.runs[-1]

    async def run(self, seconds: float) -> list[Sample]:
        return await self.begin(seconds)

    async def _run(self, seconds: float) -> list[Sample]:
        loop, before = asyncio.get_running_loop(), len(self.samples)
        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(self.rate * seconds)):
                await asyncio.sleep(max(0.0, began_s + number / self.rate - loop.time()))
                group.create_task(self._one())
        return self.samples[before:]

    async def _one(self) -> None:
        line = self.resting.pop() if self.resting else await self._open()
        sent_s = time.monotonic()
        reply = await asyncio.wait_for(line.ask(post(chat("storm"))), PATIENCE_S)
        self.samples.append(Sample(sent_s, time.monotonic() - sent_s, reply))
        if reply.keeps_alive and line.is_open:
            self.resting.append(line)
        else:
            line.transport.abort()

    async def _open(self) -> Line:
        _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self.gateway.port)
        self.lines.append(line)
        return line

    async def close(self) -> None:
        """Of a test that failed, too: what is under way ends."""
        for run in self.runs:
            run.cancel()
        await asyncio.gather(*self.runs, return_exceptions=True)
        for line in self.lines:
            line.transport.abort()


def statuses(samples: list[Sample]) -> Counter[int]:
    return Counter(sample.reply.status for sample in samples)


def moments(arrivals: list[Arrival], since_s: float = 0.0) -> list[tuple[float, int]]:
    return [(arrival.started_s, 1) for arrival in arrivals if arrival.started_s >= since_s]


def sendings(samples: list[Sample], since_s: float = 0.0) -> list[tuple[float, int]]:
    return [(sample.sent_s, 1) for sample in samples if sample.sent_s >= since_s]
