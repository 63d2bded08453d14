"""The header lines of our answers: what is the same on every one, and what tells how it came about."""

from __future__ import annotations

import re

from llmgw._core.ask import Ask
from llmgw._wire.call import Call
from llmgw._wire.lines import reply_lines
from llmgw._wire.upstream import Connection
from llmgw.upstream.provider import HEADS_MAX, Upstream
from llmgw.upstream.reply import Reply

# Of a provider's answer only these go on to the client, and only as printable ASCII.
PASSED_ON = frozenset(
    {
        b"content-encoding",
        b"content-disposition",
        b"content-language",
        b"openai-processing-ms",
        b"openai-version",
    }
)
PRINTABLE = re.compile(rb"[\x20-\x7e]*")


def plain_head(call: Call, content_type: bytes) -> bytes:
    return b"content-type: %b\r\nserver: llmgw\r\nx-request-id: %b\r\n" % (
        content_type,
        call.request_id.encode(),
    )


def reply_head(call: Call, upstream: Upstream, connection: Connection) -> bytes:
    """For an answer that a provider gave. Its cost stands there where it is known by now."""
    known = (connection.content_type, call.model_used, not call.trail)
    origin = upstream.reply_heads.get(known) or new_origin(upstream, *known)
    head = reply_lines(origin, call)
    if call.trail:
        head += route_line(call)
    for name, value in connection.headers:
        if name in PASSED_ON:
            head += b"%b: %b\r\n" % (name, safe(value))
    return head


def new_origin(upstream: Upstream, content_type: bytes, model: str, is_straight: bool) -> bytes:
    """The lines that are the same for all answers of one kind from one model of a provider.

    `is_straight`: the first that was asked served it, which its route says in as many words.
    """
    if len(upstream.reply_heads) >= HEADS_MAX:
        upstream.reply_heads.clear()
    lines = [
        b"content-type: " + (safe(content_type) or b"application/octet-stream"),
        b"server: llmgw",
        b"x-llmgw-provider: " + upstream.name.encode(),
        b"x-llmgw-model: " + safe(model.encode("ascii", "replace")),
        b"x-llmgw-cache: bypass",
    ]
    if is_straight:
        name = model.replace(",", "%2C")  # it may be a client's word, and commas part the steps
        lines.append(b"x-llmgw-route: " + safe(f"{upstream.name}/{name}:ok".encode("ascii", "replace")))
    if content_type.startswith(b"text/event-stream"):
        lines.append(b"cache-control: no-cache")
    head = upstream.reply_heads[content_type, model, is_straight] = b"\r\n".join([*lines, b""])
    return head


def route_line(call: Call) -> bytes:
    """Where it went, of a request that did not go straight."""
    return b"x-llmgw-route: %b\r\n" % safe(call.trail.encode("ascii", "replace"))


def safe(value: bytes) -> bytes:
    """Nothing that could end a header line, or be read in two ways."""
    return value if PRINTABLE.fullmatch(value) else b""


def trail_of(ask: Ask, reply: Reply) -> str:
    """`openai/gpt-4o:503,azure/dep:ok`: where the request went, and why not elsewhere."""
    status = reply.connection.status
    last = "ok" if status < 400 else str(status)
    return shown_trail([*(ask.trail or ()), (reply.attempt.way.shown, last)])


def shown_trail(steps: list[tuple[str, str]]) -> str:
    return ",".join(f"{shown}:{word}" for shown, word in steps)
