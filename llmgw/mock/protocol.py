"""One connection of the mock: requests in by httptools, answers out in their order."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from llmgw.mock.answer import Refusal, head, refusal_answer
from llmgw.mock.deliver import deliver
from llmgw.mock.fault import PLAIN, Fault
from llmgw.mock.seen import CLIENT_GONE, COMPLETE, Arrival

if TYPE_CHECKING:
    from llmgw.mock.server import Mock

_PIPELINED = 16  # requests read ahead of the answer under way; then reading pauses
_EARLY_BODY = b'{"model":"mock","messages":[],"input":"","prompt":"","max_tokens":1000,"contents":[]}'
_LINGER_S = 1.0  # after a FIN of ours, so that unread bytes do not turn it into a RST


class Connection(asyncio.Protocol):
    """Reads requests and gives them to the mock one at a time (RFC 9112 section 9.3.2)."""

    transport: asyncio.Transport

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._number = 0
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Arrival, bytes, bool]] = deque()
        self._current: Arrival | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_closing = False
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        if raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = self._mock.connected(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._mock.seen.malformed += 1
            self._refuse(Refusal(400, "That is not an HTTP/1.1 request."))

    def connection_lost(self, _error: Exception | None) -> None:
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
        for arrival in self._unanswered():
            self._mock.finished(arrival, CLIENT_GONE)
        self._current = None
        self._waiting.clear()
        self._mock.disconnected(self)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # --- httptools' callbacks, in the order in which they come

    def on_message_begin(self) -> None:
        self._reading: Arrival | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._expects_continue = False
        self._is_answered = False  # before its body came

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        arrival = self._reading = Arrival(self._number, time.monotonic())
        arrival.method = self._parser.get_method().decode()
        path, _, query = self._url.decode("latin-1").partition("?")
        arrival.path, arrival.query = path, query
        arrival.raw_headers = self._headers
        self._mock.arrived(arrival)
        if self._parser.get_http_version() != "1.1":
            self._refuse(Refusal(505, "The mock speaks HTTP/1.1 only."))
        elif self._is_busy:
            pass  # its turn comes when the answers before it have ended
        elif self._mock.has_early and (fault := self._mock.take_early(arrival)) is not None:
            self._is_answered = True
            self._serve(arrival, _EARLY_BODY, not self._parser.should_keep_alive(), fault)
        elif self._expects_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._is_answered or self._is_closing:
            return
        self._parts.append(body)
        if self._size > self._mock.options.max_body_bytes:
            self._refuse(Refusal(413, "The body is too large for the mock."))

    def on_message_complete(self) -> None:
        arrival = self._reading
        assert arrival is not None
        self._mock.seen.body_bytes += self._size
        arrival.body_bytes = self._size
        if self._is_answered or self._is_closing:
            return
        self._reading = None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._keep(arrival, body)
        close = not self._parser.should_keep_alive()
        if not self._is_busy:
            self._serve(arrival, body, close)
            return
        self._waiting.append((arrival, body, close))
        if len(self._waiting) == _PIPELINED:
            self.transport.pause_reading()

    # --- answering

    @property
    def _is_busy(self) -> bool:
        return self._current is not None or bool(self._waiting)

    def _serve(self, arrival: Arrival, body: bytes, close: bool, early: Fault | None = None) -> None:
        self._current = arrival
        answer, fault, dialect = self._mock.answer(arrival, body, early)
        close = close or fault.connection_close
        if answer.events is None and not answer.chunked and self._mock.is_immediate(fault):
            self.transport.write(head(answer, fault, close) + answer.body)
            arrival.status = answer.status
            self.finish(COMPLETE, close=close or fault.hang_up)
        else:
            self._task = asyncio.get_running_loop().create_task(deliver(self, answer, fault, dialect, close))
            self._task.add_done_callback(_raise_failure)

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the client does not read."""
        self.transport.write(data)
        if self._writable is not None:
            await self._writable

    def answered(self, status: int) -> None:
        if self._current is not None:
            self._current.status = status

    def finish(self, ended: str, *, close: bool) -> None:
        """The answer under way has ended; the next one may start."""
        arrival, self._current, self._task = self._current, None, None
        if arrival is None:  # the client went at the same moment
            return
        self._mock.finished(arrival, ended)
        if close:
            self._close(has_unread=self._is_answered)
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if self._current is not None or not self._waiting:  # the client went meanwhile
            return
        if len(self._waiting) == _PIPELINED:
            self.transport.resume_reading()
        self._serve(*self._waiting.popleft())

    def _refuse(self, refusal: Refusal) -> None:
        """Answers what cannot be served, and hangs up; never in the middle of another answer."""
        if self._is_busy:
            self.transport.abort()
            return
        answer = refusal_answer("openai", refusal)
        self.transport.write(head(answer, PLAIN, close=True) + answer.body)
        if self._reading is not None and not self._is_answered:
            self._is_answered = True
            self._reading.status = refusal.status
            self._mock.finished(self._reading, COMPLETE)
        self._close(has_unread=True)

    def _close(self, has_unread: bool) -> None:
        """With bytes unread the FIN goes now and the socket later: closing it would send RST."""
        self._is_closing = True
        if self.transport.is_closing():
            return
        if not has_unread or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, self.transport.close)

    def _keep(self, arrival: Arrival, body: bytes) -> None:
        options = self._mock.options
        if options.keep and self._size <= options.keep_body_bytes:
            arrival.body = body
        elif options.keep:
            arrival.digest = hashlib.sha256(body).hexdigest()

    def _unanswered(self) -> list[Arrival]:
        queued = [arrival for arrival, _, _ in self._waiting]
        return [arrival for arrival in (self._current, *queued, self._unread()) if arrival is not None]

    def _unread(self) -> Arrival | None:
        """The request whose body was still coming, unless it is being answered already."""
        return None if self._is_answered else self._reading


def _raise_failure(task: asyncio.Task[None]) -> None:
    """A defect of the mock is reported by the loop, and not lost with the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "the mock failed to answer", "exception": error}
        task.get_loop().call_exception_handler(context)
