"""A client that sees bytes and how a connection ended, and nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

# A silent server is watched so many times for so long before it counts as stalled. A machine that stands
# still uses up one of them; what came meanwhile is read before the next.
LOOKS = 5
LOOK_S = 0.03


def chat_request(
    body: dict[str, Any] | None = None, path: str = "/v1/chat/completions", **fault: Any
) -> bytes:
    """A chat request; keyword arguments become its "mock" member."""
    value = body or {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    if fault:
        value = {**value, "mock": fault}
    return post(path, json.dumps(value).encode())


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "authorization: Bearer k", f"content-length: {len(body)}"]
    return "\r\n".join([*head, "content-type: application/json", *headers, "", ""]).encode() + body


@dataclass
class Seen:
    """What came back. `ended`: eof, reset, or open where the server went silent."""

    raw: bytes = b""
    ended: str = "open"
    reads: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    def is_whole(self, answers: int) -> bool:
        """All answers are there, and the connection is meant to stay open."""
        if self.raw.count(b"HTTP/1.1 ") < answers or b"connection: close" in self.head:
            return False
        last = Seen(self.raw[self.raw.rindex(b"HTTP/1.1 ") :])
        if b"chunked" in last.head:
            return last.payload.endswith(b"0\r\n\r\n")
        length = last.head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return b"\r\n\r\n" in last.raw and len(last.payload) >= int(length)

    @property
    def payload(self) -> bytes:
        """Everything after the head, framing included."""
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        """The decoded body, as far as it came."""
        return unchunk(self.payload) if b"transfer-encoding: chunked" in self.head else self.payload


def unchunk(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        count = int(size, 16)
        body, data = body + rest[:count], rest[count + 2 :]
    return body


class _Client(asyncio.Protocol):
    """Notes what comes; a StreamReader would forget what came before a reset."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.seen.raw += data
        self.seen.reads.append(data)
        self.news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.ended = "reset" if isinstance(error, ConnectionResetError) else "eof"
        self.news.set()


async def exchange(port: int, request: bytes, answers: int = 1) -> Seen:
    """Sends bytes and reads until the answers are whole, the end, or nothing more comes."""
    seen = Seen()
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(lambda: _Client(seen), "127.0.0.1", port)
    transport.write(request)
    silent = 0
    while seen.ended == "open" and not seen.is_whole(answers) and silent < LOOKS:
        client.news.clear()
        try:
            await asyncio.wait_for(client.news.wait(), LOOK_S)
            silent = 0
        except TimeoutError:
            silent += 1
    result = replace(seen)
    transport.abort()
    return result


def events(body: bytes) -> list[bytes]:
    """The data of each event of a stream in its plain spelling."""
    return [part.partition(b"data: ")[2] for part in body.split(b"\n\n") if part]
