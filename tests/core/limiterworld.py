"""What the limiter is judged by: a plain account of every event, and helpers for real processes."""

from __future__ import annotations

import mmap
import os
import signal
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from llmgw._core import statefile
from llmgw._core.limiter import (
    CALENDAR,
    CONFIG_ROWS,
    NEVER,
    REQUESTS,
    ROW_BYTES,
    SLOTS,
    TOKENS,
    UNKNOWN,
    USD,
    Gauge,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 3600 * SECOND_US
RING = 130
UNITS = {"requests": REQUESTS, "tokens": TOKENS, "usd": USD, "slots": SLOTS}


def key(number: int, home: int) -> bytes:
    """A key whose place in a table is near `home`."""
    return struct.pack("<QQ", home, number + 1)


_made = iter(range(1, 1 << 40))


def gauge(unit: str, limit: int, window_us: int = MINUTE_US, *, home: int | None = None, **more) -> Gauge:
    number = next(_made)
    window_us = 0 if unit == "slots" else window_us
    where = number * 0x9E3779B97F4A7C15 % (1 << 64) if home is None else home
    return Gauge(key(number, where), UNITS[unit], window_us, limit, **more)


@dataclass
class Entry:
    at_us: int
    amount: int


@dataclass
class Account:
    """One gauge, event by event. Where the clock goes back, an event counts as of the latest moment seen."""

    gauge: Gauge
    entries: list[Entry] = field(default_factory=list)
    seen_us: int = 0
    used: int = 0  # of slots, or in the period
    start_us: int = 0
    reserved: int = 0
    shadow_refusals: int = 0

    @property
    def width_us(self) -> int:
        return -(-self.gauge.window_us // 128)

    @property
    def is_sliding(self) -> bool:
        return self.gauge.window_us > 0

    def look(self, now_us: int) -> None:
        self.seen_us = max(self.seen_us, now_us)
        if self.gauge.window_us == CALENDAR and self.gauge.period_start_us > self.start_us:
            self.start_us = self.gauge.period_start_us
            self.used = self.reserved = 0

    def counts(self, entry: Entry) -> bool:
        return self.seen_us // self.width_us - entry.at_us // self.width_us < RING

    def taken(self) -> int:
        if not self.is_sliding:
            return self.used
        self.entries = [entry for entry in self.entries if self.counts(entry)]
        return sum(entry.amount for entry in self.entries)

    def in_window(self) -> int:
        """Of the true window, by the exact moment of each event."""
        since_us = self.seen_us - self.gauge.window_us
        return sum(entry.amount for entry in self.entries if entry.at_us > since_us)

    def wait_us(self, amount: int, now_us: int) -> int:
        limit = self.gauge.limit
        if limit == 0 or amount > limit:
            return NEVER
        over = self.taken() + amount - limit
        if over <= 0:
            return 0
        if self.gauge.unit == SLOTS or (self.gauge.unit == USD and self.reserved >= over):
            return UNKNOWN
        if not self.is_sliding:
            return max(self.gauge.period_end_us - now_us, 1)
        return next(
            wait_us
            for wait_us in sorted(self.leaves_us(entry) - now_us for entry in self.entries)
            if sum(entry.amount for entry in self.entries if self.leaves_us(entry) - now_us <= wait_us)
            >= over
        )

    def reset_us(self, now_us: int) -> int:
        """Until nothing is in the window."""
        used = self.taken() if self.is_sliding else 0
        return max(self.leaves_us(entry) for entry in self.entries if entry.amount) - now_us if used else 0

    def leaves_us(self, entry: Entry) -> int:
        return (entry.at_us // self.width_us + RING) * self.width_us

    def take(self, amount: int) -> Part:
        entry = Entry(self.seen_us, amount)
        if self.is_sliding:
            self.entries.append(entry)
        else:
            self.used += amount
        self.reserved += amount
        return Part(self, entry, amount, self.start_us)


@dataclass
class Part:
    account: Account
    entry: Entry
    reserved: int
    start_us: int

    def settle(self, actual: int, now_us: int) -> None:
        account, more = self.account, actual - self.reserved
        account.seen_us = max(account.seen_us, now_us)
        if not account.is_sliding:
            if account.start_us == self.start_us:
                account.used += more
                account.reserved -= self.reserved
            return
        account.reserved -= self.reserved
        if account.counts(self.entry):
            self.entry.amount += more
        elif more > 0:
            account.entries.append(Entry(account.seen_us, more))


# -- what stands in the file


def place(segment, region: str) -> int:
    with open(segment.path, "rb") as file:
        return next(found.offset for found in statefile._read_table(file.fileno()) if found.name == region)


class Row(NamedTuple):
    used: int
    reserved: int
    pins: int
    buckets: tuple[int, ...]


def row_of(segment, gauge: Gauge) -> Row:
    """As it stands in the file; of a gauge that the configuration names."""
    index = int.from_bytes(gauge.key[:8], "little") % CONFIG_ROWS
    with open(segment.path, "rb") as file:
        file.seek(place(segment, "rows") + index * ROW_BYTES)
        row = file.read(ROW_BYTES)
    assert row[:16] == gauge.key
    return Row(*struct.unpack_from("<3q", row, 40), struct.unpack_from(f"<{RING}q", row, 192))


def is_whole(segment, gauges) -> bool:
    """Nothing is held, and what is used is what the buckets say."""
    found = [row_of(segment, one) for one in gauges]
    return all((row.reserved, row.pins, row.used) == (0, 0, sum(row.buckets)) for row in found)


# -- processes


@contextmanager
def forked(work):
    """The process id of a child that does `work()`; it is gone at the end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def end(pid: int) -> int:
    """Waits; the exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Board:
    """Numbers that processes share; each has one writer."""

    def __init__(self, size: int) -> None:
        self._view = memoryview(mmap.mmap(-1, size * 8)).cast("q")

    def __getitem__(self, index: int) -> int:
        return self._view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value

    def __iter__(self):
        return iter(self._view.tolist())
