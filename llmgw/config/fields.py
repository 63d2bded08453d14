"""The leaf types of the tree: how a value is read, and what an editor is told about it.

The reader hands over text for every scalar, so `true`, `0x10` or `1_000` never turn into
something else on the way, and each type here is as strict as its one parser.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, WithJsonSchema

from llmgw.config import units
from llmgw.config.machine import cores
from llmgw.config.redis_url import EXPECTED as REDIS_EXPECTED
from llmgw.config.redis_url import parse_redis_url

DIALECTS = ("openai", "azure", "mock")
STRATEGIES = ("weighted", "round_robin", "ordered", "least_busy", "latency", "cost", "hash", "score")
LEVELS = ("debug", "info", "warning", "error")
ESTIMATES = ("learned", "exact")
PRIORITY_CLASSES = ("interactive", "batch")
MODES = ("enforce", "shadow")

WORKERS_MAX = 256
PORT_MAX = 65_535
WEIGHT_MAX = 1_000_000  # the sum over a model's targets stays far inside a C int
PRIORITY_MAX = 1_000
COUNT_MAX = 10**15  # the sum of a window's buckets stays far inside 64 bits
TRACKED_MAX = 100_000
WAITING_MAX = 100_000
TOKENS_MAX = 10**9

# Printable ASCII without blanks: what can stand in a header, unfolded and unquoted (RFC 9110, 5.5).
CREDENTIAL = r"[!-~]{1,4096}"
CREDENTIAL_EXPECTED = "a credential of printable ASCII characters without blanks"
DIGEST = r"[0-9A-Fa-f]{64}"
# These names become metric labels and log fields.
LABEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
LABEL_EXPECTED = "a name of up to 64 letters, digits, '.', '_' and '-' that begins with a letter or digit"
# As in ft:gpt-4o:org::id, @cf/meta/llama-3, meta-llama/Llama-3:free or models/gemini-2.5-pro@001.
MODEL = r"[A-Za-z0-9@][A-Za-z0-9._:/@+=~-]{0,255}"
MODEL_EXPECTED = "a model name of letters, digits and . _ : / @ + = ~ -"
MODEL_GLOB = r"[A-Za-z0-9@*?][A-Za-z0-9._:/@+=~*?-]{0,255}"
MODEL_GLOB_EXPECTED = "a model name or glob of letters, digits and . _ : / @ + = ~ - * ?"
ROUTE_GLOB = r"/v1/[A-Za-z0-9._~/*?-]{1,255}"
ROUTE_EXPECTED = "a path or glob below /v1/, such as /v1/audio/*"

TIME_ZONE = r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}"
REDIS_SCHEMES = r"(redis|valkey)s?(\+(sentinel|cluster))?|unix"

HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}", re.ASCII)
URL = re.compile(r"https?://[!-~]{1,2000}", re.ASCII | re.IGNORECASE)
EXPANDED = {"type": "string", "pattern": r"\$\{"}  # an editor cannot know what a variable holds


def json_integer(low: int, high: int) -> dict[str, Any]:
    return {"anyOf": [{"type": "integer", "minimum": low, "maximum": high}, EXPANDED]}


def json_text(pattern: str) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "pattern": f"^(?:{pattern})$"}, EXPANDED]}


def json_words(*words: str) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(words)}, EXPANDED]}


def worker_count(value: object) -> int:
    """`auto` is one worker for each core that this process may use."""
    if value == "auto":
        return cores()
    try:
        return units.integer_between(1, WORKERS_MAX)(value)
    except ValueError:
        raise ValueError(f"auto, or an integer from 1 to {WORKERS_MAX}") from None


def listen_host(value: object) -> str:
    if not isinstance(value, str) or HOST.fullmatch(value) is None:
        raise ValueError("an address or host name to listen on, without scheme or port")
    return value


def http_url(value: object, *, user_allowed: bool = False) -> str:
    """An http(s) URL without query and fragment; the trailing slash goes, so paths can be appended."""
    expected = "an http:// or https:// URL without credentials, query or fragment"
    if not isinstance(value, str) or URL.fullmatch(value) is None or "\\" in value:
        raise ValueError(expected)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port beyond 65535, half an IPv6 address
        raise ValueError(expected) from None
    if not host or HOST.fullmatch(host) is None or port == 0 or "?" in value or "#" in value:
        raise ValueError(expected)
    if "@" in parts.netloc and not user_allowed:
        raise ValueError(expected)
    return value.rstrip("/")


def proxy_url(value: object) -> str:
    """A proxy may carry a user and a password. `none` is kept as "": go direct, whatever HTTPS_PROXY says."""
    if value in ("none", ""):
        return ""
    try:
        url = http_url(value, user_allowed=True)
    except ValueError:
        url = ""
    if not url or urlsplit(url).path:
        raise ValueError("http://[user:password@]host:port, or none")
    return url


def file_path(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a path")
    return value


def count(value: object) -> int:
    return units.integer_between(0, COUNT_MAX)(value)


def is_shadow(value: object) -> bool:
    """The file's `mode`."""
    return value if isinstance(value, bool) else units.one_of(*MODES)(value) == "shadow"


def time_zone(value: object) -> str:
    expected = "an IANA time zone that this machine knows, such as Europe/Berlin"
    name = units.text_like(TIME_ZONE, expected)(value)
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a directory of zones
        raise ValueError(expected) from None
    return name


def redis_url(value: object) -> str:
    url = units.text_like("[!-~]{1,4096}", REDIS_EXPECTED)(value)
    parse_redis_url(url)
    return url


def webhook_url(value: object) -> str:
    """Kept as it is written: what stands in its path or query is the receiver's secret."""
    expected = "an http:// or https:// URL without credentials or fragment"
    try:
        http_url(value.partition("?")[0] if isinstance(value, str) else value)
    except ValueError:
        raise ValueError(expected) from None
    if not isinstance(value, str) or URL.fullmatch(value) is None or "#" in value:
        raise ValueError(expected)
    return value


def sha256_hex(value: object) -> str:
    expected = "the SHA-256 of the key as 64 hex digits"
    return units.text_like(DIGEST, expected)(value).lower()


JSON_MONEY = {"anyOf": [*json_text(units.MONEY.pattern)["anyOf"], {"type": "number", "minimum": 0}]}

Duration = Annotated[
    float, BeforeValidator(units.positive_duration_s), WithJsonSchema(json_text(units.DURATION.pattern))
]
DurationOrZero = Annotated[
    float, BeforeValidator(units.duration_s), WithJsonSchema(json_text(units.DURATION.pattern))
]
HeadSize = Annotated[
    int, BeforeValidator(units.size_between("1KB", "1MB")), WithJsonSchema(json_text(units.SIZE.pattern))
]
BodySize = Annotated[
    int, BeforeValidator(units.size_between("1KB", "16GB")), WithJsonSchema(json_text(units.SIZE.pattern))
]
Money = Annotated[
    int,
    BeforeValidator(units.price_pusd),
    WithJsonSchema(JSON_MONEY),
]
RequestMoney = Annotated[
    int,
    BeforeValidator(units.request_pusd),
    WithJsonSchema(JSON_MONEY),
]
Usd = Annotated[
    int,
    BeforeValidator(units.usd_micro),
    WithJsonSchema(JSON_MONEY),
]
Fraction = Annotated[
    float,
    BeforeValidator(units.fraction),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, EXPANDED]}),
]
Period = Annotated[
    str,
    BeforeValidator(units.period),
    WithJsonSchema(json_text("|".join((units.DURATION.pattern, *units.CALENDAR_PERIODS)))),
]
TimeZone = Annotated[str, BeforeValidator(time_zone), WithJsonSchema(json_text(TIME_ZONE))]
Count = Annotated[int, BeforeValidator(count), WithJsonSchema(json_integer(0, COUNT_MAX))]
Tokens = Annotated[
    int, BeforeValidator(units.integer_between(1, TOKENS_MAX)), WithJsonSchema(json_integer(1, TOKENS_MAX))
]
Tracked = Annotated[
    int, BeforeValidator(units.integer_between(1, TRACKED_MAX)), WithJsonSchema(json_integer(1, TRACKED_MAX))
]
Waiting = Annotated[
    int, BeforeValidator(units.integer_between(0, WAITING_MAX)), WithJsonSchema(json_integer(0, WAITING_MAX))
]
LedgerSize = Annotated[
    int, BeforeValidator(units.size_between("1MB", "1GB")), WithJsonSchema(json_text(units.SIZE.pattern))
]
Mode = Annotated[bool, BeforeValidator(is_shadow), WithJsonSchema(json_words(*MODES))]
Estimate = Annotated[str, BeforeValidator(units.one_of(*ESTIMATES)), WithJsonSchema(json_words(*ESTIMATES))]
PriorityClass = Annotated[
    str, BeforeValidator(units.one_of(*PRIORITY_CLASSES)), WithJsonSchema(json_words(*PRIORITY_CLASSES))
]
RedisUrl = Annotated[str, BeforeValidator(redis_url), WithJsonSchema(json_text(f"({REDIS_SCHEMES})://.+"))]
Webhook = Annotated[str, BeforeValidator(webhook_url), WithJsonSchema(json_text("https?://.+"))]
Port = Annotated[
    int, BeforeValidator(units.integer_between(0, PORT_MAX)), WithJsonSchema(json_integer(0, PORT_MAX))
]
Weight = Annotated[
    int, BeforeValidator(units.integer_between(1, WEIGHT_MAX)), WithJsonSchema(json_integer(1, WEIGHT_MAX))
]
Priority = Annotated[
    int,
    BeforeValidator(units.integer_between(1, PRIORITY_MAX)),
    WithJsonSchema(json_integer(1, PRIORITY_MAX)),
]
Workers = Annotated[
    int,
    BeforeValidator(worker_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, *json_integer(1, WORKERS_MAX)["anyOf"]]}),
]
Boolean = Annotated[
    bool, BeforeValidator(units.boolean), WithJsonSchema({"anyOf": [{"type": "boolean"}, EXPANDED]})
]
Host = Annotated[str, BeforeValidator(listen_host), WithJsonSchema(json_text(HOST.pattern))]
Label = Annotated[
    str, BeforeValidator(units.text_like(LABEL, LABEL_EXPECTED)), WithJsonSchema(json_text(LABEL))
]
ModelName = Annotated[
    str,
    BeforeValidator(units.text_like(MODEL, MODEL_EXPECTED)),
    WithJsonSchema(json_text(MODEL)),
]
ModelGlob = Annotated[
    str,
    BeforeValidator(units.text_like(MODEL_GLOB, MODEL_GLOB_EXPECTED)),
    WithJsonSchema(json_text(MODEL_GLOB)),
]
RouteGlob = Annotated[
    str, BeforeValidator(units.text_like(ROUTE_GLOB, ROUTE_EXPECTED)), WithJsonSchema(json_text(ROUTE_GLOB))
]
Dialect = Annotated[str, BeforeValidator(units.one_of(*DIALECTS)), WithJsonSchema(json_words(*DIALECTS))]
Strategy = Annotated[str, BeforeValidator(units.one_of(*STRATEGIES)), WithJsonSchema(json_words(*STRATEGIES))]
Level = Annotated[str, BeforeValidator(units.one_of(*LEVELS)), WithJsonSchema(json_words(*LEVELS))]
ApiVersion = Annotated[
    str,
    BeforeValidator(units.text_like(r"20\d\d-\d\d-\d\d(-preview)?", "an API version such as 2024-10-21")),
    WithJsonSchema(json_text(r"20\d\d-\d\d-\d\d(-preview)?")),
]
Credential = Annotated[
    str,
    BeforeValidator(units.text_like(CREDENTIAL, CREDENTIAL_EXPECTED)),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
Digest = Annotated[str, BeforeValidator(sha256_hex), WithJsonSchema(json_text(DIGEST))]
Url = Annotated[str, BeforeValidator(http_url), WithJsonSchema(json_text("https?://.+"))]
Proxy = Annotated[str, BeforeValidator(proxy_url), WithJsonSchema(json_text("https?://.+|none"))]
FilePath = Annotated[str, BeforeValidator(file_path), WithJsonSchema({"type": "string", "minLength": 1})]
