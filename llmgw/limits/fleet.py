"""What machines ask of the memory they share.

    Lease      deduct amounts up front, or say how long until enough has left
    Settle     give back, or add, once a reservation's true amount is known
    TakeSlots  the same for slots (`concurrent`), which a machine holds until it returns them
    GiveSlots
    Beat       this machine is alive: how many are
    Claim      of all machines, one is to tell of something: is it this one?

A call is made once: an asker numbers its calls of one kind and tag upward and never has two of them in the
air, so the memory keeps the last reply alone. The number of that one brings the very same reply again; a
lower one is a late copy and changes nothing. A beat and a claim have no numbers: once more does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

BUCKETS = 128
BESIDES = 2  # the bucket that fills, and the one more that a machine's own ring counts
LIFE_MIN_US = 50_000
LIFE_MAX_US = 2_000_000
SLOT_LIFE_US = 100_000  # slots do not end; what is spare beyond so long a demand goes back
DEAD_US = 10_000_000  # a machine that has not been heard of for so long is gone
LATE_US = 3_600_000_000  # a calendar period is kept for so long after its end; replies as well


def lease_life_us(window_us: int) -> int:
    if window_us == 0:
        return SLOT_LIFE_US
    if window_us < 0:
        return LIFE_MAX_US
    return min(max(window_us // 32, LIFE_MIN_US), LIFE_MAX_US)


@dataclass(frozen=True, slots=True)
class Row:
    """A shared gauge as the memory sees it. The key is its digest in hex."""

    key: str
    unit: int
    window_us: int  # CALENDAR; 0: slots
    limit: int
    start_us: int = 0  # CALENDAR only
    end_us: int = 0

    @property
    def width_us(self) -> int:
        """Of a bucket; 0: a calendar period is one bucket."""
        return -(-self.window_us // BUCKETS) if self.window_us > 0 else 0

    @property
    def life_us(self) -> int:
        return lease_life_us(self.window_us)

    @property
    def ring(self) -> int:
        """How many buckets count, the one that fills included."""
        return BUCKETS + BESIDES - (-self.life_us // self.width_us) if self.width_us else 1


class Ask(NamedTuple):
    """`wanted` 0 asks only whether `least` would fit."""

    row: Row
    wanted: int
    need: int  # given where there is so much, whatever the fair part is
    least: int  # less than this is of no use; at least 1
    parts: int  # beyond `need`, one call gets this part of what is free
    held: int = 0  # slots only: what this machine knows it holds


class Entry(NamedTuple):
    row: Row
    at_us: int  # of the reservation, on the memory's clock, or earlier by a bucket's width at most
    delta: int  # > 0: more was used than reserved


class Lease(NamedTuple):
    tag: str  # all rows of a call live in one hash slot
    asker: str
    number: int
    asks: tuple[Ask, ...]
    epoch: int = 0  # of the memory that the asker knew there; 0: none
    heard_us: int = 0  # when that last answered, on its clock


class Settle(NamedTuple):
    tag: str
    asker: str
    number: int
    entries: tuple[Entry, ...]


class TakeSlots(NamedTuple):
    tag: str
    asker: str
    number: int
    machine: str
    asks: tuple[Ask, ...]
    epoch: int = 0
    heard_us: int = 0


class GiveSlots(NamedTuple):
    """`delta` < 0 returns; > 0 takes without asking, for what runs already. `at_us` is not looked at."""

    tag: str
    asker: str
    number: int
    machine: str
    entries: tuple[Entry, ...]


class Beat(NamedTuple):
    machine: str


class Claim(NamedTuple):
    word: str
    machine: str
    stays_us: int  # 0: it is given up, whoever had it


Call = Lease | Settle | TakeSlots | GiveSlots | Beat | Claim


class Answer(NamedTuple):
    granted: int
    wait_us: int  # 0, or until `least` fits if nothing more is taken; NEVER, UNKNOWN
    used: int  # by the whole fleet, this grant included; may be above the limit
    held: int = 0  # slots only: by this machine, this grant included


class Reply(NamedTuple):
    number: int
    time_us: int  # the memory's clock
    answers: tuple[Answer, ...] = ()
    machines: int = 0  # Beat only
    epoch: int = 0  # Lease, TakeSlots: another one means that the hash slot's memory was lost in between
    since_us: int = 0  # up to then it has what the asker's memory had; 0: nothing, or nobody knows
    is_ours: bool = False  # Claim only
