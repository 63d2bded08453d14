"""A world for the queue: gauges with simulated windows, callers that ask and wait, one virtual clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from llmgw.limits.queue import Joined, Queue, Waiter

NEVER, UNKNOWN = -1, -2
SECOND_US = 1_000_000


class FakeGauge:
    """At most `limit` in any `window_us`; slots (until given back) where that is 0."""

    def __init__(self, name: str, limit: int, window_us: int = SECOND_US) -> None:
        self.key = name.encode().ljust(16, b".")
        self.limit = limit
        self.window_us = window_us
        self.info = name
        self.taken: deque[tuple[int, int]] = deque()
        self.used = 0

    def forget(self, now_us: int) -> None:
        while self.window_us and self.taken and self.taken[0][0] + self.window_us <= now_us:
            self.used -= self.taken.popleft()[1]

    def wait_us(self, amount: int, now_us: int) -> int:
        self.forget(now_us)
        if amount > self.limit:
            return NEVER
        over = self.used + amount - self.limit
        if over <= 0:
            return 0
        if not self.window_us:
            return UNKNOWN
        for at_us, taken in self.taken:
            over -= taken
            if over <= 0:
                return at_us + self.window_us - now_us
        raise AssertionError("more is used than was taken")

    def take(self, amount: int, now_us: int) -> None:
        self.used += amount
        self.taken.append((now_us, amount))

    def give_back(self, amount: int) -> None:
        assert not self.window_us
        self.used -= amount


@dataclass
class FakeRefusal:
    gauge: FakeGauge
    used: int
    requested: int
    wait_us: int


@dataclass(eq=False)
class Caller:
    """`needs`: how much of which gauge."""

    world: World
    name: str
    needs: list[tuple[FakeGauge, int]]
    is_told: bool = True
    waiter: Any = None
    outcomes: list[Any] = field(default_factory=list)
    tries: int = 0

    def admit(self, now_us: int) -> Any:
        self.tries += 1
        self.world.tries += 1
        self.world.tried.append(self.name)
        waits = [(gauge.wait_us(amount, now_us), gauge, amount) for gauge, amount in self.needs]
        blocked = [wait for wait in waits if wait[0]]
        if not blocked:
            for gauge, amount in self.needs:
                gauge.take(amount, now_us)
            return f"hold of {self.name}"
        wait_us, gauge, amount = max(blocked, key=lambda wait: (wait[0] == NEVER, wait[0]))
        return FakeRefusal(gauge, gauge.used, amount, wait_us)

    def on_done(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        self.world.done.append(self)
        if self.is_admitted:
            self.world.admitted.append(self.name)

    @property
    def is_admitted(self) -> bool:
        return self.outcomes == [f"hold of {self.name}"]


class World:
    def __init__(self, max_waiting: int = 1000) -> None:
        self.queue = Queue(max_waiting)
        self.now_us = 10 * SECOND_US
        self.tries = 0
        self.tried: list[str] = []
        self.admitted: list[str] = []
        self.done: list[Caller] = []
        self.next_us = 0

    def caller(
        self,
        name: str,
        needs: list[tuple[FakeGauge, int]],
        *,
        tenant: str = "acme",
        weight: int = 1,
        is_batch: bool = False,
        max_wait_us: int = 3600 * SECOND_US,
        tokens: int = 1,
        is_told: bool = True,
    ) -> Caller:
        caller = Caller(self, name, needs)
        gauges = tuple(gauge for gauge, _ in needs) if is_told else ()
        caller.waiter = Waiter(
            tenant, weight, is_batch, tokens, self.now_us + max_wait_us, caller.admit, caller.on_done, gauges
        )
        return caller

    def wait(self, name: str, needs: list[tuple[FakeGauge, int]], **how: Any) -> Caller:
        """A caller that is refused as a newcomer, and waits."""
        caller = self.caller(name, needs, **how)
        assert self.join(caller) is Joined.WAITS
        return caller

    def join(self, caller: Caller) -> Joined:
        refusal = caller.admit(self.now_us)
        assert isinstance(refusal, FakeRefusal), "there was room"
        return self.queue.join(caller.waiter, refusal, self.now_us)

    def pump(self, after_us: int = 0) -> int:
        self.now_us += after_us
        self.next_us = self.queue.pump(self.now_us)
        assert self.next_us == 0 or self.next_us > self.now_us
        return self.next_us

    def run(self, duration_us: int) -> None:
        """Pumps exactly when the queue asks for it."""
        end_us = self.now_us + duration_us
        self.pump()
        while self.next_us and self.next_us <= end_us:
            self.now_us = self.next_us
            self.pump()
        self.now_us = end_us

    def release(self, gauge: FakeGauge, amount: int = 1) -> None:
        gauge.give_back(amount)
        self.queue.woken(self.now_us)
        self.pump()
