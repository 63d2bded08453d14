"""What may be asked of one answer: pace, content, and everything that can go wrong.

A fault reaches the mock in three ways, each laid over the one before: the options it was
started with, the next matching step of the script, and the member `"mock": {...}` of the
request's own body. All three use the same names, the fields of `Fault`.

Where a fault strikes is a `Point`: `before-head`, `after-head`, `events:K` (after K SSE events,
the role delta included) or `bytes:K` (after K bytes of the body as the client decodes it, so
without head and chunk framing).
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from typing import Any, get_type_hints

GARBAGE = ("", "http", "json", "chunk")
SSE_STYLES = ("crlf", "cr", "comments", "bom", "nospace")
LENGTHS = ("", "same", "different")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_POINT = re.compile(r"(before-head|after-head)|(events|bytes):(\d+)")


class FaultError(ValueError):
    """A fault that was asked for in words the mock does not know."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in an answer; `count` belongs to `events` and `bytes`."""

    kind: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One answer's wishes. A field at its default changes nothing."""

    # the status line and head
    status: int = 0  # 0 = 200; from 400 on with the dialect's error body
    message: str = ""
    code: str = ""
    retry_after: str = ""  # as sent: seconds or an HTTP date
    retry_after_ms: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    headers_bytes: int = 0  # padding headers of this total size
    duplicate_length: str = ""  # a second Content-Length: same | different
    connection_close: bool = False
    hang_up: bool = False  # the connection ends behind the answer, which did not say so
    interim: tuple[int, ...] = ()  # answers of these 1xx statuses come before it
    content_type: str = ""
    early: bool = False  # answered before the body is read; options and script only

    # pace
    delay_s: float = 0.0  # before the head
    first_token_s: float = 0.0  # between the head and the first byte of the body
    interval_s: float = 0.0  # between events
    drip_bytes: int = 0  # the body goes out in pieces of this size ...
    drip_s: float = 0.0  # ... with this pause between them
    split_bytes: int = 0  # every write, head and framing too, is cut to this size
    split_at: tuple[int, ...] = ()  # body offsets where one write ends and the next begins

    # how it ends; at most one of the three
    stall: Point | None = None  # silent for ever
    reset: Point | None = None  # RST
    close: Point | None = None  # FIN, with the body incomplete

    # content
    body: str | None = None  # instead of the answer's own, streams too; "" is an empty one
    text: str = ""
    text_bytes: int = 0  # the answer's text has this size (UTF-8)
    events: int = 0  # content events of a stream
    cached_tokens: int = 0
    no_usage: bool = False
    no_done: bool = False  # the stream ends cleanly without its terminal event
    error_event: int | None = None  # after this many events comes an error event, and the end
    garbage: str = ""  # http | json | chunk
    sse: tuple[str, ...] = ()  # of SSE_STYLES


PLAIN = Fault()
_TYPES = get_type_hints(Fault)
_DEFAULTS = {f.name: f.default for f in fields(Fault) if f.default is not MISSING}
_PLAIN_KINDS = {"error_event": int, "body": str}  # of those whose default is None
# These need time, a cut or a rewrite, hence the coroutine in `deliver`; the rest is only content.
_SLOW = (
    "delay_s",
    "first_token_s",
    "interval_s",
    "drip_bytes",
    "split_bytes",
    "split_at",
    "stall",
    "reset",
    "close",
    "garbage",
)


def parse_fault(members: dict[str, Any]) -> Fault:
    """A fault from its JSON form; FaultError names the member that is wrong."""
    values = {name: _convert(name, value) for name, value in members.items()}
    fault = Fault(**values)
    if sum(end is not None for end in (fault.stall, fault.reset, fault.close)) > 1:
        raise FaultError("only one of stall, reset and close can end an answer")
    if fault.drip_s and not fault.drip_bytes:
        raise FaultError("drip_s needs drip_bytes")
    return fault


def lay_over(below: Fault, above: Fault) -> Fault:
    """`below` with every field that `above` sets."""
    if above is PLAIN:
        return below
    over = {
        name: getattr(above, name) for name, default in _DEFAULTS.items() if getattr(above, name) != default
    }
    if over.keys() & {"stall", "reset", "close"}:
        below = replace(below, stall=None, reset=None, close=None)
    return replace(below, **over)


@lru_cache(maxsize=64)
def is_immediate(fault: Fault) -> bool:
    """True where the whole answer can be written at once."""
    return not any(getattr(fault, name) for name in _SLOW)


def to_seconds(value: Any) -> float:
    """250ms, 30s, or a plain number of seconds."""
    match = _DURATION.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise FaultError(f"not a duration: {value!r}")
    return float(match[1]) * _SECONDS[match[2]]


def to_point(value: Any) -> Point:
    match = _POINT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FaultError(f"not a point (before-head, after-head, events:K, bytes:K): {value!r}")
    return Point(match[1]) if match[1] else Point(match[2], int(match[3]))


def _convert(name: str, value: Any) -> Any:
    if name not in _DEFAULTS:
        raise FaultError(f"unknown fault {name!r}")
    try:
        return _read(name, value)
    except FaultError as wrong:
        raise FaultError(f"{name}: {wrong}") from None


def _read(name: str, value: Any) -> Any:
    if name.endswith("_s"):
        return to_seconds(value)
    if name in ("stall", "reset", "close"):
        return None if value is None else to_point(value)
    if name == "headers":
        return _to_pairs(value)
    if name == "content_type":
        return _to_line(value)
    if name == "interim":
        return tuple(_to_interim(status) for status in _checked(value, list))
    if name == "split_at":
        return tuple(sorted({_checked(offset, int) for offset in _checked(value, list)}))
    if name == "sse":
        return tuple(_one_of(style, SSE_STYLES) for style in ([value] if isinstance(value, str) else value))
    if name == "garbage":
        return _one_of(value, GARBAGE)
    if name == "duplicate_length":
        return _one_of(value, LENGTHS)
    if name.startswith("retry_after"):
        return str(value)
    return _checked(value, _PLAIN_KINDS.get(name) or _TYPES[name])


def _to_pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_to_line(str(name)), _to_line(str(text))) for name, text in _checked(value, dict).items())


def _to_line(value: Any) -> str:
    text = str(_checked(value, str))
    if "\r" in text or "\n" in text:
        raise FaultError("a header must not hold a line break")
    return text


def _to_interim(value: Any) -> int:
    status = int(_checked(value, int))
    if status == 101 or not 100 <= status < 200:
        raise FaultError(f"expected a status from 100 to 199 that switches no protocol, found {status}")
    return status


def _one_of(value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise FaultError(f"{value!r} is none of {', '.join(filter(None, allowed))}")
    return str(value)


def _checked(value: Any, kind: type) -> Any:
    is_wrong_int = kind is int and (isinstance(value, bool) or (isinstance(value, int) and value < 0))
    if is_wrong_int or not isinstance(value, kind):
        raise FaultError(f"expected {kind.__name__}, found {value!r}")
    return value
