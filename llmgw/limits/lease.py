"""How much of a shared limit a machine asks for, and what it may use while the shared memory is away.

Pure: times are arguments, in microseconds of the machine's own clock, amounts are whole.

While the memory is away, each machine is held to a cap on its own window, in three phases:

    since the loss      cap
    one window          own use and leases, and its part of what the fleet had left: C0
    one more            the smaller of C0 and the share
    then                the share: limit / live machines

Never do all machines together exceed the limit: their own uses and leases are what the memory had
counted, so the sum of all C0 is at most the limit; no cap grows while a window may hold what was admitted
under a C0 above the share; and in the third phase none does any more. This is as true as the knowledge it
rests on: of what was left, at most one look old (one more step like the largest of late is taken off),
and of how many machines live. Those learn of a newcomer within `JOIN_US`: before, it has no part of the
rest. A budget keeps C0 for a grace, and closes then. Slots have no window; a machine counts on no request
running longer than `SLOT_WINDOW_US`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from llmgw.limits.fleet import BUCKETS, USD, Row

TICK_US = 25_000  # how often the runner looks at what is left
TRUST_US = 2_000_000  # so long after a loss a limit that was never looked at may still get to be known
JOIN_US = 2_000_000  # two beats: so long after a machine came, or came back, the others may not count it
SLOT_WINDOW_US = 300_000_000  # the default of `timeouts.total`
PAUSE_US = 100_000  # for which one who asks for too much keeps all others from asking
NEARLY_FULL = 64  # less than this part of the limit left is none


class Demand:
    """What is admitted in one life of a lease: an average that follows within a life or four ticks."""

    __slots__ = ("_admitted", "_at_us", "_life_us", "per_life", "size")

    def __init__(self, life_us: int, admitted: int, now_us: int) -> None:
        self._life_us = life_us
        self._admitted = admitted
        self._at_us = now_us
        self.per_life = 0.0
        self.size = 0.0  # of a request, among those that had to ask

    def note(self, admitted: int, now_us: int) -> None:
        """`admitted`: ever, by the whole machine."""
        passed_us = now_us - self._at_us
        if passed_us <= 0:
            return
        seen = max(admitted - self._admitted, 0) * self._life_us / passed_us
        weight = -math.expm1(-passed_us / max(self._life_us, 4 * TICK_US))
        self.per_life += (seen - self.per_life) * weight
        self._admitted, self._at_us = admitted, now_us

    def note_size(self, amount: int) -> None:
        self.size += (amount - self.size) / 8 if self.size else amount

    @property
    def target(self) -> int:
        """What to have on lease. 0: of so few requests, each may ask by itself, and nothing lies idle."""
        return math.ceil(self.per_life) if self.per_life >= 2 * max(self.size, 1.0) else 0

    @property
    def low(self) -> int:
        """With less than this, ask: a quarter, and never less than goes in two ticks."""
        ticks = min(2 * TICK_US / self._life_us, 1.0)
        return math.ceil(self.target * max(0.25, ticks))


def top_up(demand: Demand, left: int, limit: int) -> int:
    """How much to ask for in the background; 0: nothing."""
    target = min(demand.target, limit)
    return target - left if left < min(demand.low, target) else 0


def parts_of(machines: int) -> int:
    """Beyond what it needs, a call gets this part of the rest at most: slices shrink with it, down to one."""
    return 2 * max(machines, 1)


def denied_us(row: Row, used: int, wait_us: int) -> int:
    """How long to ask no more. While much is free, one who asks for still more does not stop the others."""
    if wait_us < 0:  # unknown, or never
        return PAUSE_US
    free = row.limit - used
    return wait_us if free * NEARLY_FULL < row.limit or free < 1 else min(wait_us, PAUSE_US)


@dataclass(slots=True)
class Known:
    """What the fleet was last seen to use. `step`: the largest of the last rises between two looks."""

    used: int
    at_us: int
    step: int = 0

    def look(self, used: int, at_us: int) -> None:
        self.step = max(used - self.used, self.step - self.step // 4 - 1, 0)
        self.used, self.at_us = used, at_us


class Own(NamedTuple):
    """The machine's part when the memory was lost: used in the window, and still on lease."""

    used: int
    leased: int


def first_cap(row: Row, own: Own, known: Known | None, machines: int) -> int:
    """C0. Nothing is known to be left of what was never looked at."""
    rest = row.limit - known.used - known.step if known else 0
    return own.used + own.leased + max(rest, 0) // max(machines, 1)


def phase_us(row: Row) -> int:
    """A window, with all that a ring counts beyond it."""
    if row.window_us > 0:
        return row.window_us + row.window_us * 4 // BUCKETS + row.life_us
    return SLOT_WINDOW_US if row.window_us == 0 else max(row.end_us - row.start_us, 0)


def cap(row: Row, first: int, is_unknown: bool, machines: int, away_us: int, grace_us: int) -> int:
    """What this machine may have in its window, so long after the loss.

    `is_unknown`: nobody of this machine ever looked at the limit, and none will: it gets the share.
    """
    share = row.limit // max(machines, 1)
    if row.unit == USD:
        return first if away_us < grace_us else 0
    if is_unknown:
        first = max(first, share)
    if away_us < phase_us(row):
        return first
    return min(first, share) if away_us < 2 * phase_us(row) else share
