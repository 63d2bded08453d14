"""When a budget has used so much of itself that somebody should hear of it.

Each fraction of `alert_at` is told once: of a calendar period, once in the period; of a sliding
window, once until use has fallen 5 points below it. What was told is a small memory, by the
gauge's key, that its owner may keep over restarts; a reload goes on with the same `Alerts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from llmgw.limits.words import money_text

__all__ = ["Alert", "Alerts", "Budgeted", "Watch"]

CALENDAR: Final = -1  # the limiter's Gauge.window_us of a calendar period
REARM: Final = 0.05  # of the limit
KEPT: Final = 10_000  # budgets with something told; beyond, those that are read no more are forgotten


class Budgeted(Protocol):
    """What is looked at of a gauge of the limiter; calendar gauges have been put into their period."""

    @property
    def key(self) -> bytes: ...
    @property
    def window_us(self) -> int: ...
    @property
    def limit(self) -> int: ...  # micro-USD
    @property
    def is_shadow(self) -> bool: ...
    @property
    def period_start_us(self) -> int: ...
    @property
    def period_end_us(self) -> int: ...


class Watch(NamedTuple):
    gauge: Budgeted
    tenant: str
    budget: str  # names of the configuration: "tenant:budget:1d", "key:web:budget:month"
    fractions: tuple[float, ...]  # alert_at


@dataclass(frozen=True)
class Alert:
    """A fraction of a budget was reached."""

    id: str
    at_s: float  # wall clock
    tenant: str
    budget: str
    fraction: float
    used_usd_micro: int
    limit_usd_micro: int
    is_shadow: bool
    period_us: tuple[int, int] | None  # start and end of a calendar period
    word: str = ""  # for the fraction, in its period: the same on every machine
    stays_us: int = 0  # the word: as long as the period, or the window

    @property
    def text(self) -> str:
        """One sentence, of names of the configuration and numbers only."""
        return (
            f"Budget {self.budget} of tenant {self.tenant} has reached {self.fraction:.4g} of its limit: "
            f"{money_text(self.used_usd_micro)} of {money_text(self.limit_usd_micro)} used"
            + (" (shadow mode)." if self.is_shadow else ".")
        )

    def payload(self) -> dict[str, object]:
        """As it is sent: docs/alerts.md."""
        start, end = (_stamp(us / 1e6) for us in self.period_us) if self.period_us else (None, None)
        return {
            "type": "budget_alert",
            "id": self.id,
            "ts": _stamp(self.at_s),
            "tenant": self.tenant,
            "budget": self.budget,
            "threshold": self.fraction,
            "used_usd": self.used_usd_micro / 1e6,
            "limit_usd": self.limit_usd_micro / 1e6,
            "period_start": start,
            "period_end": end,
            "shadow": self.is_shadow,
            "text": self.text,
        }


@dataclass
class _Told:
    period_start_us: int = 0
    fractions: set[float] = field(default_factory=set)


class Alerts:
    def __init__(self, memory: bytes = b"") -> None:
        """`memory` is what an earlier one's `memory` returned; what cannot be read counts as nothing told."""
        self._told = _read_memory(memory)
        self.is_changed = False  # since `memory` was last asked for
        self._rearmed: list[str] = []

    def check(self, readings: Iterable[tuple[Watch, int]], now_s: float) -> list[Alert]:
        """The alerts that are due, of budgets and what is used of each in micro-USD.

        `now_s` is the wall clock.
        """
        due: list[Alert] = []
        read: set[bytes] = set()
        for watch, used in readings:
            read.add(watch.gauge.key)
            due.extend(_alert(watch, at, used, now_s) for at in self._newly_reached(watch, used))
        if len(self._told) > KEPT:
            self._told = {key: told for key, told in self._told.items() if key in read}
        return due

    def take_rearmed(self) -> list[str]:
        """Words of fractions that may be told again, since the last call."""
        rearmed, self._rearmed = self._rearmed, []
        return rearmed

    def memory(self) -> bytes:
        """What was told, for the next process. It changes when an alert is due or may come again."""
        self.is_changed = False
        told = [[key.hex(), it.period_start_us, sorted(it.fractions)] for key, it in self._told.items()]
        return json.dumps(told, separators=(",", ":")).encode()

    def _newly_reached(self, watch: Watch, used: int) -> list[float]:
        gauge = watch.gauge
        told = self._told.get(gauge.key) or _Told()
        still = _still_told(told, gauge, used)
        reached = [at for at in sorted(set(watch.fractions) - still) if used >= _bound(gauge, at)]
        if gauge.window_us != CALENDAR:
            self._rearmed += [_word(gauge, at) for at in sorted(told.fractions - still)]
        if reached or still != told.fractions:
            period_start_us = max(gauge.period_start_us, told.period_start_us)
            self._remember(gauge.key, _Told(period_start_us, still.union(reached)))
        return reached

    def _remember(self, key: bytes, told: _Told) -> None:
        self.is_changed = True
        self._told.pop(key, None)
        if told.fractions:
            self._told[key] = told


def _still_told(told: _Told, gauge: Budgeted, used: int) -> set[float]:
    if gauge.window_us == CALENDAR:  # an earlier period than the last told of is a clock that was set back
        return told.fractions if gauge.period_start_us <= told.period_start_us else set()
    return {at for at in told.fractions if used > max(at - REARM, 0.0) * gauge.limit}


def _bound(gauge: Budgeted, fraction: float) -> int:
    return max(round(fraction * gauge.limit), 1)


def _alert(watch: Watch, fraction: float, used: int, now_s: float) -> Alert:
    gauge = watch.gauge
    is_calendar = gauge.window_us == CALENDAR
    word = _word(gauge, fraction)
    period_us = gauge.period_end_us - gauge.period_start_us
    return Alert(
        id=word if is_calendar else f"{word}-{int(now_s)}",
        word=word,
        stays_us=period_us if is_calendar else gauge.window_us,
        at_s=now_s,
        tenant=watch.tenant,
        budget=watch.budget,
        fraction=fraction,
        used_usd_micro=used,
        limit_usd_micro=gauge.limit,
        is_shadow=gauge.is_shadow,
        period_us=(gauge.period_start_us, gauge.period_end_us) if is_calendar else None,
    )


def _word(gauge: Budgeted, fraction: float) -> str:
    name = f"{gauge.key.hex()}-{fraction:g}"
    return f"{name}-{gauge.period_start_us // 1_000_000}" if gauge.window_us == CALENDAR else name


def _stamp(wall_s: float) -> str:
    """RFC 3339, UTC, whole milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_memory(memory: bytes) -> dict[bytes, _Told]:
    try:
        rows = json.loads(memory)
        return {
            bytes.fromhex(key): _Told(int(start_us), {float(at) for at in fractions})
            for key, start_us, fractions in rows
        }
    except (ValueError, TypeError, OverflowError, RecursionError):
        return {}
