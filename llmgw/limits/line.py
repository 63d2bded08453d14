"""The line at one gauge: who waits there, and whose turn it is.

    Line      one gauge
    └── Ring      one class (interactive, batch): deficit round robin over tenants
        └── Share     one tenant: the oldest first

A quantum is the mean cost of those who wait in the ring. So a turn is about one request for each unit
of weight, whether requests cost one or a million. And as no cost is more than the mean times the number
of waiters, whose turn it is takes at most about as many steps as there are waiters.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class Gauge(Protocol):
    """What is to be known here of the core's `Gauge`."""

    @property
    def key(self) -> bytes: ...
    @property
    def limit(self) -> int: ...
    @property
    def info(self) -> object: ...


class Refusal(Protocol):
    """What is to be known here of the core's `Refusal`."""

    @property
    def gauge(self) -> Gauge: ...
    @property
    def used(self) -> int: ...
    @property
    def requested(self) -> int: ...
    @property
    def wait_us(self) -> int: ...
    @property
    def reset_us(self) -> int: ...


class Waiter:
    """A request that waits, from `Queue.join` until `on_done` or `Queue.leave`.

    `admit(now_us)` tries the admission as a waiter. `on_done` is called once, unless the caller left:
    with the hold; with the last refusal, where the deadline has passed or cannot be met; with None,
    where the queue was full and the place went to one with a better claim. `gauges` are those that it
    cannot do without, whichever target it goes to: it passes none of them by where others wait.
    """

    __slots__ = (
        "admit",
        "deadline_us",
        "due_us",
        "gauges",
        "is_batch",
        "number",
        "on_done",
        "refusal",
        "share",
        "stood_at",
        "tenant",
        "tokens",
        "weight",
    )

    def __init__(
        self,
        tenant: str,
        weight: int,
        is_batch: bool,
        tokens: int,
        deadline_us: int,
        admit: Callable[[int], object],
        on_done: Callable[[object], None],
        gauges: tuple[Gauge, ...] = (),
    ) -> None:
        self.tenant = tenant
        self.weight = max(weight, 1)
        self.is_batch = is_batch
        self.tokens = max(tokens, 1)
        self.deadline_us = deadline_us
        self.admit = admit
        self.on_done = on_done
        self.gauges = gauges
        self.due_us = 0  # when trying again makes sense, by its own last refusal
        self.number = 0  # its age: lower is older
        self.refusal: Refusal | None = None
        self.share: Share | None = None  # where it stands; None: it waits no longer
        self.stood_at: set[bytes] = set()  # the gauges whose line it has had its turn in


class Heap:
    """Waiters by rank. Those that have gone stay until they are met, but never outnumber the rest."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, Waiter]] = []

    def push(self, rank: int, waiter: Waiter, living: int) -> None:
        if len(self.entries) > 2 * living + 8:
            self.entries = [entry for entry in self.entries if entry[2].share is not None]
            heapq.heapify(self.entries)
        heapq.heappush(self.entries, (rank, waiter.number, waiter))

    def first(self) -> Waiter | None:
        while self.entries and self.entries[0][2].share is None:
            heapq.heappop(self.entries)
        return self.entries[0][2] if self.entries else None

    def pop(self) -> None:
        heapq.heappop(self.entries)


class Share:
    """One tenant's waiters of one ring. `deficit` is what it may still take, in tokens."""

    __slots__ = ("by_age", "deficit", "living", "ring", "tenant", "weight")

    def __init__(self, ring: Ring, tenant: str) -> None:
        self.ring = ring
        self.tenant = tenant
        self.weight = 1
        self.deficit = 0
        self.living = 0
        self.by_age = Heap()

    def head(self) -> Waiter:
        head = self.by_age.first()
        assert head is not None, "a share without waiters leaves its ring"
        return head


class Ring:
    """The tenants of one class, in the order of their turns."""

    __slots__ = ("at_turn", "line", "living", "shares", "tokens")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.shares: OrderedDict[str, Share] = OrderedDict()
        self.at_turn: Share | None = None  # has had its quantum for this turn
        self.living = 0
        self.tokens = 0

    def turn(self) -> Share:
        """Who is to be served: it has credit for its oldest waiter, and keeps its turn until that is used."""
        while True:
            share = self._first()
            if share is not self.at_turn:
                share.deficit += self._quantum() * share.weight
                self.at_turn = share
            if share.deficit >= share.head().tokens:
                return share
            self.pass_turn()

    def pass_turn(self) -> None:
        self.shares.move_to_end(self._first().tenant)
        self.at_turn = None

    def _first(self) -> Share:
        return next(iter(self.shares.values()))

    def _quantum(self) -> int:
        return max(1, self.tokens // self.living)

    def add(self, waiter: Waiter) -> None:
        share = self.shares.get(waiter.tenant)
        if share is None:
            share = self.shares[waiter.tenant] = Share(self, waiter.tenant)
        share.weight = waiter.weight
        share.living += 1
        self.living += 1
        self.tokens += waiter.tokens
        share.by_age.push(waiter.number, waiter, share.living)
        waiter.share = share

    def drop(self, waiter: Waiter) -> None:
        share = waiter.share
        assert share is not None and share.ring is self
        waiter.share = None
        share.living -= 1
        self.living -= 1
        self.tokens -= waiter.tokens
        if not share.living:
            del self.shares[share.tenant]


class Line:
    """All who wait at one gauge. `due_us` is when its first one is to be tried."""

    __slots__ = ("batch", "due_us", "gauge", "head", "interactive", "is_unknown", "key", "tried_us")

    def __init__(self, gauge: Gauge, due_us: int) -> None:
        self.gauge = gauge
        self.key = gauge.key
        self.due_us = due_us
        self.tried_us = 0  # when the gauge refused its first one last
        self.is_unknown = False  # nobody knows when there is room
        self.interactive = Ring(self)
        self.batch = Ring(self)
        self.head: Waiter | None = None  # whom the gauge refused last

    def ring(self, is_batch: bool) -> Ring:
        return self.batch if is_batch else self.interactive

    def is_empty(self) -> bool:
        return not self.interactive.living and not self.batch.living

    def may_serve(self, is_batch: bool) -> bool:
        """Batch waiters have a turn only where no interactive one waits."""
        if is_batch:
            return not self.interactive.living and bool(self.batch.living)
        return bool(self.interactive.living)
