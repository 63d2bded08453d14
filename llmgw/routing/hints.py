"""What a provider says about waiting: `Retry-After` and its kin, rate-limit headers, and error bodies.

All of it is a stranger's text. What is not plainly a number, a duration or a date says nothing,
and no wait comes out above WAIT_MAX_S: what is longer is asked about again then. Many answers
carry none of these headers, so the way to None is one look-up a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

WAIT_MAX_S = 600.0
COUNT_MAX = 1e12  # above any quota; sums of it fit 64 bits
COUNT_DIGITS = 13
VALUE_BYTES_MAX = 64  # of a header; the longest date has 33
BODY_BYTES_MAX = 16 * 1024
UNKNOWN = -1.0
YEAR_S = 31_556_952


class Hints(NamedTuple):
    """Waits are from now on, 0 to WAIT_MAX_S. -1: unknown."""

    retry_after_s: float | None = None
    remaining_requests: int = -1
    reset_requests_s: float = -1.0
    remaining_tokens: int = -1
    reset_tokens_s: float = -1.0
    limit_requests: int = -1
    limit_tokens: int = -1


# Where a header's figure is noted. A quota has three in a row.
AFTER, AFTER_MS, REQUESTS, TOKENS, INPUT, OUTPUT, SLOTS = 0, 1, 2, 5, 8, 11, 14
REMAINING, RESET, LIMIT = 0, 1, 2
WAITS = frozenset({AFTER, AFTER_MS, REQUESTS + RESET, TOKENS + RESET, INPUT + RESET, OUTPUT + RESET})
FIGURES = (("remaining", REMAINING), ("reset", RESET), ("limit", LIMIT))
ANTHROPIC = (
    ("requests", REQUESTS),
    ("tokens", TOKENS),
    ("input-tokens", INPUT),
    ("output-tokens", OUTPUT),
)
SLOT_OF = (
    {b"retry-after": AFTER, b"retry-after-ms": AFTER_MS, b"x-ms-retry-after-ms": AFTER_MS}
    | {
        f"x-ratelimit-{figure}-{quota}".encode(): slot + place
        for quota, slot in ANTHROPIC[:2]
        for figure, place in FIGURES
    }
    | {
        f"anthropic-ratelimit-{quota}-{figure}".encode(): slot + place
        for quota, slot in ANTHROPIC
        for figure, place in FIGURES
    }
)


def hints_of(headers: Sequence[tuple[bytes, bytes]], status: int, now_wall_s: float) -> Hints | None:
    """None: nothing about waiting in it. Names are in lower case.

    `Retry-After` counts only where the answer is no success.
    """
    figures: list[float] | None = None
    for name, value in headers:
        if name in SLOT_OF:
            slot = SLOT_OF[name]
            figures = figures or [UNKNOWN] * SLOTS
            is_text = slot in WAITS and slot != AFTER_MS
            figure = wait_in(value, now_wall_s) if is_text else number_in(value)
            figures[slot] = harsher(slot, figures[slot], figure)
    if figures is None:
        return None
    tightest = tightest_of(figures)
    hints = Hints(
        stated_after(figures) if status >= 300 else None,
        int(figures[REQUESTS]),
        figures[REQUESTS + RESET],
        int(figures[tightest]),
        figures[tightest + RESET],
        int(figures[REQUESTS + LIMIT]),
        int(figures[tightest + LIMIT]),
    )
    return hints if hints != NO_HINTS else None


NO_HINTS = Hints()


def harsher(slot: int, known: float, figure: float) -> float:
    """Of a figure that comes twice: the longer wait, the smaller number."""
    if known < 0 or figure < 0 or slot in WAITS:
        return max(known, figure)
    return min(known, figure)


def tightest_of(figures: list[float]) -> int:
    """The token quota of which the least is left; its three figures belong together."""
    if figures[INPUT] < 0 and figures[OUTPUT] < 0:
        return TOKENS
    known = [slot for slot in (TOKENS, INPUT, OUTPUT) if figures[slot] >= 0]
    return min(known, key=figures.__getitem__)


def stated_after(figures: list[float]) -> float | None:
    """Milliseconds are the finer word for the same wait; where the two disagree, the longer one."""
    after_s, after_ms = figures[AFTER], figures[AFTER_MS]
    fine_s = min(after_ms / 1000, WAIT_MAX_S)
    if after_ms >= 0 and after_s - fine_s < 1:
        return fine_s
    return after_s if after_s >= 0 else None


# values


def number_in(value: bytes) -> float:
    """Decimal digits with or without a fraction, in ASCII. -1: anything else."""
    if value.isdigit() and len(value) < COUNT_DIGITS:
        return float(value)
    text = value[: VALUE_BYTES_MAX + 1].strip()
    is_number = len(text) <= VALUE_BYTES_MAX and NUMBER.fullmatch(text) is not None
    return min(float(text), COUNT_MAX) if is_number else UNKNOWN


def wait_in(value: bytes, now_wall_s: float) -> float:
    """Seconds, a duration, an HTTP date or an RFC 3339 time, as seconds from now. -1: none of them."""
    wait_s = duration_in(value)
    if wait_s >= 0:
        return wait_s
    moment_s = moment_in(value, int(now_wall_s / YEAR_S))
    return UNKNOWN if moment_s is None else min(max(0.0, moment_s - now_wall_s), WAIT_MAX_S)


@lru_cache(1024)  # providers say the same few over and over
def duration_in(value: bytes) -> float:
    """`12`, `1.5`, `250ms`, `6m0s`, `1h2m3.5s`. -1: none of them."""
    text = value[: VALUE_BYTES_MAX + 1].strip()
    if len(text) > VALUE_BYTES_MAX:
        return UNKNOWN
    wait_s = number_in(text)
    if wait_s >= 0:
        return min(wait_s, WAIT_MAX_S)
    total_s, at = 0.0, 0
    while at < len(text):
        part = PART.match(text, at)
        if part is None:
            return UNKNOWN
        total_s += float(part[1]) * UNIT_S[part[2]]
        at = part.end()
    return min(total_s, WAIT_MAX_S) if text else UNKNOWN


NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]*)?")
PART = re.compile(rb"([0-9]+(?:\.[0-9]*)?)(ns|us|\xc2\xb5s|ms|s|m|h|d)")
UNIT_S = {b"ns": 1e-9, b"us": 1e-6, b"\xc2\xb5s": 1e-6, b"ms": 1e-3, b"s": 1.0, b"m": 60.0, b"h": 3600.0}
UNIT_S[b"d"] = 86400.0

# moments

MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
CLOCK = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
MONTH = rb"(?P<month>" + b"|".join(MONTHS) + rb")"
HTTP_DATES = tuple(  # RFC 9110, section 5.6.7: IMF-fixdate, RFC 850, asctime

    re.compile(form)
    for form in (
        rb"[A-Z][a-z]{2}, (?P<day>[0-9]{2}) " + MONTH + rb" (?P<year>[0-9]{4}) " + CLOCK + rb" GMT",
        rb"[A-Z][a-z]{5,8}, (?P<day>[0-9]{2})-" + MONTH + rb"-(?P<year>[0-9]{2}) " + CLOCK + rb" GMT",
        rb"[A-Z][a-z]{2} " + MONTH + rb" (?P<day>[ 0-9][0-9]) " + CLOCK + rb" (?P<year>[0-9]{4})",
    )
)  # fmt: skip


@lru_cache(256)  # the resets of one answer, and of those in the same second, are the same few
def moment_in(value: bytes, now_years: int) -> float | None:
    """A date's Unix time: RFC 3339, or one of the three forms of HTTP. `now_years` are since 1970."""
    text = value[: VALUE_BYTES_MAX + 1].strip()
    try:
        if text[:1].isdigit():
            moment = datetime.fromisoformat(text.decode("ascii"))
            return moment.timestamp() if moment.tzinfo is not None else None
        forms = (form.fullmatch(text) for form in HTTP_DATES)
        return next((unix_s(found.groupdict(), now_years) for found in forms if found is not None), None)
    except (ValueError, OverflowError):
        return None


def unix_s(said: dict[str, bytes], now_years: int) -> float:
    """Raises ValueError where there is no such day or hour."""
    return datetime(
        full_year(said["year"], now_years),
        MONTHS.index(said["month"]) + 1,
        int(said["day"]),
        int(said["hour"]),
        int(said["minute"]),
        min(int(said["second"]), 59),  # a leap second
        tzinfo=UTC,
    ).timestamp()


def full_year(year: bytes, now_years: int) -> int:
    """Two digits mean the latest such year that is at most 50 years ahead."""
    if len(year) == 4:
        return int(year)
    latest = 1970 + now_years + 50
    return latest - (latest - int(year)) % 100


# bodies

# OpenAI's and Groq's "Please try again in 6m0s.", Gemini's "Please retry in 13.5s.", Azure's
# "Please retry after 6 seconds."
SENTENCE = re.compile(r"please (?:try again in|retry in|retry after) ([0-9]{1,9}[^ ]{0,23})( [a-z]{1,12})?")
WORDS = {
    "second": "s",
    "seconds": "s",
    "minute": "m",
    "minutes": "m",
    "millisecond": "ms",
    "milliseconds": "ms",
}


def body_hint(body: bytes) -> float | None:
    """The wait that an error's body states: Google's RetryInfo, else the last sentence that does."""
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = error_in(whole[0] if isinstance(whole, list) and whole else whole)
    waits_s = [wait_s for wait_s in delays_in(error.get("details")) if wait_s >= 0]
    if waits_s:
        return max(waits_s)
    message = error.get("message")
    return sentence_hint(message) if isinstance(message, str) else None


def error_in(whole: object) -> dict[str, Any]:
    error = whole.get("error", whole) if isinstance(whole, dict) else None
    return error if isinstance(error, dict) else {}


def delays_in(details: object) -> Iterator[float]:
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str):
            yield duration_in(delay.encode())


def sentence_hint(message: str) -> float | None:
    """The last one: what stands before it may name a model or a file as the caller wrote it."""
    wait_s = UNKNOWN
    for match in SENTENCE.finditer(message.lower()):
        unit = WORDS.get((match[2] or "").strip(" ."), "")
        wait_s = duration_in((match[1].rstrip(".,") + unit).encode())
    return wait_s if wait_s >= 0 else None


def stated_wait_s(hints: Hints | None, body: bytes) -> float | None:
    """What a refusal says to wait: its header, else its body, else until what is used up is there again."""
    if hints is not None and hints.retry_after_s is not None:
        return hints.retry_after_s
    wait_s = body_hint(body)
    if wait_s is not None or hints is None:
        return wait_s
    resets_s = [
        reset_s
        for remaining, reset_s in (
            (hints.remaining_requests, hints.reset_requests_s),
            (hints.remaining_tokens, hints.reset_tokens_s),
        )
        if remaining == 0 and reset_s >= 0
    ]
    return max(resets_s, default=None)
