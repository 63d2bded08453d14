"""The load generator's own HTTP client: keep-alive connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

import aiofastnet
import httptools

from llmgw.bench.job import Job, Target, Template

_now_s = time.perf_counter


class Due(NamedTuple):
    """A request that is to be sent: when it was intended to go, and its nonce."""

    intended_s: float
    nonce: bytes
    is_measured: bool


class Wire(asyncio.Protocol):
    """One connection. Times are those of `time.perf_counter`, in seconds."""

    __slots__ = (
        "_last_event_s",
        "_parser",
        "_parts",
        "_pool",
        "_tail",
        "due",
        "events",
        "first_s",
        "gaps",
        "now_s",
        "sent_s",
        "status",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.due: Due | None = None
        self.now_s = 0.0

    def send(self, due: Due) -> None:
        assert self.due is None
        assert self.transport is not None
        self.due = due
        self.status = 0
        self.events = 0
        self.first_s = 0.0  # when the first event (or first byte of a whole answer) was here
        self.gaps: list[float] = []  # between events; those of one read are 0 apart
        self._parts: list[bytes] = []
        self._tail = b""
        self._last_event_s = 0.0
        data = self._pool.template.fill(due.nonce)
        self.sent_s = _now_s()
        self.transport.write(data)

    @property
    def body(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.now_s = _now_s()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            self.fail(f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(f"the connection ended before the answer did ({error or 'FIN'})")

    def fail(self, reason: str) -> None:
        due, self.due = self.due, None
        self._pool.lost(self, due, reason)
        if self.transport is not None:
            self.transport.abort()

    # --- httptools' callbacks

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        if not self._pool.is_stream:
            self.first_s = self.first_s or self.now_s
            return
        seam = self._tail + body
        complete = seam.count(b"\n\n")
        self._tail = b"" if seam.endswith(b"\n\n") else seam[-1:]
        if complete:
            self._note_events(complete)

    def on_message_complete(self) -> None:
        due, self.due = self.due, None
        if due is None:
            self.fail("an answer that nobody asked for")
            return
        self._pool.answered(self, due, keep=self._parser.should_keep_alive())

    def _note_events(self, count: int) -> None:
        if self.events:
            self.gaps.append(self.now_s - self._last_event_s)
        else:
            self.first_s = self.now_s
        self.gaps.extend([0.0] * (count - 1))
        self.events += count
        self._last_event_s = self.now_s
        self._pool.events += count


class Pool:
    """The connections to one target; what finds no free one waits, and its latency runs."""

    def __init__(
        self,
        job: Job,
        target: Target,
        on_answer: Callable[[Pool, Wire, Due], None],
        on_failure: Callable[[Pool, Due | None, str], None],
    ) -> None:
        self.target = target
        self.template = Template(job, target)
        self.is_stream = job.is_stream
        self.events = 0  # that have come on all its connections
        self._job = job
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._wires: set[Wire] = set()
        self._idle: list[Wire] = []
        self._backlog: deque[Due] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        return len(self._backlog) + sum(wire.due is not None for wire in self._wires)

    def submit(self, due: Due) -> None:
        if self._idle:
            self._idle.pop().send(due)
            return
        self._backlog.append(due)
        self._maybe_open()

    async def warm(self, count: int) -> None:
        """Opens this many connections beforehand."""
        for _ in range(count):
            self._open()
        await asyncio.gather(*self._opening)

    def answered(self, wire: Wire, due: Due, keep: bool) -> None:
        if not keep:
            self._wires.discard(wire)
            assert wire.transport is not None
            wire.transport.close()
        self._on_answer(self, wire, due)
        if not keep:
            self._maybe_open()
        elif self._backlog:
            wire.send(self._backlog.popleft())
        else:
            self._idle.append(wire)

    def lost(self, wire: Wire, due: Due | None, reason: str) -> None:
        """A connection that ended; only one with a request under way is a failure."""
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        if due is not None:
            self._on_failure(self, due, reason)
            self._maybe_open()

    def fail_overdue(self, now_s: float) -> None:
        limit_s = now_s - self._job.timeout_s
        for wire in list(self._wires):
            if wire.due is not None and wire.due.intended_s < limit_s:
                wire.fail(f"no whole answer within {self._job.timeout_s:g} s")
        while self._backlog and self._backlog[0].intended_s < limit_s:
            self._on_failure(self, self._backlog.popleft(), "no free connection in time")

    def close(self) -> None:
        self._is_closed = True
        for task in self._opening:
            task.cancel()
        self._backlog.clear()
        for wire in list(self._wires):
            wire.due = None
            if wire.transport is not None:
                wire.transport.abort()

    def _maybe_open(self) -> None:
        """One connection for each request that waits, as long as there may be more."""
        has_room = len(self._wires) + len(self._opening) < self._job.concurrency
        if has_room and len(self._backlog) > len(self._opening) and not self._is_closed:
            self._open()

    def _open(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._opening.add(task)

    async def _connect(self) -> None:
        target = self.target
        try:
            _, wire = await aiofastnet.create_connection(
                asyncio.get_running_loop(),
                lambda: Wire(self),
                target.host,
                target.port,
                ssl=self._job.tls if target.is_tls else None,
            )
        except OSError as error:
            self._opening.discard(_this_task())
            due = self._backlog.popleft() if self._backlog else None
            self._on_failure(self, due, f"cannot connect: {error}")
            self._maybe_open()
            return
        self._opening.discard(_this_task())
        self._wires.add(wire)
        if self._backlog:
            wire.send(self._backlog.popleft())
        else:
            self._idle.append(wire)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
