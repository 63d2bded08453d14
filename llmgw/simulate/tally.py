"""The books of a run: by key what became of requests, by limit how full it ever was.

A meter looks at true windows, on the true clock: it knows nothing of buckets, leases or machines. What it
holds against a limit is the smaller of what a request reserved and what it came to, because the window
counted at least that much from its admission on. So a limit that lets itself be exceeded shows above 1,
and an estimate that was too low does not; `peak` is what was really used, with those.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from llmgw._core.limiter import CALENDAR, SLOTS, Gauge
from llmgw.limits.rules import Limit

SHARED_SCOPES: Final = ("provider", "model")  # whose limits no tenant owns


def limit_of(gauge: Gauge) -> Limit:
    limit = gauge.info
    assert isinstance(limit, Limit)
    return limit


@dataclass(slots=True)
class KeyBook:
    """Of one key, or of all."""

    offered: int = 0
    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by limit, or the error's code where none is
    codes: Counter[str] = field(default_factory=Counter)
    left: int = 0  # callers that went while they waited
    waits_us: list[int] = field(default_factory=list)  # of those that the queue took in
    input_tokens: int = 0
    output_tokens: int = 0
    usd_micro: int = 0
    unpriced: int = 0

    def add(self, other: KeyBook) -> None:
        for name in ("offered", "admitted", "left", "input_tokens", "output_tokens", "usd_micro", "unpriced"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.refused += other.refused
        self.codes += other.codes
        self.waits_us += other.waits_us


class Window:
    """A sum over the last `width_us`, and the largest that it ever was. 0 wide: all there is."""

    __slots__ = ("_events", "_width_us", "most", "now")

    def __init__(self, width_us: int) -> None:
        self._width_us = width_us
        self._events: deque[tuple[int, int]] = deque()
        self.now = self.most = 0

    def add(self, at_us: int, amount: int) -> None:
        if self._width_us:
            self._forget(at_us - self._width_us)
            self._events.append((at_us, amount))
        self.now += amount
        self.most = max(self.most, self.now)

    def _forget(self, until_us: int) -> None:
        """What came at `until_us` has left: a window is open at its beginning."""
        events = self._events
        while events and events[0][0] <= until_us:
            self.now -= events.popleft()[1]

    def at(self, at_us: int) -> int:
        if self._width_us:
            self._forget(at_us - self._width_us)
        return self.now

    def clear(self) -> None:
        self.now = 0


class Meter:
    """One gauge, on all machines together."""

    __slots__ = ("_period_us", "admitted", "amount", "floor", "gauge", "used")

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self.used = Window(max(gauge.window_us, 0))
        self.floor = Window(max(gauge.window_us, 0))
        self.admitted = 0
        self.amount = 0
        self._period_us = gauge.period_start_us

    def take(self, at_us: int, reserved: int, came_to: int, period_us: int) -> None:
        if self.gauge.window_us == CALENDAR and period_us != self._period_us:
            self._period_us = period_us
            self.used.clear()
            self.floor.clear()
        self.admitted += 1
        self.amount += came_to
        self.used.add(at_us, came_to)
        self.floor.add(at_us, min(reserved, came_to))

    def end(self) -> None:
        """Of slots: one is free again."""
        self.used.add(0, -1)
        self.floor.add(0, -1)


class Tally:
    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], KeyBook] = {}
        self.meters: dict[bytes, Meter] = {}
        self.refused: Counter[tuple[str, str]] = Counter()  # by (whose, limit)
        self.lease_waits_us: list[int] = []

    def book(self, tenant: str, key: str) -> KeyBook:
        return self.keys.setdefault((tenant, key), KeyBook())

    def refuse(self, tenant: str, key: str, limit: str, code: str) -> None:
        """`limit`: its label; "" where no limit is the reason."""
        book = self.book(tenant, key)
        book.refused[limit or code] += 1
        book.codes[code] += 1
        if limit:
            self.refused["" if limit.startswith(SHARED_SCOPES) else tenant, limit] += 1

    def admit(self, gauges: Iterable[Gauge], at_us: int, reserved: list[int], came_to: list[int]) -> None:
        """The amounts are by unit."""
        for gauge in gauges:
            meter = self.meters.get(gauge.key)
            if meter is None:
                meter = self.meters[gauge.key] = Meter(gauge)
            meter.take(at_us, reserved[gauge.unit], came_to[gauge.unit], gauge.period_start_us)

    def end(self, gauges: Iterable[Gauge]) -> None:
        for gauge in gauges:
            if gauge.unit == SLOTS:
                self.meters[gauge.key].end()

    def total(self) -> KeyBook:
        total = KeyBook()
        for book in self.keys.values():
            total.add(book)
        return total
