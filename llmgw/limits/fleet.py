"""What machines ask of the memory they share, and a plain-Python model of that memory.

    Lease      deduct amounts up front, or say how long until enough has left
    Settle     give back, or add, once a reservation's true amount is known
    TakeSlots  the same for slots (`concurrent`), which a machine holds until it returns them
    GiveSlots
    Beat       this machine is alive: how many are

`Fleet` answers as the Lua scripts of `llmgw.store` do; a test holds them against each other. A call
is made once: an asker numbers its calls of one kind and tag upward and never has two of them in the
air, so the memory keeps the last reply alone. The number of that one brings the very same reply
again; a lower one is a late copy and changes nothing.

The sum of a ring is never below what was admitted in any window, for two reasons. A lease of bucket
b is used up or given up within its life, and b counts that much longer than the window. What is
given back for a reservation at `at_us` is taken from the oldest bucket that may have paid for it:
take it from an older one, and the sum is only larger than need be; if none is older, then all that
is left in younger ones still covers all later reservations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

REQUESTS, TOKENS, USD, SLOTS = 0, 1, 2, 3
NEVER, UNKNOWN = -1, -2
CALENDAR = -1

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
    at_us: int  # of the reservation, on the memory's clock, or earlier
    delta: int  # > 0: more was used than reserved


class Lease(NamedTuple):
    tag: str  # all rows of a call live in one hash slot
    asker: str
    number: int
    asks: tuple[Ask, ...]


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


class GiveSlots(NamedTuple):
    """`delta` < 0 returns; > 0 takes without asking, for what runs already. `at_us` is not looked at."""

    tag: str
    asker: str
    number: int
    machine: str
    entries: tuple[Entry, ...]


class Beat(NamedTuple):
    machine: str


Call = Lease | Settle | TakeSlots | GiveSlots | Beat


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


def share_out(ask: Ask, free: int) -> int:
    """How much of what is free one ask gets. At most `wanted`, and nothing below `least`."""
    if free < ask.least:
        return 0
    return min(ask.wanted, free, max(ask.need, ask.least, free // ask.parts))


@dataclass(slots=True)
class Ring:
    """Amounts by bucket number. `head` is the highest number that was seen."""

    amounts: dict[int, int] = field(default_factory=dict)
    head: int = 0

    @property
    def used(self) -> int:
        return sum(self.amounts.values())

    def advance(self, row: Row, now_us: int) -> None:
        head = bucket_of(row, now_us)
        ahead = sum(self.amounts.pop(number) for number in list(self.amounts) if number > head)
        self.add(head, ahead)  # the memory's clock went back: what lies ahead counts as of now
        for number in [number for number in self.amounts if head - number >= row.ring]:
            del self.amounts[number]
        self.head = head

    def add(self, number: int, amount: int) -> None:
        if amount:
            self.amounts[number] = self.amounts.get(number, 0) + amount

    def take_back(self, row: Row, at_us: int, amount: int) -> None:
        first = bucket_of(row, at_us - row.life_us) - 1
        last = bucket_of(row, at_us + row.life_us)
        for number in sorted(number for number in self.amounts if first <= number <= last):
            part = min(amount, self.amounts[number])
            self.amounts[number] -= part
            amount -= part

    def frees_us(self, row: Row, need: int, now_us: int) -> int:
        if not row.width_us:
            return max(row.end_us - now_us, 0)
        for number in sorted(self.amounts):
            need -= self.amounts[number]
            if need <= 0:
                return (number + row.ring) * row.width_us - now_us
        return NEVER


def bucket_of(row: Row, us: int) -> int:
    return us // row.width_us if row.width_us else 0


@dataclass(slots=True)
class Slots:
    held: dict[str, int] = field(default_factory=dict)
    seen_us: dict[str, int] = field(default_factory=dict)

    def hear(self, machine: str, now_us: int) -> None:
        """Who has not been heard of loses its slots."""
        for other in [other for other, seen in self.seen_us.items() if now_us - seen > DEAD_US]:
            self.held.pop(other, None)
            del self.seen_us[other]
        self.seen_us[machine] = now_us
        self.held.setdefault(machine, 0)

    @property
    def used(self) -> int:
        return sum(self.held.values())


class Fleet:
    """The shared memory itself. Bounded by its rows and askers, never by time: nothing here expires."""

    def __init__(self) -> None:
        self._rings: dict[tuple[str, int], Ring] = {}
        self._slots: dict[str, Slots] = {}
        self._replies: dict[tuple[str, ...], Reply] = {}
        self._beats: dict[str, int] = {}
        self._epochs: dict[str, int] = {}

    def exchange(self, calls: list[Call], now_us: int) -> list[Reply]:
        return [self.answer(call, now_us) for call in calls]

    def answer(self, call: Call, now_us: int) -> Reply:
        if isinstance(call, Beat):
            return self.beat(call, now_us)
        name = (type(call).__name__, call.tag, call.asker)
        last = self._replies.get(name)
        if last is None or last.number < call.number:
            last = self._replies[name] = self._act(call, now_us)
        return last

    def _act(self, call: Lease | Settle | TakeSlots | GiveSlots, now_us: int) -> Reply:
        if isinstance(call, Lease):
            return self.lease(call, now_us)
        if isinstance(call, Settle):
            return self.settle(call, now_us)
        if isinstance(call, TakeSlots):
            return self.take_slots(call, now_us)
        return self.give_slots(call, now_us)

    def lease(self, call: Lease, now_us: int) -> Reply:
        answers = tuple(self._grant(ask, now_us) for ask in call.asks)
        return Reply(call.number, now_us, answers, epoch=self._epochs.setdefault(call.tag, now_us))

    def _grant(self, ask: Ask, now_us: int) -> Answer:
        ring = self.ring(ask.row, now_us)
        free = ask.row.limit - ring.used
        if free < ask.least:
            return Answer(0, ring.frees_us(ask.row, ask.least - free, now_us), ring.used)
        granted = share_out(ask, free)
        ring.add(ring.head, granted)
        return Answer(granted, 0, ring.used)

    def settle(self, call: Settle, now_us: int) -> Reply:
        for row, at_us, delta in call.entries:
            ring = self.ring(row, now_us)
            if delta > 0:
                ring.add(ring.head, delta)
            else:
                ring.take_back(row, at_us, -delta)
        return Reply(call.number, now_us)

    def take_slots(self, call: TakeSlots, now_us: int) -> Reply:
        answers = []
        for ask in call.asks:
            slots = self.slots(ask.row, call.machine, now_us)
            slots.held[call.machine] = max(slots.held[call.machine], ask.held)
            free = ask.row.limit - slots.used
            granted = share_out(ask, free)
            slots.held[call.machine] += granted
            wait_us = UNKNOWN if free < ask.least else 0
            answers.append(Answer(granted, wait_us, slots.used, slots.held[call.machine]))
        epoch = self._epochs.setdefault(call.tag, now_us)
        return Reply(call.number, now_us, tuple(answers), epoch=epoch)

    def give_slots(self, call: GiveSlots, now_us: int) -> Reply:
        for row, _, delta in call.entries:
            slots = self.slots(row, call.machine, now_us)
            slots.held[call.machine] = max(slots.held[call.machine] + delta, 0)
        return Reply(call.number, now_us)

    def beat(self, call: Beat, now_us: int) -> Reply:
        self._beats[call.machine] = now_us
        self._beats = {name: seen for name, seen in self._beats.items() if now_us - seen <= DEAD_US}
        return Reply(0, now_us, machines=len(self._beats))

    def ring(self, row: Row, now_us: int) -> Ring:
        ring = self._rings.setdefault((row.key, row.start_us), Ring())
        ring.advance(row, now_us)
        return ring

    def slots(self, row: Row, machine: str, now_us: int) -> Slots:
        slots = self._slots.setdefault(row.key, Slots())
        slots.hear(machine, now_us)
        return slots
