"""What stands around a connection in a unit test: a transport that only notes, an outlet, an edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httptools

from llmgw._wire.call import Call
from llmgw._wire.deadline import Wheel
from llmgw._wire.lane import Edge, FastLane
from llmgw._wire.outlet import Outlet
from llmgw.dialects import INFERENCE


class FakeTransport(asyncio.Transport):
    """Notes what was asked of it; `lose` is the loop's call when the connection has ended."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.out = b""
        self.writes = 0
        self.is_reading = True
        self.has_eof = False
        self.is_closed = False
        self.is_aborted = False
        self.aborts = 0
        self.is_lost = False
        self.unsent_bytes = 0
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.is_lost
        assert not self.has_eof
        self.out += bytes(data)
        self.writes += 1

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None:
        assert self.is_reading
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def write_eof(self) -> None:
        self.has_eof = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True
        self.aborts += 1

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    # what the loop does

    def feed(self, data: bytes) -> None:
        """As uvloop does it: into the protocol's own buffer where it has one."""
        while data and not self.is_closing():
            get_buffer = getattr(self.protocol, "get_buffer", None)
            if get_buffer is None:
                self.protocol.data_received(data)
                return
            buffer = get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.protocol.buffer_updated(size)
            data = data[size:]

    def lose(self, error: Exception | None = None) -> None:
        assert not self.is_lost
        self.is_lost = True
        self.protocol.connection_lost(error)

    def take(self) -> bytes:
        """What was written since the last call."""
        out, self.out = self.out, b""
        return out


class Record(Outlet):
    """An outlet that notes what goes into it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return 0


@dataclass
class Reply:
    """One answer of ours as llhttp reads it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False


class Replies:
    """The answers in a run of bytes."""

    def __init__(self, data: bytes) -> None:
        self.all: list[Reply] = []
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.all.append(Reply())

    def on_header(self, name: bytes, value: bytes) -> None:
        assert name.decode().lower() not in self.all[-1].headers
        self.all[-1].headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.all[-1].status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.all[-1].body += body

    def on_message_complete(self) -> None:
        self.all[-1].is_whole = True


def replies(data: bytes) -> list[Reply]:
    return Replies(data).all


class Timeouts:
    """Each of its own length, so that a deadline tells which one it was."""

    header = 10.0
    body = 20.0
    send = 30.0
    keep_alive = 40.0


class Settings:
    max_body = 100_000
    max_head = 2_000
    timeouts = Timeouts


Serve = Callable[[Call, Outlet], Coroutine[Any, Any, None]]
HEAD = b"content-type: text/plain\r\n"


async def echo(call: Call, out: Outlet) -> None:
    if call.fault is not None:
        raise call.fault
    out.answer(200, HEAD, call.body)


class General(asyncio.Protocol):
    """What takes over a connection that is not plain."""

    def __init__(self) -> None:
        self.data = b""
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data


class Client:
    """One client of a fast lane whose gateway is `serve`. Time goes on by `pass_s` alone."""

    def __init__(self, serve: Serve = echo) -> None:
        self.calls: list[Call] = []
        self.failures: list[BaseException] = []
        self.known = b"key"
        self.general: list[General] = []
        self.wheel = Wheel()
        self._serve = serve
        self.edge = Edge(self.serve, self.fail, self.identify, self.make_general, INFERENCE, self.wheel)
        self.edge.configure(Settings)  # type: ignore[arg-type]
        self.connect()

    def connect(self) -> None:
        self.began_s = monotonic()
        self.lane: FastLane = self.edge()
        self.transport = FakeTransport(self.lane)

    def serve(self, call: Call, out: Outlet) -> Coroutine[Any, Any, None]:
        self.calls.append(call)
        return self._serve(call, out)

    def fail(self, call: Call, failure: BaseException, out: Outlet) -> None:
        self.failures.append(failure)
        if not out.is_begun and not out.is_gone:
            out.answer(getattr(failure, "status", 500), HEAD, str(failure).encode())

    def identify(self, call: Call) -> None:
        if call.credential != self.known:
            call.fault = PermissionError("who are you?")  # type: ignore[assignment]

    def make_general(self) -> General:
        self.general.append(General())
        return self.general[-1]

    def send(self, data: bytes) -> None:
        self.transport.feed(data)

    def pass_s(self, seconds: float) -> None:
        """The wheel as it stands this long after the connection was made."""
        self.wheel.turn(self.began_s + seconds)

    @property
    def got(self) -> list[Reply]:
        return replies(self.transport.out)

    @property
    def bodies(self) -> list[bytes]:
        return [reply.body for reply in self.got]


def request(
    body: bytes = b"{}", *lines: bytes, key: bytes = b"key", path: bytes = b"/v1/chat/completions"
) -> bytes:
    head = [
        b"POST " + path + b" HTTP/1.1",
        b"host: h",
        b"authorization: Bearer " + key,
        b"content-length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join([*head, b"", body])
