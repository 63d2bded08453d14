"""How amounts, durations and limits are called where a client reads them: OpenAI's forms."""

from __future__ import annotations

import re
from typing import NamedTuple

US_PER_MS = 1_000
PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
PERIOD_UNITS = {"ms": "millisecond", "s": "second", "m": "minute", "h": "hour", "d": "day"}


class Word(NamedTuple):
    """`name` stands in the sentence of a refusal, `kind` is the `type` of its error."""

    name: str
    kind: str


WORDS = {
    "rps": Word("requests per sec (RPS)", "requests"),
    "rpm": Word("requests per min (RPM)", "requests"),
    "rph": Word("requests per hour (RPH)", "requests"),
    "rpd": Word("requests per day (RPD)", "requests"),
    "tps": Word("tokens per sec (TPS)", "tokens"),
    "tpm": Word("tokens per min (TPM)", "tokens"),
    "tph": Word("tokens per hour (TPH)", "tokens"),
    "tpd": Word("tokens per day (TPD)", "tokens"),
    "concurrent": Word("concurrent requests", "requests"),
}


def duration_text(duration_us: int) -> str:
    """`250ms`, `1.5s`, `6m0s`, `1h2m3s`, to the millisecond and never shorter than it is; 0 is `0s`."""
    total_ms = -(-max(duration_us, 0) // US_PER_MS)
    if 0 < total_ms < 1000:
        return f"{total_ms}ms"
    total_s, rest_ms = divmod(total_ms, 1000)
    minutes, seconds = divmod(total_s, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds}.{rest_ms:03}".rstrip("0").rstrip(".") if rest_ms else str(seconds)
    if hours:
        return f"{hours}h{minutes}m{text}s"
    return f"{minutes}m{text}s" if minutes else f"{text}s"


def money_text(usd_micro: int) -> str:
    """`$50.00`, and as many decimals more as it has: `$0.0125`."""
    dollars, micro = divmod(usd_micro, 1_000_000)
    decimals = f"{micro:06}".rstrip("0").ljust(2, "0")
    return f"${dollars}.{decimals}"


def period_text(period: str) -> str:
    """A budget's period as written: `1d` and `day` are `per day`, `30d` is `per 30 days`."""
    match = PERIOD.fullmatch(period)
    if match is None:
        return f"per {period}"
    unit = PERIOD_UNITS[match[2]]
    return f"per {unit}" if match[1] == "1" else f"per {match[1]} {unit}s"
