"""An answer before it is written: what a shape returns and the delivery sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from llmgw.mock.fault import Fault

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    529: b"Site is overloaded",
}
_HEADS = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()}


class Event(NamedTuple):
    """One server-sent event; `terminal` marks the one without which a stream is broken."""

    data: bytes
    name: str = ""
    terminal: bool = False


class Answer:
    """Either a `body`, sent with Content-Length (or chunked), or `events`, always chunked."""

    __slots__ = ("body", "chunked", "content_type", "events", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: bytes = JSON,
        events: Iterable[Event] | None = None,
        chunked: bool = False,
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.body = body
        self.events = events
        self.chunked = chunked
        self.headers: list[tuple[str, str]] = []


class Refusal(Exception):
    """A request that the mock, like a provider, answers with an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


def json_answer(value: Any) -> Answer:
    return Answer(orjson.dumps(value))


def stream_answer(events: Iterable[Event]) -> Answer:
    return Answer(content_type=SSE, events=events)


def error_body(dialect: str, refusal: Refusal) -> dict[str, Any]:
    """The error in the words of the provider whose route was asked."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(refusal.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": refusal.message}}
    if dialect == "gemini":
        status = _GEMINI_STATUSES.get(refusal.status, "INTERNAL")
        return {"error": {"code": refusal.status, "message": refusal.message, "status": status}}
    kind = _OPENAI_TYPES.get(
        refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    return {
        "error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code},
    }


def refusal_answer(dialect: str, refusal: Refusal) -> Answer:
    return Answer(orjson.dumps(error_body(dialect, refusal)), status=refusal.status)


def head(answer: Answer, fault: Fault, close: bool) -> bytes:
    """The status line and headers, with what the fault wants of them and before them."""
    status = answer.status
    lines = [
        *(b"HTTP/1.1 %d Interim\r\n\r\n" % interim for interim in fault.interim),
        _HEADS.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status,
        b"content-type: %b\r\n" % (fault.content_type.encode("latin-1") or answer.content_type),
    ]
    if answer.chunked or answer.events is not None:
        lines.append(b"transfer-encoding: chunked\r\n")
    else:
        lines.append(b"content-length: %d\r\n" % len(answer.body))
        if fault.duplicate_length:
            second = len(answer.body) + (fault.duplicate_length == "different")
            lines.append(b"content-length: %d\r\n" % second)
    lines.extend(_wished_headers(answer, fault))
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _wished_headers(answer: Answer, fault: Fault) -> Iterator[bytes]:
    pairs = [*answer.headers, *fault.headers]
    if fault.retry_after:
        pairs.append(("retry-after", fault.retry_after))
    if fault.retry_after_ms:
        pairs.append(("retry-after-ms", fault.retry_after_ms))
    for name, value in pairs:
        yield f"{name}: {value}\r\n".encode("latin-1")
    left = fault.headers_bytes
    while left > 0:  # several headers: real floods come as many, and as one of up to 4 KB
        yield b"x-mock-pad: %b\r\n" % (b"p" * max(1, min(left, 4096) - len("x-mock-pad: \r\n")))
        left -= 4096


def renderer(styles: tuple[str, ...]) -> Callable[[Event], bytes]:
    """How an event is spelt; every spelling is legal under the WHATWG's event-stream grammar."""
    if not styles:
        return _render_plain
    newline = b"\r\n" if "crlf" in styles else b"\r" if "cr" in styles else b"\n"
    colon = b":" if "nospace" in styles else b": "
    comment = b": keep-alive" + newline * 2 if "comments" in styles else b""
    pending_bom = ["\ufeff".encode()] if "bom" in styles else []

    def render(event: Event) -> bytes:
        name = b"event" + colon + event.name.encode() + newline if event.name else b""
        bom = pending_bom.pop() if pending_bom else b""
        return bom + comment + name + b"data" + colon + event.data + newline * 2

    return render


def _render_plain(event: Event) -> bytes:
    if event.name:
        return b"event: %b\ndata: %b\n\n" % (event.name.encode(), event.data)
    return b"data: %b\n\n" % event.data


_OPENAI_TYPES = {429: "requests", 403: "permission_error", 503: "overloaded_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
