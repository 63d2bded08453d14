"""A connection to a provider whose bytes a test writes, and somebody who asks and relays on it."""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic

from wirefakes import FakeTransport, Record

from llmgw._wire.deadline import Wheel
from llmgw._wire.serving import Serving
from llmgw._wire.sse import EventScanner
from llmgw._wire.upstream import Connection
from llmgw.errors import UpstreamError

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: up\r\ncontent-length: 2\r\n\r\n"
# Each of its own length, so that a deadline tells which one it was.
FIRST_S, IDLE_S, TOTAL_S = 10.0, 20.0, 100.0


def answer(body: bytes = b"{}", *lines: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    head = [b"HTTP/" + version + b" " + status, b"content-length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])


def json_answer(body: bytes, *lines: bytes) -> bytes:
    return answer(body, b"content-type: application/json", *lines)


def chunked(*pieces: bytes, kind: bytes = b"application/json", end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(chunk(piece) for piece in pieces) + end


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def events(*data: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A stream as providers send it: an event in each chunk."""
    return chunked(*(b"data: " + one + b"\n\n" for one in data), kind=b"text/event-stream", end=end)


class Link:
    def __init__(self) -> None:
        self.wheel = Wheel()
        self.lost: list[Connection] = []
        self.connection = Connection(None, self.wheel, self.lost.append)  # type: ignore[arg-type]
        self.transport = FakeTransport(self.connection)
        self.out = Record()
        self.error: BaseException | None = None

    def ask(self, scanner: EventScanner | None = None, body: tuple[bytes, ...] = (b"{}",)) -> Link:
        self.is_begun = self.is_over = False
        self.error = None
        self.asked_s = monotonic()
        begun = self.connection.ask(HEAD, list(body), scanner, FIRST_S, IDLE_S, self.asked_s + TOTAL_S)
        self._wait(begun, "is_begun")
        return self

    def ask_stream(self) -> Link:
        return self.ask(EventScanner(b"[DONE]", False))

    def relay(self) -> Link:
        self._wait(self.connection.relay(self.out), "is_over")
        return self

    def _wait(self, signal: Awaitable[None], told: str) -> None:
        async def wait() -> None:
            try:
                await signal
            except UpstreamError as error:
                self.error = error
            else:
                setattr(self, told, True)

        Serving(wait()).start()

    def feed(self, data: bytes) -> Link:
        self.transport.feed(data)
        return self

    def lose(self, error: Exception | None = None) -> Link:
        self.transport.lose(error)
        return self

    def pass_s(self, seconds: float) -> Link:
        """The wheel as it stands this long after the request was sent."""
        self.wheel.turn(self.asked_s + seconds)
        return self

    @property
    def is_closed(self) -> bool:
        assert self.connection.is_open != self.transport.is_aborted or self.transport.is_lost
        return not self.connection.is_open
