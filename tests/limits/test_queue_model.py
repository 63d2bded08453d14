"""The queue against a plain one, in every order of events."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queueworld import SECOND_US, UNKNOWN, Caller, FakeGauge, FakeRefusal, World

from llmgw.limits.queue import Joined

TENANTS = {"a": 1, "b": 2, "c": 5}  # by weight
DEADLINES = st.integers(0, 2_000).map(lambda ms: ms * 1000 + 1)  # odd, as no pump's moment is


class PlainRing:
    """Deficit round robin with every round played, over lists."""

    def __init__(self) -> None:
        self.waiting: list[Caller] = []
        self.tenants: list[str] = []
        self.deficits: dict[str, int] = {}
        self.has_quantum = ""

    def add(self, caller: Caller) -> None:
        self.waiting.append(caller)
        tenant = caller.waiter.tenant
        if tenant not in self.tenants:
            self.tenants.append(tenant)
            self.deficits[tenant] = 0

    def drop(self, caller: Caller) -> None:
        self.waiting.remove(caller)
        tenant = caller.waiter.tenant
        if all(other.waiter.tenant != tenant for other in self.waiting):
            self.tenants.remove(tenant)
            if self.has_quantum == tenant:
                self.has_quantum = ""

    def turn(self) -> Caller:
        while True:
            tenant = self.tenants[0]
            if self.has_quantum != tenant:
                self.has_quantum = tenant
                mean = sum(caller.waiter.tokens for caller in self.waiting) // len(self.waiting)
                self.deficits[tenant] += mean * TENANTS[tenant]
            oldest = next(caller for caller in self.waiting if caller.waiter.tenant == tenant)
            if self.deficits[tenant] >= oldest.waiter.tokens:
                return oldest
            self.tenants.append(self.tenants.pop(0))
            self.has_quantum = ""


class OneGauge(RuleBasedStateMachine):
    """All wait for slots of one gauge: the very order is the plain queue's."""

    @initialize(slots=st.integers(1, 4), places=st.integers(1, 12))
    def begin(self, slots: int, places: int) -> None:
        self.world = World(places)
        self.slots = FakeGauge("slots", slots, 0)
        self.slots.take(slots, self.world.now_us)
        self.rings = (PlainRing(), PlainRing())
        self.order: list[str] = []
        self.all: list[Caller] = []
        self.left: list[Caller] = []
        self.expired: list[Caller] = []

    def waiting(self) -> list[Caller]:
        return self.rings[0].waiting + self.rings[1].waiting

    @precondition(lambda self: len(self.waiting()) < self.world.queue.max_waiting)
    @rule(
        tenant=st.sampled_from(sorted(TENANTS)),
        tokens=st.integers(1, 2000),
        amount=st.integers(1, 4),
        is_batch=st.booleans(),
        wait_us=DEADLINES,
    )
    def join(self, tenant: str, tokens: int, amount: int, is_batch: bool, wait_us: int) -> None:
        amount = min(amount, self.slots.limit)
        caller = self.world.caller(
            f"{len(self.all)}",
            [(self.slots, amount)],
            tenant=tenant,
            weight=TENANTS[tenant],
            tokens=tokens,
            is_batch=is_batch,
            max_wait_us=wait_us,
        )
        refusal = FakeRefusal(self.slots, self.slots.used, amount, UNKNOWN)
        assert self.world.queue.join(caller.waiter, refusal, self.world.now_us) is Joined.WAITS
        self.all.append(caller)
        self.rings[is_batch].add(caller)
        self.pump()

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        caller = data.draw(st.sampled_from(self.waiting()))
        ring = self.rings[caller.waiter.is_batch]
        self.world.queue.leave(caller.waiter)
        ring.drop(caller)
        self.left.append(caller)
        self.pump()

    @precondition(lambda self: self.slots.used)
    @rule(amount=st.integers(1, 4))
    def release(self, amount: int) -> None:
        self.slots.give_back(min(amount, self.slots.used))
        self.world.queue.woken(self.world.now_us)
        self.pump()

    @rule(ms=st.integers(1, 500))
    def time_passes(self, ms: int) -> None:
        self.world.now_us += ms * 1000
        self.pump()

    def pump(self) -> None:
        free = self.slots.limit - self.slots.used
        now_us = self.world.now_us
        for ring in self.rings:
            for caller in [caller for caller in ring.waiting if caller.waiter.deadline_us < now_us]:
                ring.drop(caller)
                self.expired.append(caller)
        while self.waiting():
            ring = self.rings[0] if self.rings[0].waiting else self.rings[1]
            caller = ring.turn()
            amount = caller.needs[0][1]
            if amount > free:
                break
            free -= amount
            ring.deficits[caller.waiter.tenant] -= caller.waiter.tokens
            ring.drop(caller)
            self.order.append(caller.name)
        self.world.pump()

    @invariant()
    def order_and_numbers_are_the_plain_queues(self) -> None:
        queue = self.world.queue
        assert self.world.admitted == self.order
        assert (queue.depth(False), queue.depth(True)) == tuple(len(ring.waiting) for ring in self.rings)
        for caller in self.expired:
            assert len(caller.outcomes) == 1 and not caller.is_admitted
        for caller in self.left + self.waiting():
            assert not caller.outcomes


class ManyGauges(RuleBasedStateMachine):
    """Slots and windows of provider, tenants and keys, in any mixture."""

    @initialize(places=st.integers(1, 15))
    def begin(self, places: int) -> None:
        self.world = World(places)
        self.provider = FakeGauge("provider", 3, 0)
        self.pace = FakeGauge("pace", 200)
        self.own = {
            f"{tenant}{key}": FakeGauge(f"{tenant}{key}", 100, SECOND_US // 2)
            for tenant in TENANTS
            for key in "xy"
        }
        self.tenants = {tenant: FakeGauge(tenant, 150) for tenant in TENANTS}
        self.all: list[Caller] = []
        self.left: set[Caller] = set()
        self.full: set[Caller] = set()
        self.held = 0

    @rule(
        tenant=st.sampled_from(sorted(TENANTS)),
        key=st.sampled_from("xy"),
        tokens=st.integers(1, 100),
        is_batch=st.booleans(),
        wait_us=st.one_of(DEADLINES, st.just(1000 * SECOND_US)),
        is_told=st.booleans(),
    )
    def ask(self, tenant: str, key: str, tokens: int, is_batch: bool, wait_us: int, is_told: bool) -> None:
        needs = [
            (self.provider, 1),
            (self.pace, tokens),
            (self.tenants[tenant], tokens),
            (self.own[tenant + key], tokens),
        ]
        caller = self.world.caller(
            f"{len(self.all)}",
            needs,
            tenant=tenant,
            weight=TENANTS[tenant],
            tokens=tokens,
            is_batch=is_batch,
            max_wait_us=wait_us,
            is_told=is_told,
        )
        caller.waiter.on_done = lambda outcome: self.done(caller, outcome)
        refusal = caller.admit(self.world.now_us)
        if not isinstance(refusal, FakeRefusal):
            self.held += 1
            return
        joined = self.world.queue.join(caller.waiter, refusal, self.world.now_us)
        assert joined is not Joined.NEVER
        if joined is Joined.WAITS:
            self.all.append(caller)
        elif joined is Joined.LATE:
            assert refusal.wait_us > wait_us
        else:
            assert len(self.world.queue) == self.world.queue.max_waiting

    def done(self, caller: Caller, outcome: Any) -> None:
        assert caller not in self.left
        caller.on_done(outcome)
        if caller.is_admitted:
            self.held += 1
            assert self.world.now_us <= caller.waiter.deadline_us
            if caller.waiter.is_batch:
                self.nobody_interactive_stands_where(caller)

    def nobody_interactive_stands_where(self, caller: Caller) -> None:
        for gauge in caller.waiter.gauges:
            line = self.world.queue._lines.get(gauge.key)
            assert line is None or not line.interactive.living

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.all if not caller.outcomes and caller not in self.left]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        caller = data.draw(st.sampled_from(self.waiting()))
        self.left.add(caller)
        self.world.queue.leave(caller.waiter)

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.held -= 1
        self.world.release(self.provider)

    @rule(ms=st.integers(1, 500))
    def pump_when_asked(self, ms: int) -> None:
        self.world.run(ms * 1000)

    @rule(ms=st.integers(1, 500))
    def pump_late(self, ms: int) -> None:
        self.world.pump(after_us=ms * 1000)
        assert all(caller.waiter.deadline_us >= self.world.now_us for caller in self.waiting())

    @invariant()
    def each_hears_once_at_most_and_the_numbers_are_right(self) -> None:
        queue = self.world.queue
        assert len(queue) == len(self.waiting()) <= queue.max_waiting
        assert sum(line.interactive.living + line.batch.living for line in queue._lines.values()) == len(
            queue
        )
        assert all(len(caller.outcomes) <= 1 for caller in self.all)
        assert not any(caller.outcomes for caller in self.left)

    def teardown(self) -> None:
        """Whoever has time is served in the end."""
        if not hasattr(self, "world"):
            return
        patient = [
            caller
            for caller in self.waiting()
            if caller.waiter.deadline_us > self.world.now_us + 100 * SECOND_US
        ]
        for _ in range(100):
            while self.held:
                self.release()
            self.world.run(SECOND_US)
        assert all(caller.is_admitted for caller in patient)
        assert len(self.world.queue) == 0


TestOneGauge = OneGauge.TestCase
TestOneGauge.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestManyGauges = ManyGauges.TestCase
TestManyGauges.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
