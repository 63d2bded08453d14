"""A client that sees bytes: requests out as they are written, answers in as llhttp reads them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
from gatewayrig import CLIENT_KEY, DEADLINE_S

# What differs between two answers to the same request, or is the lane's own framing.
VOLATILE = frozenset(
    {"date", "x-request-id", "content-length", "transfer-encoding", "connection", "keep-alive"}
)


@dataclass
class Answer:
    """One answer as it came. `is_whole`: its framing said where it ends, and it came that far."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)  # of the body
    is_whole: bool = False
    keeps_alive: bool = False

    @property
    def body(self) -> bytes:
        return bytes(self.received)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def facts(self) -> tuple[int, set[tuple[str, str]], bytes]:
        """What must be equal whichever way the request took."""
        return self.status, {pair for pair in self.headers if pair[0] not in VOLATILE}, self.body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return dict(error)

    @property
    def events(self) -> list[bytes]:
        """The data of each event; the body must be whole events in the plain spelling."""
        assert not self.body or self.body.endswith(b"\n\n"), self.body[-200:]
        return [part.partition(b"data: ")[2] for part in self.body.split(b"\n\n") if part]

    @property
    def text(self) -> str:
        """What a chat stream said, up to its end or an error event."""
        chunks = [json.loads(data) for data in self.events if data != b"[DONE]"]
        choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class Wire(asyncio.Protocol):
    """A client connection: bytes out as they are, answers in, read by llhttp."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.raw = bytearray()
        self.ended = ""  # eof, or reset
        self.is_lost = False  # in both directions
        self.interim: list[int] = []
        self._answers: list[Answer] = []
        self._news = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)

    @classmethod
    async def open(cls, port: int) -> Wire:
        transport, wire = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        wire.transport = transport
        return wire

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def send_at_its_pace(self, data: bytes) -> None:
        """As fast as it is read at the other end."""
        self.transport.write(data)
        while self.transport.get_write_buffer_size() > 1 << 18:
            await asyncio.sleep(0.001)

    async def send_split(self, data: bytes) -> None:
        """Each byte is a write of its own, and has left before the next."""
        for byte in data:
            self.transport.write(bytes([byte]))
            await asyncio.sleep(0)

    async def answer(self, deadline_s: float = DEADLINE_S) -> Answer:
        """The next answer: whole, or what came of it when the connection ended."""
        async with asyncio.timeout(deadline_s):
            while not (self._answers and (self._answers[0].is_whole or self.ended)):
                assert not self.ended or self._answers, f"{self.ended} without an answer"
                self._news.clear()
                await self._news.wait()
        return self._answers.pop(0)

    async def begun(self, size: int = 1, deadline_s: float = DEADLINE_S) -> Answer:
        """The answer under way, as soon as this much of its body came."""
        async with asyncio.timeout(deadline_s):
            while not self._answers or len(self._answers[0].received) < size:
                assert not self.ended, f"{self.ended} before {size} bytes of a body"
                self._news.clear()
                await self._news.wait()
        return self._answers[0]

    async def interim_status(self, deadline_s: float = DEADLINE_S) -> int:
        """Of the 1xx answer that comes before the answer."""
        async with asyncio.timeout(deadline_s):
            while not self.interim:
                assert not self.ended, f"{self.ended} without a 1xx"
                self._news.clear()
                await self._news.wait()
        return self.interim[-1]

    async def end(self, deadline_s: float = DEADLINE_S) -> str:
        """How the connection ended: eof or reset."""
        async with asyncio.timeout(deadline_s):
            while not self.ended:
                self._news.clear()
                await self._news.wait()
        return self.ended

    def close(self) -> None:
        self.transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self._parser.feed_data(data)
        self._news.set()

    def eof_received(self) -> bool:
        """The other end sends no more; what it still takes is another matter, so our half stays open."""
        self.ended = "eof"
        if self._answers:
            last = self._answers[-1]
            if last.status and not {"content-length", "transfer-encoding"} & {n for n, _ in last.headers}:
                last.is_whole = True
        self._news.set()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.ended = self.ended or ("reset" if isinstance(error, ConnectionResetError) else "eof")
        self._news.set()

    # httptools

    def on_message_begin(self) -> None:
        self._answers.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answers[-1].headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._answers[-1].status = self._parser.get_status_code()
        self._answers[-1].keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._answers[-1].received += body

    def on_message_complete(self) -> None:
        if self._answers[-1].status < 200:
            self.interim.append(self._answers.pop().status)
        else:
            self._answers[-1].is_whole = True


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    wire = await Wire.open(port)
    try:
        yield wire
    finally:
        wire.close()


async def exchange(port: int, request: bytes) -> Answer:
    """One answer to these bytes, on a connection of their own."""
    async with wire_to(port) as wire:
        wire.send(request)
        return await wire.answer()


def chat(text: str = "hello", *, model: str = "mock", stream: bool = False, **more: Any) -> bytes:
    """The body of a chat request; `mock` is the mock's own member."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    if stream:
        body["stream"] = True
    return json.dumps(body).encode()


def post(
    body: bytes,
    path: str = "/v1/chat/completions",
    *headers: str,
    key: str | None = CLIENT_KEY,
    version: str = "1.1",
) -> bytes:
    """A request in the plain shape that SDKs send; `headers` are further lines."""
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: gateway.test",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def post_chunked(
    body: bytes, path: str = "/v1/chat/completions", *headers: str, key: str | None = CLIENT_KEY
) -> bytes:
    """The same request with a chunked body: for the general lane."""
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
    head = post(b"", path, *headers, key=key).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + chunks + b"0\r\n\r\n"


def get(path: str, *headers: str, key: str | None = CLIENT_KEY, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway.test"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def each_split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The data in two parts, at every place."""
    for at in range(1, len(data)):
        yield data[:at], data[at:]
