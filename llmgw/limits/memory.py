"""A plain-Python model of the memory that machines share.

`Fleet` answers as the Lua scripts of `llmgw.store` do; a test holds them against each other. It also stands
in for Redis in simulations.

The sum of a ring is never below what was admitted in any window, for two reasons. A lease of bucket
b is used up or given up within its life, and b counts that much longer than the window. What is
given back for a reservation at `at_us` is taken from the oldest bucket that may have paid for it:
take it from an older one, and the sum is only larger than need be; if none is older, then all that
is left in younger ones still covers all later reservations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmgw._core.limiter import NEVER, UNKNOWN
from llmgw.limits.fleet import (
    DEAD_US,
    Answer,
    Ask,
    Beat,
    Call,
    Claim,
    GiveSlots,
    Lease,
    Reply,
    Row,
    Settle,
    TakeSlots,
)


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
        last = bucket_of(row, at_us + row.life_us + row.width_us)
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


@dataclass(slots=True)
class Memory:
    """Of a hash slot. It went on from a copy of memory `before` where `since_us` is not 0."""

    epoch: int
    before: int = 0
    since_us: int = 0
    stamp_us: int = 0  # of the last call


class Fleet:
    """The shared memory itself. Bounded by its rows and askers, never by time: nothing here expires."""

    def __init__(self) -> None:
        self._rings: dict[tuple[str, int], Ring] = {}
        self._slots: dict[str, Slots] = {}
        self._replies: dict[tuple[str, ...], Reply] = {}
        self._beats: dict[str, int] = {}
        self._memories: dict[str, Memory] = {}
        self._words: dict[str, tuple[str, int]] = {}  # whose, until when

    def exchange(self, calls: list[Call], now_us: int) -> list[Reply]:
        return [self.answer(call, now_us) for call in calls]

    def answer(self, call: Call, now_us: int) -> Reply:
        if isinstance(call, Beat):
            return self.beat(call, now_us)
        if isinstance(call, Claim):
            return self.claim(call, now_us)
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
        return self._signed(call, now_us, answers)

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
        return self._signed(call, now_us, tuple(answers))

    def _signed(self, call: Lease | TakeSlots, now_us: int, answers: tuple[Answer, ...]) -> Reply:
        """Says which memory it is. One that is older than the asker knew is another one from now on."""
        fresh = Memory(max(now_us, call.epoch + 1))
        memory = self._memories.setdefault(call.tag, fresh)
        is_older = memory.epoch == call.epoch and memory.stamp_us < call.heard_us
        if memory.epoch < call.epoch or is_older:
            fresh.before, fresh.since_us, fresh.stamp_us = call.epoch, memory.stamp_us, memory.stamp_us
            memory = self._memories[call.tag] = fresh
        memory.stamp_us = max(memory.stamp_us, now_us)
        since_us = memory.since_us if call.epoch == memory.before else 0
        return Reply(call.number, now_us, answers, epoch=memory.epoch, since_us=since_us)

    def give_slots(self, call: GiveSlots, now_us: int) -> Reply:
        for row, _, delta in call.entries:
            slots = self.slots(row, call.machine, now_us)
            slots.held[call.machine] = max(slots.held[call.machine] + delta, 0)
        return Reply(call.number, now_us)

    def beat(self, call: Beat, now_us: int) -> Reply:
        self._beats[call.machine] = now_us
        self._beats = {name: seen for name, seen in self._beats.items() if now_us - seen <= DEAD_US}
        return Reply(0, now_us, machines=len(self._beats))

    def claim(self, call: Claim, now_us: int) -> Reply:
        whose, until_us = self._words.get(call.word, ("", 0))
        if not call.stays_us:
            self._words.pop(call.word, None)
            return Reply(0, now_us)
        if until_us <= now_us:
            whose = call.machine
            self._words[call.word] = whose, now_us + call.stays_us
        return Reply(0, now_us, is_ours=whose == call.machine)

    def ring(self, row: Row, now_us: int) -> Ring:
        ring = self._rings.setdefault((row.key, row.start_us), Ring())
        ring.advance(row, now_us)
        return ring

    def slots(self, row: Row, machine: str, now_us: int) -> Slots:
        slots = self._slots.setdefault(row.key, Slots())
        slots.hear(machine, now_us)
        return slots
