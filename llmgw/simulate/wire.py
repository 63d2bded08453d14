"""The way to Redis: it takes time, loses what it carries, and is gone for a while."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from llmgw.limits.fleet import DEAD_US, Beat, Call, Reply, Row
from llmgw.limits.memory import Fleet, Slots
from llmgw.simulate.clock import Clock
from llmgw.store.adapter import Counters, Store

JITTER = 0.2  # a round trip takes so much more or less


@dataclass(frozen=True, slots=True)
class Outage:
    """From so long after the beginning, for so long."""

    after_s: float
    length_s: float
    machines: int | None = None  # so many are cut off, the others are not; None: all are

    @property
    def words(self) -> list[float]:
        """As a document has it."""
        return [self.after_s, self.length_s, *([] if self.machines is None else [self.machines])]

    def covers(self, at_s: float, machine: int = 0) -> bool:
        is_cut = self.machines is None or machine < self.machines
        return is_cut and self.after_s <= at_s < self.after_s + self.length_s


@dataclass(slots=True)
class Roll(Slots):
    """Who was heard of when, the silent ones first: who is dead is found without asking for all others."""

    seen_us: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def hear(self, machine: str, now_us: int) -> None:
        while self.seen_us and now_us - self.seen_us[next(iter(self.seen_us))] > DEAD_US:
            dead, _ = self.seen_us.popitem(last=False)
            self.held.pop(dead, None)
        self.seen_us[machine] = now_us
        self.seen_us.move_to_end(machine)
        self.held.setdefault(machine, 0)


class LargeFleet(Fleet):
    """The model, for a thousand machines: a beat and a look at slots take as long as for one."""

    def __init__(self) -> None:
        super().__init__()
        self._living = Roll()

    def beat(self, call: Beat, now_us: int) -> Reply:
        self._living.hear(call.machine, now_us)
        self._beats = {}
        return super().beat(call, now_us)._replace(machines=len(self._living.seen_us))

    def slots(self, row: Row, machine: str, now_us: int) -> Slots:
        slots = self._slots.setdefault(row.key, Roll())
        slots.hear(machine, now_us)
        return slots


class Wire:
    """What all machines share: the store's plain model, its clock, and what happens on the way to it."""

    def __init__(
        self, clock: Clock, random: Random, rtt_s: float, loss: float, outages: Sequence[Outage]
    ) -> None:
        self.fleet = LargeFleet()
        self.round_trips = 0
        self.commands = 0
        self.kinds: Counter[str] = Counter()  # commands by what they ask
        self._clock = clock
        self._random = random
        self._rtt_s = rtt_s
        self._loss = loss
        self._outages = outages
        self._began_us = clock.now_us()

    def is_out(self, machine: int) -> bool:
        at_s = (self._clock.now_us() - self._began_us) / 1e6
        return any(outage.covers(at_s, machine) for outage in self._outages)

    async def carry(self, calls: Sequence[Call], deadline_s: float, machine: int = 0) -> list[Reply] | None:
        """None: no answer in time, and it may or may not have taken effect."""
        self.round_trips += 1
        self.commands += len(calls)
        self.kinds.update(type(call).__name__ for call in calls)
        rtt_s = self._rtt_s * self._random.uniform(1 - JITTER, 1 + JITTER)
        is_lost = self._random.random() < self._loss
        if self.is_out(machine) or (is_lost and self._random.random() < 0.5):
            await asyncio.sleep(deadline_s)
            return None
        await asyncio.sleep(min(rtt_s / 2, deadline_s))
        replies = self.fleet.exchange(list(calls), self._clock.now_us())
        if is_lost or rtt_s > deadline_s:
            await asyncio.sleep(max(deadline_s - rtt_s / 2, 0.0))
            return None
        await asyncio.sleep(rtt_s / 2)
        return replies


class SimulatedStore(Store):
    """One machine's store. What a store is beside its sockets is inherited."""

    def __init__(self, wire: Wire, deadline_s: float, machine: int = 0) -> None:
        super().__init__(cast("Any", None), "", deadline_s, Counters())
        self._wire = wire
        self._machine = machine

    async def _in_time(self, calls: Sequence[Call], deadline_s: float) -> list[Reply]:
        self.counters.commands += len(calls)
        replies = await self._wire.carry(calls, deadline_s, self._machine)
        if replies is None:
            raise self._failed("timeout")
        return replies

    async def close(self) -> None:
        """There is nothing to close."""
