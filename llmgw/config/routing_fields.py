"""The leaf types of `routing`, as strict as those of `fields`.

What the segment keeps in integer microseconds has an upper bound here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from llmgw.config import units
from llmgw.config.fields import EXPANDED, json_integer, json_text

ATTEMPTS_MAX = 20
TIMES_MAX = 1_000  # failures or successes in a row
REQUESTS_MAX = 1_000_000
RATE_MAX = 1_000_000
SCORE_MAX = 1_000
INFLIGHT_MAX = 1_000_000
MESSAGE_MAX = 64 << 10

# Half of the answers are later than p50, so less would double most requests.
QUANTILE = re.compile(r"p([5-9]\d(?:\.\d)?)", re.ASCII)
HEDGE_MIN, HEDGE_MAX = "1ms", "1h"

HEADER_PREFIX = "header:"
# A field name (RFC 9110, 5.1), as short as any that a client would send for this.
HEADER = re.compile(r"header:([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})", re.ASCII)
# What must never decide anything that shows in a log: the ways in of a gateway key, and cookies.
CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"})

# The characters of a path (RFC 3986, 3.3), without a segment that is only dots.
PATH = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]*){1,32}"


def json_number(low: int, high: int) -> dict[str, Any]:
    return {"anyOf": [{"type": "number", "minimum": low, "maximum": high}, EXPANDED]}


def hedge_after(value: object) -> str:
    """A quantile of the time to the first token, or a fixed time; kept as it is written."""
    try:
        units.duration_between(HEDGE_MIN, HEDGE_MAX)(value)
        is_sound = True
    except ValueError:
        is_sound = isinstance(value, str) and QUANTILE.fullmatch(value) is not None
    if not is_sound or not isinstance(value, str):
        raise ValueError(f"p50 to p99.9, or a duration from {HEDGE_MIN} to {HEDGE_MAX}")
    return value


def hash_on(value: object) -> str:
    """`user`, `conversation` or `header:name`, the name in lower case."""
    if value in ("user", "conversation"):
        return str(value)
    match = HEADER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("user, conversation or header:NAME")
    if match[1].lower() in CREDENTIAL_HEADERS:
        raise ValueError("user, conversation or header:NAME of a header that carries no credential")
    return HEADER_PREFIX + match[1].lower()


def memory_bytes(value: object) -> int:
    """`auto` is 0: the worker knows what the machine has."""
    if value in ("auto", 0) and not isinstance(value, bool):
        return 0
    try:
        return units.size_between("64MB", "16384GB")(value)
    except ValueError:
        raise ValueError("auto, or a size from 64MB to 16384GB") from None


def message(value: object) -> str:
    try:
        is_sound = isinstance(value, str) and 0 < len(value.encode()) <= MESSAGE_MAX and not value.isspace()
    except UnicodeEncodeError:  # half a surrogate pair, written as an escape
        is_sound = False
    if not is_sound or not isinstance(value, str):
        raise ValueError("text of at most 64KB")
    return value


JSON_DURATION = json_text(units.DURATION.pattern)

Span = Annotated[float, BeforeValidator(units.duration_between("10ms", "1h")), WithJsonSchema(JSON_DURATION)]
Window = Annotated[float, BeforeValidator(units.duration_between("1s", "1h")), WithJsonSchema(JSON_DURATION)]
Delay = Annotated[float, BeforeValidator(units.duration_between("0s", "1h")), WithJsonSchema(JSON_DURATION)]
Times = Annotated[
    int, BeforeValidator(units.integer_between(1, TIMES_MAX)), WithJsonSchema(json_integer(1, TIMES_MAX))
]
Requests = Annotated[
    int,
    BeforeValidator(units.integer_between(1, REQUESTS_MAX)),
    WithJsonSchema(json_integer(1, REQUESTS_MAX)),
]
Attempts = Annotated[
    int,
    BeforeValidator(units.integer_between(1, ATTEMPTS_MAX)),
    WithJsonSchema(json_integer(1, ATTEMPTS_MAX)),
]
Inflight = Annotated[
    int,
    BeforeValidator(units.integer_between(1, INFLIGHT_MAX)),
    WithJsonSchema(json_integer(1, INFLIGHT_MAX)),
]
Share = Annotated[float, BeforeValidator(units.number_between(0, 1)), WithJsonSchema(json_number(0, 1))]
Rate = Annotated[
    float, BeforeValidator(units.number_between(0, RATE_MAX)), WithJsonSchema(json_number(0, RATE_MAX))
]
Importance = Annotated[
    float, BeforeValidator(units.number_between(0, SCORE_MAX)), WithJsonSchema(json_number(0, SCORE_MAX))
]
HedgeAfter = Annotated[
    str,
    BeforeValidator(hedge_after),
    WithJsonSchema(json_text(f"{units.DURATION.pattern}|{QUANTILE.pattern}")),
]
HashOn = Annotated[
    str, BeforeValidator(hash_on), WithJsonSchema(json_text(f"user|conversation|{HEADER.pattern}"))
]
Memory = Annotated[
    int, BeforeValidator(memory_bytes), WithJsonSchema(json_text(f"auto|{units.SIZE.pattern}"))
]
CheckPath = Annotated[
    str,
    BeforeValidator(units.text_like(PATH, "a path below base_url that begins with /, such as /models")),
    WithJsonSchema(json_text(PATH)),
]
Message = Annotated[str, BeforeValidator(message), WithJsonSchema({"type": "string", "minLength": 1})]
