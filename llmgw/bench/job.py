"""What a load run sends, to whom, at what pace."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

NONCE_BYTES = 16  # hex digits
_PLACE = b"nonce-" + b"0" * NONCE_BYTES
_CHAT = "/chat/completions"
_WORDS = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor "

# What openai-python 3 sends besides Host, Authorization and Content-Length, in its order.
_SDK_HEADERS = (
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "accept: application/json",
    "content-type: application/json",
    "user-agent: AsyncOpenAI/Python 3.52.0",
    "x-stainless-lang: python",
    "x-stainless-package-version: 3.52.0",
    "x-stainless-os: Linux",
    "x-stainless-arch: x64",
    "x-stainless-runtime: CPython",
    "x-stainless-runtime-version: 3.11.7",
    "x-stainless-async: async:asyncio",
    "x-stainless-retry-count: 0",
    "x-stainless-read-timeout: 600",
)


@dataclass(frozen=True)
class Target:
    """Where requests may go. `url` is a base URL (`.../v1`) or that of the chat route itself."""

    name: str
    url: str
    key: str = "sk-bench"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def path(self) -> str:
        path = urlsplit(self.url).path.rstrip("/")
        return path if path.endswith(_CHAT) else (path or "/v1") + _CHAT


@dataclass(frozen=True)
class Job:
    """One run. Without `rate` it is a closed loop of `concurrency` users."""

    targets: tuple[Target, ...]
    model: str = "mock"
    body_bytes: int = 1100  # of the request, head not counted
    is_stream: bool = False
    wants_usage: bool = False  # stream_options.include_usage
    wishes: dict[str, Any] = field(default_factory=dict)  # the body's "mock" member
    events: int | None = None  # content events each stream must have
    concurrency: int = 32  # users of a closed loop; most connections of an open one, for each target
    rate: float | None = None  # requests a second, all targets together
    arrivals: Literal["constant", "poisson"] = "poisson"
    duration_s: float = 10.0
    warmup_s: float = 1.0
    timeout_s: float = 60.0  # of one request, from when it was due
    pids: dict[str, int] = field(default_factory=dict)  # process trees to measure, by a name
    seed: int | None = None
    tls: ssl.SSLContext | None = None

    @property
    def measured(self) -> str:
        """The target that the process trees serve: the first one."""
        return self.targets[0].name


class Template:
    """The bytes of a request but for its nonce; each is two slices and sixteen digits."""

    def __init__(self, job: Job, target: Target) -> None:
        body = request_body(job)
        lines = [f"POST {target.path} HTTP/1.1", f"Host: {target.host}:{target.port}", *_SDK_HEADERS]
        lines += [f"authorization: Bearer {target.key}", f"Content-Length: {len(body)}", "", ""]
        data = "\r\n".join(lines).encode() + body
        start = data.index(_PLACE) + len(_PLACE) - NONCE_BYTES
        self._before, self._after = data[:start], data[start + NONCE_BYTES :]

    def fill(self, nonce: bytes) -> bytes:
        return b"%b%b%b" % (self._before, nonce, self._after)


def request_body(job: Job) -> bytes:
    """A chat request of `body_bytes`, its members in the order in which openai-python writes them."""
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": _PLACE.decode() + " "},
        ],
        "model": job.model,
    }
    if job.is_stream:
        body["stream"] = True
    if job.wants_usage:
        body["stream_options"] = {"include_usage": True}
    if job.wishes:
        body["mock"] = job.wishes
    missing = max(0, job.body_bytes - len(orjson.dumps(body)))
    body["messages"][1]["content"] += (_WORDS * (missing // len(_WORDS) + 1))[:missing]
    return orjson.dumps(body)


class Nonces:
    """No two requests of a machine share one: a random start, then counted."""

    def __init__(self) -> None:
        self._next = random.SystemRandom().getrandbits(56)

    def take(self) -> bytes:
        self._next += 1
        return b"%016x" % self._next
