"""Request heads for the tests of the fast lane's grammar: a generator, the grammar again, and llhttp."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools

PLAIN = (
    b"POST /v1/chat/completions HTTP/1.1\r\n"
    b"Host: api.test:8080\r\n"
    b"Accept: application/json\r\n"
    b"Content-Type: application/json\r\n"
    b"Authorization: Bearer sk-test-1\r\n"
    b"Content-Length: 17\r\n"
    b"\r\n"
)

# The facts that `read_plain_head` gives of a head, and the header that each comes from.
SPANS = {
    "x_api_key": b"x-api-key",
    "api_key": b"api-key",
    "x_goog_api_key": b"x-goog-api-key",
    "content_type": b"content-type",
    "accept": b"accept",
    "idempotency_key": b"idempotency-key",
    "traceparent": b"traceparent",
    "openai_beta": b"openai-beta",
    "max_wait": b"x-llmgw-max-wait",
    "priority": b"x-llmgw-priority",
    "tags": b"x-llmgw-tags",
    "timeout": b"x-llmgw-timeout",
}
ONCE = {*SPANS.values(), b"authorization", b"content-length", b"host"}
NEVER = {b"expect", b"upgrade", b"trailer", b"content-encoding", b"transfer-encoding"}

REQUEST_LINE = re.compile(rb"POST (/[A-Za-z0-9/\-_.]*) HTTP/1\.1\r\n")
HEADER = re.compile(rb"([A-Za-z0-9!#$%&'*+\-.^_`|~]+): *((?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?)\r\n")
BEARER = re.compile(rb"bearer +(.+)", re.IGNORECASE)


def read_by_grammar(data: bytes) -> dict[str, Any] | None:
    """The facts of a whole plain head by the grammar that head.pyx promises; None for any other bytes."""
    line = REQUEST_LINE.match(data)
    if line is None:
        return None
    at, headers = line.end(), []
    while header := HEADER.match(data, at):
        headers.append((header[1].lower(), header[2]))
        at = header.end()
    names = [name for name, _ in headers]
    values = dict(headers)
    length, bearer = values.get(b"content-length", b""), values.get(b"authorization")
    token = BEARER.fullmatch(bearer or b"")
    is_plain = (
        data[at : at + 2] == b"\r\n"
        and len(headers) <= 64
        and all(names.count(name) <= 1 for name in ONCE)
        and not NEVER & set(names)
        and bool(values.get(b"host"))
        and re.fullmatch(rb"[0-9]{1,15}", length) is not None
        and (bearer is None or token is not None)
        and all(value.lower() == b"keep-alive" for name, value in headers if name == b"connection")
    )
    if not is_plain:
        return None
    facts: dict[str, Any] = {fact: values.get(name) for fact, name in SPANS.items()}
    facts["bearer"] = token[1] if token else None
    return facts | {"size": at + 2, "path": line[1], "content_length": int(length)}


@dataclass
class Judge:
    """llhttp's reading of one request. `rest` are the bytes that it took for a next one's."""

    url: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    began: int = 0
    ended: int = 0
    method: bytes = b""
    version: str = ""
    keeps_alive: bool = False
    refused: bool = False

    def __post_init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> Judge:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refused = True
        return self

    def on_message_begin(self) -> None:
        self.began += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.method = self.parser.get_method()
        self.version = self.parser.get_http_version()
        self.keeps_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


NAMES = [name.decode() for name in sorted(ONCE | NEVER)] + [
    "Connection", "User-Agent", "X-Stainless-Lang", "Accept-Encoding", "Cookie", "TE", "Keep-Alive", "Date", "X-A",
]  # fmt: skip
VALUES = [
    "application/json", "keep-alive", "close", "Upgrade", "Keep-Alive", "Bearer sk-1", "bearer  a b", "Bearer", "Basic YQ==",
    "0", "17", "017", "+17", "-1", "0x11", "1_7", "17, 17", "17 ", "999999999999999", "9999999999999999", "", "h", "chunked",
    "identity", "100-continue", "a:b", "x" * 200, "a  b", "\t17", "websocket", "17;", "\x7f", "\x00", "\xe9", "a\rb", "a\nb",
]  # fmt: skip
PATHS = [
    "/v1/chat/completions",
    "/v1/embeddings",
    "/",
    "/a/../b",
    "/%2e",
    "/a?b=c",
    "http://h/v1",
    "//",
    "/a_b-c.d",
    "*",
    "",
]
BYTES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\xff",
    b"\r\n ",
    b"\r\n\r\n",
    b"0",
    b"A",
    b",",
    b"/",
]


class Heads:
    """Heads that are plain about half of the time, and otherwise nearly so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def head(self) -> bytes:
        choose = self.random
        lines = [f"POST {self.path()} HTTP/1.1", *self.needed()]
        for _ in range(choose.randrange(5)):
            name = choose.choice(NAMES if choose.random() < 0.4 else NAMES[-6:] + ["Accept", "Traceparent"])
            lines.append(self.header(name, choose.choice(VALUES)))
        head, *headers = lines
        choose.shuffle(headers)
        data = "\r\n".join([head, *headers, "", ""]).encode("latin-1")
        for _ in range(choose.choice((0, 0, 0, 1, 2))):
            data = self.mutated(data)
        return data

    def path(self) -> str:
        return PATHS[0] if self.random.random() < 0.8 else self.random.choice(PATHS)

    def needed(self) -> Iterator[str]:
        choose = self.random
        if choose.random() < 0.97:
            yield self.header("Host", "api.test")
        if choose.random() < 0.97:
            yield self.header("Content-Length", str(choose.choice((0, 1, 17, 5000))))
        if choose.random() < 0.8:
            yield self.header(
                "Authorization", choose.choice(("Bearer sk-1", "bearer k", "BEARER   k ey", "Basic YQ=="))
            )
        if choose.random() < 0.02:
            yield from (f"X-{number}: y" for number in range(choose.choice((58, 62, 64, 70))))

    def header(self, name: str, value: str) -> str:
        spelled = self.random.choice((name, name.lower(), name.upper(), name.title()))
        colon = self.random.choice((": ", ": ", ":", ":  ")) if self.random.random() < 0.98 else " :"
        return spelled + colon + value

    def mutated(self, data: bytes) -> bytes:
        choose = self.random
        at = choose.randrange(len(data))
        piece = choose.choice(BYTES) if choose.random() < 0.7 else bytes([choose.randrange(256)])
        match choose.randrange(4):
            case 0:
                return data[:at] + piece + data[at:]
            case 1:
                return data[:at] + piece + data[at + len(piece) :]
            case 2:
                return data[:at] + data[at + choose.randrange(1, 8) :]
        lines = data.split(b"\r\n")
        lines.insert(choose.randrange(1, len(lines)), choose.choice(lines))
        return b"\r\n".join(lines)
