"""Sends one answer with pace, cuts and breaks: the slow path, one coroutine for each answer."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson

from llmgw.mock.answer import Answer, Event, Refusal, error_body, head, renderer
from llmgw.mock.fault import Fault, Point
from llmgw.mock.seen import COMPLETE, FAULT

if TYPE_CHECKING:
    from llmgw.mock.protocol import Connection

_NOT_HTTP = b"SSH-2.0-mock this is not HTTP\r\n\r\n"
_NOT_JSON = b'{"id": "chatcmpl-mock", "object": '
_NOT_A_CHUNK = b"5z\r\nhello\r\n"
_EVENTS_PER_TURN = 64  # an unpaced stream lets the loop run after this many
_DRAIN_S = 5.0  # a reset waits this long for the bytes before it to leave

_Ends = tuple[tuple[str, Point], ...]


class _Struck(Exception):
    """The fault that ends this answer has happened."""


async def deliver(connection: Connection, answer: Answer, fault: Fault, dialect: str, close: bool) -> None:
    """Writes the answer as the fault wants it and tells the connection how it ended."""
    sender = _Sender(connection, fault)
    try:
        await sender.send(answer, dialect, close)
    except _Struck:
        connection.finish(FAULT, close=True)
    else:
        connection.finish(COMPLETE, close=close or fault.hang_up)


class _Sender:
    """One answer under way: what has been sent, and where its end is due."""

    def __init__(self, connection: Connection, fault: Fault) -> None:
        self._connection = connection
        self._fault = fault
        self._sent_bytes = 0  # of the body, without framing
        self._sent_events = 0
        self._is_chunked = False
        ends = (("stall", fault.stall), ("reset", fault.reset), ("close", fault.close))
        self._action, self._point = next(((name, at) for name, at in ends if at), ("", Point("never")))

    async def send(self, answer: Answer, dialect: str, close: bool) -> None:
        fault = self._fault
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        await self._strike_at("before-head", 0)
        if fault.garbage == "http":
            await self._raw(_NOT_HTTP)
            await self._close()
        if fault.garbage == "json" and answer.events is None:
            answer.body = _NOT_JSON
        self._is_chunked = answer.chunked or answer.events is not None
        await self._raw(head(answer, fault, close))
        self._connection.answered(answer.status)
        await asyncio.sleep(0)  # the head is a write of its own
        await self._strike_at("after-head", 0)
        if fault.garbage == "chunk":
            await self._raw(_NOT_A_CHUNK)
            await self._close()
        await self._send_content(answer, dialect)
        if self._is_chunked:
            await self._raw(b"0\r\n\r\n")

    async def _send_content(self, answer: Answer, dialect: str) -> None:
        await self._strike_at("bytes", 0)
        await self._strike_at("events", 0)
        if answer.events is not None:
            await self._stream(answer, dialect)
            return
        if self._fault.first_token_s:
            await asyncio.sleep(self._fault.first_token_s)
        await self._body(answer.body)

    async def _stream(self, answer: Answer, dialect: str) -> None:
        """Event by event on an absolute schedule, so that pace does not drift with load."""
        fault = self._fault
        loop = asyncio.get_running_loop()
        render = renderer(fault.sse)
        due_s = loop.time() + fault.first_token_s
        for event in _altered(answer, fault, dialect):
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            elif self._sent_events % _EVENTS_PER_TURN == 0:
                await asyncio.sleep(0)
            due_s += fault.interval_s
            await self._body(render(event))
            self._sent_events += 1
            await self._strike_at("events", self._sent_events)

    async def _body(self, data: bytes) -> None:
        for piece in self._pieces(data):
            await self._raw(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
            self._sent_bytes += len(piece)
            await self._strike_at("bytes", self._sent_bytes)
            if self._fault.drip_s:
                await asyncio.sleep(self._fault.drip_s)
            elif len(piece) < len(data):
                await asyncio.sleep(0)  # a write of its own, not one gathered with the next

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """`data`, cut at the offsets, the drip and the place where the end is due."""
        first, last = self._sent_bytes, self._sent_bytes + len(data)
        cuts = [offset for offset in self._fault.split_at if first < offset < last]
        if self._point.kind == "bytes" and first < self._point.count < last:
            cuts.append(self._point.count)
        if self._fault.drip_bytes:
            cuts.extend(range(first + self._fault.drip_bytes, last, self._fault.drip_bytes))
        if not cuts:
            yield data
            return
        for cut in [*sorted(set(cuts)), last]:
            yield data[first - last + len(data) : cut - last + len(data)]
            first = cut

    async def _raw(self, data: bytes) -> None:
        size = self._fault.split_bytes
        if not size:
            await self._connection.write(data)
            return
        for start in range(0, len(data), size):
            await self._connection.write(data[start : start + size])
            await asyncio.sleep(0)

    async def _strike_at(self, kind: str, count: int) -> None:
        if self._point.kind == kind and self._point.count == count:
            await {"stall": self._stall, "reset": self._reset, "close": self._close}[self._action]()

    async def _stall(self) -> None:
        await asyncio.get_running_loop().create_future()  # until the client goes; that cancels us

    async def _reset(self) -> None:
        """What was written leaves first; then RST, which SO_LINGER 0 makes of a close."""
        transport = self._connection.transport
        raw = transport.get_extra_info("socket")
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _DRAIN_S
        while (transport.get_write_buffer_size() or _unacknowledged(raw)) and loop.time() < deadline_s:
            await asyncio.sleep(0.001)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        raise _Struck

    async def _close(self) -> None:
        raise _Struck


def _unacknowledged(raw: socket.socket) -> int:
    """Bytes in the socket's send queue that the peer has not acknowledged (SIOCOUTQ)."""
    answer = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def _altered(answer: Answer, fault: Fault, dialect: str) -> Iterator[Event]:
    """The answer's events with the fault's changes to their content and order."""
    for number, event in enumerate(answer.events or ()):
        if fault.error_event == number:
            refusal = Refusal(500, "The server had an error while processing your request.")
            name = "error" if event.name else ""
            yield Event(orjson.dumps(error_body(dialect, refusal)), name)
            return
        if fault.no_done and event.terminal:
            return
        if fault.garbage == "json" and number == 1:
            yield event._replace(data=_NOT_JSON)
        else:
            yield event
