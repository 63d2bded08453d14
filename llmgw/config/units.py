"""The words of the configuration: text in, a number with its unit out.

Every function takes what the YAML reader gives (text, or None for an empty value) and raises
`ValueError(expected)`, whose text completes the sentence "found X, expected ...". Values that
are numbers already come from code, never from a file, and pass with a range check alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", re.ASCII)
SIZE = re.compile(r"(\d{1,9})(B|KB|MB|GB)", re.ASCII)
MONEY = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII)
FRACTION = re.compile(r"[01](?:\.\d{1,6})?", re.ASCII)
NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII)
INTEGER = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)

SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
PICO_PER_MICRO = 1_000_000  # USD per million tokens is micro-USD per token; prices are pico-USD per token
MICRO_PER_USD = 1_000_000

CALENDAR_PERIODS = ("day", "month")
PERIOD_MIN_S, PERIOD_MAX_S = 60.0, 366 * 86_400.0


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def duration_s(value: object) -> float:
    """`250ms 30s 5m 1h 30d` as seconds; 0 is a duration. Decimal inside, so 0.1s is the float 0.1."""
    if isinstance(value, int | float) and is_number(value) and value >= 0:
        return float(value)
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration with its unit, such as 250ms, 30s, 5m, 1h or 30d")
    return float(Decimal(match[1]) * SECONDS[match[2]])


def positive_duration_s(value: object) -> float:
    seconds = duration_s(value)
    if seconds <= 0:
        raise ValueError("a duration longer than 0")
    return seconds


def duration_between(low: str, high: str) -> Callable[[object], float]:
    """Both ends belong to the range; they are given in the words of the file."""
    low_s, high_s = duration_s(low), duration_s(high)

    def parse(value: object) -> float:
        seconds = duration_s(value)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"a duration from {low} to {high}")
        return seconds

    return parse


def size_bytes(value: object) -> int:
    """`64KB 10MB` as bytes, in steps of 1024."""
    if isinstance(value, int) and is_number(value) and value >= 0:
        return value
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size with its unit, such as 512B, 64KB, 10MB or 1GB")
    return int(match[1]) * BYTES[match[2]]


def size_between(low: str, high: str) -> Callable[[object], int]:
    """Both ends belong to the range; they are given in the words of the file."""
    low_bytes, high_bytes = size_bytes(low), size_bytes(high)

    def parse(value: object) -> int:
        size = size_bytes(value)
        if not low_bytes <= size <= high_bytes:
            raise ValueError(f"a size from {low} to {high}")
        return size

    return parse


def price_pusd(value: object) -> int:
    """USD per million tokens as decimal text ("0.15") in pico-USD per token (150000).

    Six decimals of a USD per million tokens are exactly one pico-USD per token, so nothing is
    ever rounded here, and no price passes through a float.
    """
    if isinstance(value, int) and is_number(value) and value >= 0:
        return value
    if not isinstance(value, str) or MONEY.fullmatch(value) is None:
        raise ValueError(
            'USD per million tokens as decimal text below 10^9, up to 6 decimals, such as "0.15"'
        )
    return int(Decimal(value) * PICO_PER_MICRO)


def usd_micro(value: object) -> int:
    """USD as decimal text ("50.00") in micro-USD; six decimals, so nothing is ever rounded."""
    if isinstance(value, int) and is_number(value) and value >= 0:
        return value
    if not isinstance(value, str) or MONEY.fullmatch(value) is None:
        raise ValueError('USD as decimal text below 10^9, up to 6 decimals, such as "50.00"')
    return int(Decimal(value) * MICRO_PER_USD)


def request_pusd(value: object) -> int:
    """USD per request as decimal text ("0.01") in pico-USD (10**10)."""
    if isinstance(value, int) and is_number(value) and value >= 0:
        return value
    if not isinstance(value, str) or MONEY.fullmatch(value) is None:
        raise ValueError('USD per request as decimal text below 10^9, up to 6 decimals, such as "0.01"')
    return usd_micro(value) * PICO_PER_MICRO


def fraction(value: object) -> float:
    """Above 0, up to 1."""
    if isinstance(value, str) and FRACTION.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or not is_number(value) or not 0 < value <= 1:
        raise ValueError("a fraction above 0, up to 1, such as 0.8")
    return float(value)


def number_between(low: int, high: int) -> Callable[[object], float]:
    """Both ends belong to the range."""

    def parse(value: object) -> float:
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = float(value)
        if not isinstance(value, int | float) or not is_number(value) or not low <= value <= high:
            raise ValueError(f"a number from {low} to {high}")
        return float(value)

    return parse


def period(value: object) -> str:
    """A window that slides, or a period of the calendar; kept as it is written."""
    try:
        is_sound = value in CALENDAR_PERIODS or PERIOD_MIN_S <= duration_s(value) <= PERIOD_MAX_S
    except ValueError:
        is_sound = False
    if not is_sound or not isinstance(value, str):
        raise ValueError("day, month, or a duration from 1m to 366d")
    return value


def integer_between(low: int, high: int) -> Callable[[object], int]:
    """Both ends belong to the range."""

    def parse(value: object) -> int:
        if isinstance(value, str) and INTEGER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return value

    return parse


def boolean(value: object) -> bool:
    """`true` or `false` and no other spelling: YAML 1.1's `no`, `off` and `y` are traps."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError("true or false")
    return value == "true"


def one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")
        return value

    return parse


def text_like(pattern: str, expected: str) -> Callable[[object], str]:
    compiled = re.compile(pattern, re.ASCII)

    def parse(value: object) -> str:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise ValueError(expected)
        return value

    return parse
