"""Clients that ask, cancel and break off at random, and know which answer is theirs."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httptools
from wireclient import chat, post, post_chunked

NONCE = re.compile(rb"nonce-[0-9a-f]+")
DONE = b"data: [DONE]\n\n"
PATIENCE_S = 60.0

# How a provider may fail: what is asked of the mock, streamed or not.
FAULTS: list[dict[str, Any]] = [
    {"reset": "before-head"},
    {"close": "before-head"},
    {"reset": "after-head"},
    {"close": "bytes:40"},
    {"reset": "bytes:300"},
    {"close": "events:2"},
    {"reset": "events:3"},
    {"garbage": "http"},
    {"status": 500},
    {"connection_close": True, "status": 503},
]


@dataclass
class Ask:
    """One request of a plan: what is asked, and how its client behaves."""

    nonce: bytes
    stream: bool
    is_general: bool
    fault: dict[str, Any]
    cancel_s: float | None  # it leaves after this time

    @classmethod
    def plan(cls, number: int, choose: random.Random) -> Ask:
        dice = choose.random()
        fault = choose.choice(FAULTS) if dice < 0.1 else {}
        cancel_s = choose.choice((0.0, 0.0005, 0.002, 0.01)) if 0.1 <= dice < 0.3 else None
        return cls(b"nonce-%016x" % number, choose.random() < 0.3, choose.random() < 0.2, fault, cancel_s)

    @property
    def data(self) -> bytes:
        # Half of those that leave ask for an answer that takes longer than they stay.
        slow = {"delay_s": "20ms"} if self.cancel_s is not None and self.nonce[-1] % 2 else {}
        mock = {"events": 6, "text_bytes": 200} | slow | self.fault
        body = chat(self.nonce.decode(), stream=self.stream, mock=mock)
        return post_chunked(body) if self.is_general else post(body)

    def judge(self, reply: Reply) -> str:
        """What became of it in one word; AssertionError if that must not be."""
        assert set(NONCE.findall(reply.raw)) <= {self.nonce}, f"a foreign answer: {reply.raw!r}"
        if not self.fault:
            assert reply.is_whole, f"cut: {reply.raw!r}"
            assert reply.status == 200, reply.raw
            assert reply.body.endswith(DONE) if self.stream else "choices" in json.loads(reply.body)
            return "good"
        assert reply.status in (200, 502), reply.raw
        if reply.status == 502:
            assert json.loads(reply.body)["error"]["code"] == "upstream_error"
            return "refused"
        is_cut = not reply.is_whole or b'"error"' in reply.body
        assert is_cut or not {"reset", "close"} & set(self.fault) or self.fault_comes_late, reply.raw
        assert not (is_cut and DONE in reply.body), reply.raw
        return "cut" if is_cut else "good"

    @property
    def fault_comes_late(self) -> bool:
        """`events:K` strikes streams alone."""
        return not self.stream and str({**self.fault}).count("events:") == 1


@dataclass
class Reply:
    raw: bytes = b""
    status: int = 0
    body: bytes = b""
    is_whole: bool = False
    keeps_alive: bool = False


class Line(asyncio.Protocol):
    """One connection of a client; `replies` come in the order of the requests."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.reply = Reply()
        self.waiting: asyncio.Future[Reply] | None = None
        self.is_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_open = True

    async def ask(self, data: bytes) -> Reply:
        """An empty reply where the connection has ended, before or behind the question."""
        self.reply = Reply()
        if not self.is_open:
            return self.reply
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self.waiting

    def data_received(self, data: bytes) -> None:
        self.reply.raw += data
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.reply.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.reply.body += body

    def on_message_complete(self) -> None:
        self.reply.is_whole = True
        self.reply.keeps_alive = self.parser.should_keep_alive()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._tell()

    def _tell(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(self.reply)


@dataclass
class Swarm:
    """`total` requests over `width` connections at a time; `ends` counts what became of them."""

    port: int
    total: int
    width: int = 200
    seed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    _next: int = 0

    async def run(self) -> Counter[str]:
        async with asyncio.TaskGroup() as group:
            for member in range(self.width):
                group.create_task(self._member(random.Random(self.seed * 1_000_003 + member)))
        return self.ends

    async def _member(self, choose: random.Random) -> None:
        line = Line()
        while self._next < self.total:
            self._next += 1
            ask = Ask.plan(self.seed * 1_000_000_000 + self._next, choose)
            if not line.is_open:
                _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self.port)
            await self._ask(line, ask)
        if line.is_open:
            line.transport.abort()

    async def _ask(self, line: Line, ask: Ask) -> None:
        asking = asyncio.ensure_future(line.ask(ask.data))
        await asyncio.wait([asking], timeout=PATIENCE_S if ask.cancel_s is None else ask.cancel_s)
        if not asking.done():
            assert ask.cancel_s is not None, f"no answer in {PATIENCE_S} s: {ask}"
            line.transport.abort()
            self.ends["left"] += 1
        reply = await asking
        if reply.raw and (reply.is_whole or ask.cancel_s is None):
            self.ends[ask.judge(reply)] += 1
        else:
            assert ask.cancel_s is not None, f"no answer to {ask}"
        if not (reply.is_whole and reply.keeps_alive):
            line.transport.abort()
            line.is_open = False
