"""What a provider may do wrong, and what must come of it: the table behind docs/faults.md.

A row is a fault of a target; `whole` and `stream` say what must come of a request without and with
`stream: true`. Each is tried as two targets of one model, the first with the fault and the second
sound, and as a model with that first target alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

CLOSED, OPEN = 0, 1  # llm_circuit_state
FAILURES = 5  # in a row open a circuit
ATTEMPTS = 3  # the models' retry.max_attempts
ITS_OWN = "the provider's own error"  # an error event of its making is the stream's last
IN_60_S = "in 60 s"  # stands for the HTTP date of that moment


@dataclass(frozen=True)
class Outcome:
    """What must come of a request. None: not promised, or not to be seen from outside."""

    # Two targets, the first with the fault.
    gets: str  # whose answer the client gets: second, first, or cut (a part of the first's)
    status: int = 200
    code: str | None = None  # of the error, or of the error event
    within_s: float = 3.0
    first: int = 1  # requests that arrive at the first target
    second: int = 0
    again: bool | None = True  # the next request asks the first target, too
    circuit: int | None = CLOSED  # of the first target, after FAILURES such requests
    charged: str = "reported"  # the usage that the client is charged by, once; "" for nothing

    # The first target alone.
    alone: tuple[int, str] | None = None  # status and code of the error; None: as with two targets
    alone_first: int | None = 1  # requests that arrive at it
    alone_retry: bool = False  # x-should-retry
    alone_after_s: int = 0  # retry-after, up to a tenth more; 0: none
    alone_charged: str | None = ""


@dataclass(frozen=True)
class Row:
    name: str
    does: str  # for the reader of the docs
    fault: dict[str, Any]  # of the mock; empty for an `at` that is none
    whole: Outcome | None = None
    stream: Outcome | None = None
    at: str = "mock"  # who listens: mock, nobody, deaf or resetting
    via: str = "targets"  # fallbacks: the second is no target, but a fallback named for this cause
    timeouts: dict[str, str] = field(default_factory=dict)


class Case(NamedTuple):
    row: Row
    streams: bool
    outcome: Outcome

    @property
    def name(self) -> str:
        return f"{self.row.name}-{'stream' if self.streams else 'whole'}"


# The first target fails, and the circuit counts it. Nobody pays for an error.
FAILED = Outcome("second", second=1, circuit=OPEN, alone=(502, "upstream_error"), alone_first=ATTEMPTS)
# The same, but the provider may have worked for it: the prompt is charged, once.
BROKEN = replace(FAILED, alone_charged="estimated")
# Silent beyond a deadline: left, cooled, and not asked again, for this request or the next.
SILENT = replace(
    FAILED,
    within_s=4.0,
    again=False,
    circuit=CLOSED,
    alone=(504, "upstream_timeout"),
    alone_first=1,
    alone_charged="estimated",
)
# It said how long to leave it alone, or 1 s where it did not.
LIMITED = replace(
    FAILED,
    again=False,
    circuit=CLOSED,
    alone=(503, "no_available_upstream"),
    alone_first=1,
    alone_retry=True,
    alone_after_s=1,
)
# Our key is refused: it is left alone for a while. The target itself is well.
REFUSED = replace(FAILED, again=False, circuit=CLOSED, alone_first=1)
# The request is at fault: the client gets what the provider says.
PASSED = Outcome("first", charged="")
# Nothing is wrong.
SOUND = Outcome("first")
# Broken behind the first byte: nobody else is asked, and the end shows.
CUT = Outcome("cut", code="upstream_error", circuit=OPEN, charged="estimated")
FELL_SILENT = replace(CUT, code="upstream_timeout", within_s=4.0, again=None, circuit=None)
# So large that it flows through: no error can be told within it.
CUT_SHORT = replace(CUT, code=None)

HASTY = {"connect": "300ms", "first_token": "300ms", "idle": "300ms"}
SLOW = {"interval_s": "20ms", "events": 6}
ERROR_BODY = '{"error": {"message": "Overloaded.", "type": "server_error", "param": null, "code": null}}'
PAGE = "<html>Welcome to the hotel</html>"
LARGE = {"text_bytes": 2_000_000}


def limited(after_s: int, **said: Any) -> dict[str, Any]:
    both = replace(LIMITED, alone_after_s=after_s)
    return {"fault": {"status": 429, **said}, "whole": both, "stream": both}


def both(outcome: Outcome) -> dict[str, Outcome]:
    return {"whole": outcome, "stream": outcome}


def of_status(status: int, does: str, outcome: Outcome, **said: Any) -> Row:
    return Row(f"{status}", does, {"status": status, **said}, **both(outcome))


def with_code(name: str, status: int, code: str, does: str, outcome: Outcome, via: str = "targets") -> Row:
    return Row(name, does, {"status": status, "code": code, "message": "No."}, **both(outcome), via=via)


BEFORE_THE_HEAD = [
    Row("refused", "nobody listens at its port", {}, **both(FAILED), at="nobody"),
    Row("deaf", "its kernel does not answer the connect", {}, **both(replace(SILENT, alone_charged="")), at="deaf", timeouts=HASTY),
    Row("reset-at-connect", "RST as soon as it accepted, before or behind our request", {}, **both(replace(BROKEN, alone_charged=None)), at="resetting"),
    Row("reset-before-head", "RST instead of an answer", {"reset": "before-head"}, **both(BROKEN)),
    Row("close-before-head", "FIN instead of an answer", {"close": "before-head"}, **both(BROKEN)),
    Row("no-http", "answers, but not in HTTP", {"garbage": "http"}, **both(BROKEN)),
    Row("huge-head", "900 KB of headers", {"headers_bytes": 900_000}, **both(BROKEN)),
    Row("two-lengths", "two Content-Lengths that differ", {"duplicate_length": "different"}, BROKEN),
    Row("same-length-twice", "two Content-Lengths that agree", {"duplicate_length": "same"}, BROKEN),
    Row("silent", "takes the request and says nothing", {"stall": "before-head"}, **both(SILENT), timeouts=HASTY),
    Row("late-head", "a head after 20 s", {"delay_s": 20}, **both(SILENT), timeouts=HASTY),
    Row("slow-head", "a head after 200 ms, in time", {"delay_s": "200ms"}, **both(SOUND)),
    Row("interim", "103 and 100 before the answer", {"interim": [103, 100]}, **both(SOUND)),
    Row("early-503", "503 before it read the request", {"status": 503, "early": True}, **both(FAILED)),
]  # fmt: skip

STATUSES = [
    of_status(500, "500", FAILED),
    of_status(502, "502", FAILED),
    of_status(503, "503", FAILED),
    Row("503-after", "503, Retry-After: 7", {"status": 503, "retry_after": "7"}, **both(replace(FAILED, alone_first=1))),
    Row("503-page", "503 with a page of HTML", {"status": 503, "body": PAGE, "content_type": "text/html"}, **both(FAILED)),
    of_status(504, "504", FAILED),
    of_status(529, "529, Anthropic's overload", FAILED),
    of_status(408, "408, its own timeout", replace(FAILED, circuit=CLOSED)),
    of_status(409, "409, its own conflict", replace(FAILED, circuit=CLOSED)),
    of_status(302, "302 to elsewhere, which is never followed", FAILED, headers={"location": "http://127.0.0.1:1/"}),
    Row("429", "429 without a hint", **limited(1)),
    Row("429-seconds", "429, Retry-After: 7", **limited(7, retry_after="7")),
    Row("429-float", "429, Retry-After: 6.5", **limited(7, retry_after="6.5")),
    Row("429-ms", "429, retry-after-ms: 6500", **limited(7, retry_after_ms="6500")),
    Row("429-date", "429, Retry-After: a date in 60 s", **limited(60, retry_after=IN_60_S)),
    Row("429-reset", "429, x-ratelimit-reset-requests: 6s", **limited(6, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6s"})),
    Row("429-absurd", "429, Retry-After: 9999999; at most 10 min count", **limited(600, retry_after="9999999")),
    Row("429-nonsense", "429, Retry-After: soon", **limited(1, retry_after="soon")),
    of_status(401, "401, our key is unknown", REFUSED),
    of_status(403, "403, our key may not", replace(REFUSED, again=None, alone_first=None)),
    of_status(400, "400, a bad request", replace(PASSED, status=400)),
    of_status(404, "404, no such model", replace(PASSED, status=404)),
    of_status(413, "413, too large", replace(PASSED, status=413)),
    of_status(422, "422, a bad field", replace(PASSED, status=422)),
    with_code("too-long", 400, "context_length_exceeded", "400, the prompt is too long", replace(PASSED, status=400, code="context_length_exceeded")),
    with_code("policy-400", 400, "content_policy_violation", "400, against its policy", replace(PASSED, status=400, code="content_policy_violation")),
    with_code("policy-403", 403, "content_filter", "403, against its policy", replace(PASSED, status=403, code="content_filter")),
    with_code("too-long-named", 400, "context_length_exceeded", "the same with a fallback for context_length", Outcome("second", second=1), "fallbacks"),
    with_code("policy-named", 400, "content_policy_violation", "the same with a fallback for content_policy", Outcome("second", second=1), "fallbacks"),
]  # fmt: skip

BEFORE_THE_FIRST_BYTE = [
    Row("reset-after-head", "RST behind its head", {"reset": "after-head"}, **both(BROKEN)),
    Row("close-after-head", "FIN behind its head", {"close": "after-head"}, **both(BROKEN)),
    Row("silent-after-head", "nothing behind its head", {"stall": "after-head"}, **both(SILENT), timeouts=HASTY),
    Row("late-first-token", "a first byte after 20 s", {"first_token_s": 20}, **both(SILENT), timeouts=HASTY),
    Row("slow-first-token", "a first byte after 200 ms, in time", {"first_token_s": "200ms"}, **both(SOUND)),
    Row("broken-chunk", "broken chunk framing", {"garbage": "chunk"}, stream=BROKEN),
    Row("truncated", "FIN within its JSON, or its first event", {"close": "bytes:50"}, **both(BROKEN)),
    Row("cut-by-reset", "RST within its JSON, or its first event", {"reset": "bytes:50"}, **both(BROKEN)),
    Row("silent-within", "silence within its JSON, or its first event", {"stall": "bytes:50"}, **both(SILENT), timeouts=HASTY),
    Row("broken-json", "a whole answer whose JSON is broken", {"garbage": "json"}, BROKEN),
    Row("empty", "200 and nothing", {"body": ""}, **both(BROKEN)),
    Row("error-200", "200 with an error in it", {"body": ERROR_BODY}, **both(BROKEN)),
    Row("page", "200 with a page of HTML", {"body": PAGE, "content_type": "text/html"}, **both(BROKEN)),
    Row("no-event", "a stream that ends before its first event", {"close": "events:0"}, stream=BROKEN),
    Row("error-first", "a stream that begins with an error", {"error_event": 0}, stream=BROKEN),
]  # fmt: skip

AFTER_THE_FIRST_BYTE = [
    Row("close-after-1", "FIN behind its first event", {"close": "events:1", **SLOW}, stream=CUT),
    Row("close-after-4", "FIN behind 4 events", {"close": "events:4", **SLOW}, stream=CUT),
    Row("reset-after-4", "RST behind 4 events", {"reset": "events:4", **SLOW}, stream=CUT),
    Row("silent-after-1", "silence behind its first event", {"stall": "events:1", **SLOW}, stream=FELL_SILENT, timeouts=HASTY),
    Row("silent-after-4", "silence behind 4 events", {"stall": "events:4", **SLOW}, stream=FELL_SILENT, timeouts=HASTY),
    Row("close-within-4", "FIN in the middle of an event", {"close": "bytes:900", **SLOW}, stream=CUT),
    Row("no-done", "an end without [DONE]", {"no_done": True, **SLOW}, stream=replace(CUT, charged="reported")),
    Row("error-after-3", "an error event behind 3 events", {"error_event": 3, **SLOW}, stream=replace(CUT, code=ITS_OWN)),
    Row("large-close", "FIN within 2 MB, behind 1.5 MB", {"close": "bytes:1500000", **LARGE}, CUT_SHORT),
    Row("large-reset", "RST within 2 MB, behind 1.5 MB", {"reset": "bytes:1500000", "drip_bytes": 500_000, "drip_s": "50ms", **LARGE}, CUT_SHORT),
    Row("large-silent", "silence within 2 MB, behind 1.5 MB", {"stall": "bytes:1500000", **LARGE}, replace(FELL_SILENT, code=None), timeouts=HASTY),
]  # fmt: skip

ODD_BUT_SOUND = [
    Row("drip", "100 bytes at a time, 10 ms apart", {"drip_bytes": 100, "drip_s": "10ms"}, **both(SOUND)),
    Row("split", "one byte a write", {"split_bytes": 1, "events": 2}, **both(SOUND)),
    Row("split-at", "its head, and its body in 4 writes", {"split_at": [1, 40, 41]}, **both(SOUND)),
    Row("slow-events", "events 100 ms apart", {"interval_s": "100ms", "events": 3}, stream=SOUND),
    Row("says-close", "connection: close", {"connection_close": True}, **both(SOUND)),
    Row("hangs-up", "ends the connection behind its answer, unsaid", {"hang_up": True}, **both(SOUND)),
    Row("no-usage", "tells no usage", {"no_usage": True}, **both(replace(SOUND, charged="estimated"))),
    Row("crlf", "events in the spelling with CRLF", {"sse": "crlf"}, stream=SOUND),
    Row("cr", "events in the spelling with CR", {"sse": "cr"}, stream=SOUND),
    Row("comments", "comments between its events", {"sse": "comments"}, stream=SOUND),
    Row("bom", "a stream that begins with a BOM", {"sse": "bom"}, stream=SOUND),
    Row("nospace", "data: without the space", {"sse": "nospace"}, stream=SOUND),
    Row("broken-event", "one event whose JSON is broken", {"garbage": "json"}, stream=SOUND),
]  # fmt: skip

SECTIONS = {
    "Before the head": BEFORE_THE_HEAD,
    "Instead of an answer": STATUSES,
    "Before the first byte of an answer": BEFORE_THE_FIRST_BYTE,
    "After the first byte": AFTER_THE_FIRST_BYTE,
    "Odd, but sound": ODD_BUT_SOUND,
}


def cases_of(rows: list[Row]) -> Iterator[Case]:
    for row in rows:
        for streams, outcome in ((False, row.whole), (True, row.stream)):
            if outcome is not None:
                yield Case(row, streams, outcome)


CASES = [case for rows in SECTIONS.values() for case in cases_of(rows)]
