"""How much of a shared limit a machine asks for, and what it may use while the shared memory is away.

Pure: times are arguments, in microseconds of the machine's own clock, amounts are whole.

While the memory is away, each machine is held to a cap on its own window, in four phases:

    since the loss      cap
    `HOLD_US`           what it has on lease, its part of what the fleet is sure to have left then, and
                        what it had used before as far as that is still in the window
    one window          own use and leases, and its part of what the fleet had left: C0
    one more            the smaller of C0 and the share
    then                the share: limit / live machines

Never do all machines together exceed the limit: their own uses and leases are what the memory had
counted, so the sum of all C0 is at most the limit; no cap grows while a window may hold what was admitted
under a C0 above the share; and in the last phase none does any more. This is as true as the knowledge it
rests on: of what was left, at most one look old (what the fleet took in a second of late is taken off),
and of how many machines live. Those learn of a newcomer within `JOIN_US`: before, it has no part of the
rest.

A machine cannot know whether the memory is gone or only it is cut off, while the others go on leasing. So
at first it does not use again what leaves its window, which the others may lease, and of what was left it
takes its part only where that lasts through `HOLD_US` (of a budget: through its grace) if others go on as
fast as of late. Whoever is back by then, and a budget ever, was within what the memory had counted.

A budget keeps the first cap for a grace, and closes then. Slots have no window; a machine counts on no
request running longer than `SLOT_WINDOW_US`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from llmgw._core.limiter import USD
from llmgw.limits.fleet import BUCKETS, Row

TICK_US = 25_000  # how often the runner looks at what is left
TRUST_US = 2_000_000  # so long after a loss a limit that was never looked at may still get to be known
JOIN_US = 2_000_000  # two beats: so long after a machine came, or came back, the others may not count it
HOLD_US = 2_000_000  # as long as it takes at most to be back after a short loss: a probe in vain, and another
SLOT_WINDOW_US = 300_000_000  # the default of `timeouts.total`
RATE_US = 1_000_000
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
    """What the fleet was last seen to use.

    `step` and `per_s`: the largest of the last rises between two looks, and within a second.
    """

    used: int
    at_us: int
    step: int = 0
    per_s: int = 0
    _before: int | None = None  # a second ago
    _before_us: int = 0

    def look(self, used: int, at_us: int) -> None:
        self.step = max(used - self.used, fading(self.step), 0)
        if self._before is None:
            self._before, self._before_us = self.used, self.at_us
        risen = used - self._before
        if at_us - self._before_us >= RATE_US:
            self.per_s = max(risen, fading(self.per_s), 0)
            self._before, self._before_us = used, at_us
        self.per_s = max(self.per_s, risen)
        self.used, self.at_us = used, at_us

    def rest(self, limit: int) -> int:
        return max(limit - self.used - max(self.step, self.per_s), 0)

    def rest_then(self, limit: int, ahead_us: int) -> int:
        """What will be left if others go on as of late; the look itself is up to a second old."""
        return max(limit - self.used - self.per_s * (RATE_US + ahead_us) // RATE_US, 0)


def fading(rise: int) -> int:
    return rise - rise // 4 - 1


class Own(NamedTuple):
    """The machine's part when the memory was lost: used in the window, and still on lease."""

    used: int
    leased: int
    sure: int = 0  # its part of what the fleet is sure to have left while it may be cut off alone
    part: int = 0  # its part of what the fleet had left

    @property
    def all(self) -> int:
        """C0."""
        return self.used + self.leased + self.part


def own_of(row: Row, used: int, leased: int, known: Known | None, machines: int, grace_us: int) -> Own:
    """Nothing is known to be left of what was never looked at. Who is alone has nobody to leave it to."""
    if known is None:
        return Own(used, leased)
    if machines <= 1:
        part = max(row.limit - known.used, 0)
        return Own(used, leased, part, part)
    part = known.rest(row.limit) // machines
    then = known.rest_then(row.limit, grace_us if row.unit == USD else HOLD_US)
    return Own(used, leased, min(then // machines, part), part)


def phase_us(row: Row) -> int:
    """A window, with all that a ring counts beyond it."""
    if row.window_us > 0:
        return row.window_us + row.window_us * 4 // BUCKETS + row.life_us
    return SLOT_WINDOW_US if row.window_us == 0 else max(row.end_us - row.start_us, 0)


def kept_of(row: Row, own: Own, used: int, admitted: int) -> int:
    """What is still in the window of its own use before, less what leaves it until this is asked next."""
    leaving = -(-own.used * TICK_US // row.window_us) if row.window_us > 0 else 0
    return max(used - admitted - leaving, 0)


def cap(row: Row, own: Own, kept: int, is_unknown: bool, machines: int, away_us: int, grace_us: int) -> int:
    """What this machine may have in its window, so long after the loss.

    `kept`: what is still there of its own use before. `is_unknown`: nobody of this machine ever looked at the
    limit, and none will: it gets the share.
    """
    share = row.limit // max(machines, 1)
    first = own.all
    held = min(first, kept + own.leased + own.sure) if row.window_us else first
    if row.unit == USD:
        return held if away_us < grace_us else 0
    if away_us < HOLD_US:
        return held
    if is_unknown:
        first = max(first, share)
    if away_us < phase_us(row):
        return first
    return min(first, share) if away_us < 2 * phase_us(row) else share
