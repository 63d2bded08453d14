"""Clients that go on while a gateway's processes come and go, and know what was lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from swarm import DONE, Line, Reply
from wireclient import chat, post

PATIENCE_S = 30.0
ID_DIGITS = 10  # of a request's number, behind what tells the worker


def worker_of(reply: Reply) -> str:
    """The worker that answered, by the request id that it gave."""
    _, _, rest = reply.raw.partition(b"x-request-id: ")
    return rest.partition(b"\r\n")[0].decode()[:-ID_DIGITS]


@dataclass
class Session:
    """One client's connection; `owner` is the worker that holds it, once it is known."""

    port: int
    line: Line = field(default_factory=Line)
    owner: str = ""
    opened: ClassVar[list[Session]] = []

    async def open(self) -> Session:
        """Raises ConnectionRefusedError where nobody listens."""
        _, self.line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self.port)
        self.owner = ""
        self.opened.append(self)
        return self

    async def ask(self, data: bytes) -> Reply:
        reply = await asyncio.wait_for(self.line.ask(data), PATIENCE_S)
        self.owner = worker_of(reply) or self.owner
        if not (reply.is_whole and reply.keeps_alive):
            self.close()
        return reply

    def close(self) -> None:
        if self.line.is_open:
            self.line.transport.abort()
            self.line.is_open = False

    @property
    def is_open(self) -> bool:
        return self.line.is_open


def is_good(reply: Reply, *, stream: bool = False) -> bool:
    return (
        reply.is_whole
        and reply.status == 200
        and (reply.body.endswith(DONE) if stream else b"choices" in reply.body)
    )


@dataclass
class Load:
    """Requests at a set rate, half over new connections, half over kept ones; `lost` got no whole answer."""

    port: int
    rate: float
    kept: int = 15
    data: bytes = field(default_factory=lambda: post(chat("load", mock={"delay_s": "5ms"})))
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[str, Reply]] = field(default_factory=list)

    async def run(self, until: asyncio.Event) -> None:
        """Until the event, or until nobody listens any more and every request has ended."""
        resting = [Session(self.port) for _ in range(self.kept)]
        loop = asyncio.get_running_loop()
        began_s, count = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                due_s = began_s + count / self.rate
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                count += 1
                is_kept = bool(count % 2 and resting)
                session = resting.pop(0) if is_kept else Session(self.port)
                group.create_task(self._one(session, resting if is_kept else None))
        for session in resting:
            if session.is_open:
                session.close()

    async def _one(self, session: Session, resting: list[Session] | None) -> None:
        try:
            if not session.is_open:
                await session.open()
        except ConnectionRefusedError:
            self.ends["refused"] += 1
        else:
            reply = await session.ask(self.data)
            if is_good(reply):
                self.ends["good"] += 1
            else:
                self.lost.append((session.owner, reply))
            if resting is None and session.is_open:
                session.close()
        if resting is not None:
            resting.append(session)
