"""Waiting instead of 429: who is tried next, and when. No clock, no socket, no task: `now_us` is given.

A waiter stands in the line of the gauge that refused it. What holds:

- Interactive before batch: where an interactive waiter waits, no batch waiter is tried.
- Between tenants deficit round robin over tokens, by weight; within a tenant the oldest first.
- Whoever is first in a line stays first until it is admitted, gone, too late, or refused elsewhere;
  nobody behind is tried before. So a large request does not starve behind small ones.
- One whose turn comes but whom another gauge refuses goes to the line there, by age, and holds up nobody
  here. It passes no gauge of its `gauges` by where others wait, before it has had its turn there too.
  So at most those pass a line's first one who had their turn in that line before: a finite number.
- Nobody waits past its deadline, nor where its deadline cannot be met.

How often one pump tries is bounded by tenants times gauges, however many wait, apart from the tries by
which a waiter leaves the queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeGuard

from llmgw._core.limiter import NEVER, UNKNOWN
from llmgw.limits.line import Gauge, Heap, Line, Refusal, Share, Waiter

# What is released by other processes is told through an eventfd; this is for what was not told.
RETRY_US = 50_000
# Even where the moment is known: the core's mark that somebody waits there lasts 2 s.
REFRESH_US = 1_000_000
# A tenant whose first waiters are all refused by one and the same other gauge goes on a little later.
SOON_US = 1_000


class Joined(Enum):
    """What became of a waiter that wants to join."""

    WAITS = auto()
    FULL = auto()
    LATE = auto()  # what it waits for comes after its deadline
    NEVER = auto()  # it is larger than the whole limit


def is_refusal(answer: object) -> TypeGuard[Refusal]:
    return hasattr(answer, "gauge")


def is_yielding(refusal: Refusal) -> bool:
    """There is room, but others wait for it: when it is this one's turn is for the queue to say."""
    return refusal.used + refusal.requested <= refusal.gauge.limit


def is_late(waiter: Waiter, wait_us: int, now_us: int) -> bool:
    return now_us + max(wait_us, 1) > waiter.deadline_us


def retry_at_us(refusal: Refusal, now_us: int) -> int:
    return now_us + (refusal.wait_us if refusal.wait_us >= 0 else RETRY_US)


def _nobody_asks(gauge: Gauge, is_batch: bool, is_waiting: bool) -> None: ...


class Queue:
    """At most `max_waiting` waiters. After `join`, `leave` and `woken`, pump.

    `on_line(gauge, is_batch, is_waiting)` is told when somebody of that class comes to wait in line at the
    gauge, again whenever the line's first one was refused, which is every REFRESH_US at least, and when
    nobody waits there any more.
    """

    def __init__(self, max_waiting: int, on_line: Callable[[Gauge, bool, bool], None] = _nobody_asks) -> None:
        self.max_waiting = max_waiting
        self.on_line = on_line
        self._lines: dict[bytes, Line] = {}
        self._by_deadline = Heap()
        # By class, then tenant: the waiters by age.
        self._tenants: tuple[dict[str, OrderedDict[Waiter, None]], ...] = ({}, {})
        self._depths = [0, 0]
        self._joined = 0

    def __len__(self) -> int:
        return sum(self._depths)

    def depth(self, is_batch: bool) -> int:
        return self._depths[is_batch]

    def join(self, waiter: Waiter, refusal: Refusal, now_us: int) -> Joined:
        """`refusal` is what it met as a newcomer. Once it waits, `on_done` tells what comes of it."""
        assert waiter.share is None and not waiter.number, "a waiter joins once"
        if refusal.wait_us == NEVER:
            return Joined.NEVER
        wait_us = UNKNOWN if is_yielding(refusal) else refusal.wait_us
        if is_late(waiter, wait_us, now_us):
            return Joined.LATE
        is_full = len(self) >= self.max_waiting
        loser = self._loser_to(waiter) if is_full else None
        if is_full and loser is None:
            return Joined.FULL
        self._joined += 1
        waiter.number = self._joined
        waiter.refusal = refusal
        waiter.due_us = retry_at_us(refusal, now_us)
        self._stand(waiter, refusal.gauge, now_us)
        self._enrol(waiter)
        if loser is not None:
            self._end(loser, None)
        return Joined.WAITS

    def leave(self, waiter: Waiter) -> None:
        """The caller has gone: nothing of it is called or kept any more. O(1); nothing where it is done."""
        if waiter.share is not None:
            self._remove(waiter)

    def woken(self, now_us: int) -> None:
        """Something was released, so that room may be there now, or sooner than was known.

        For a known moment that is only so where reservations come back: worth a try now and then.
        """
        for line in self._lines.values():
            worth_us = now_us if line.is_unknown else max(now_us, line.tried_us + RETRY_US)
            line.due_us = min(line.due_us, worth_us)

    def pump(self, now_us: int) -> int:
        """Tries whoever is due. Returns when it wants to be pumped next, 0 if nobody waits."""
        self._expire(now_us)
        due = [line for line in self._lines.values() if line.due_us <= now_us]
        refused: set[tuple[str, bytes]] = set()
        for is_batch in (False, True):
            for line in due:
                self._serve(line, is_batch, now_us, refused)
        return self._next_us(now_us)

    # Who is tried

    def _serve(self, line: Line, is_batch: bool, now_us: int, refused: set[tuple[str, bytes]]) -> None:
        """Tries the line's waiters in their order, until the line's own gauge refuses one."""
        put_off = 0
        while line.may_serve(is_batch) and put_off <= len(line.ring(is_batch).shares):
            share = line.ring(is_batch).turn()
            waiter = share.head()
            ahead = self._line_ahead(waiter, line)
            if ahead is not None:
                self._move(waiter, ahead.gauge, now_us)
                continue
            refusal = self._try(waiter, share, now_us)
            if refusal is None:
                continue
            elsewhere = refusal.gauge.key
            if elsewhere == line.key:
                self._block(line, waiter, refusal, now_us)
                return
            self._move(waiter, refusal.gauge, now_us)
            if (waiter.tenant, elsewhere) in refused:
                put_off += 1
                self._put_off(line, share, now_us)
            refused.add((waiter.tenant, elsewhere))

    def _try(self, waiter: Waiter, share: Share, now_us: int) -> Refusal | None:
        """None: the waiter is done, this way or the other."""
        answer = waiter.admit(now_us)
        if not is_refusal(answer):
            share.deficit -= waiter.tokens
            self._end(waiter, answer)
            return None
        waiter.refusal = answer
        waiter.due_us = retry_at_us(answer, now_us)
        if answer.wait_us == NEVER or is_late(waiter, answer.wait_us, now_us):
            self._end(waiter, answer)
            return None
        return answer

    def _line_ahead(self, waiter: Waiter, here: Line) -> Line | None:
        """Another line that it has to stand in before it may pass that gauge."""
        if len(self._lines) == 1:
            return None
        for gauge in waiter.gauges:
            line = self._lines.get(gauge.key)
            if line is None or line is here:
                continue
            if waiter.is_batch and line.interactive.living:
                return line
            if line.ring(waiter.is_batch).living and line.key not in waiter.stood_at:
                return line
        return None

    def _put_off(self, line: Line, share: Share, now_us: int) -> None:
        ring = share.ring
        if share.living and next(iter(ring.shares)) == share.tenant:
            ring.pass_turn()
        line.due_us = now_us + SOON_US
        line.is_unknown = True

    def _block(self, line: Line, waiter: Waiter, refusal: Refusal, now_us: int) -> None:
        line.head = waiter
        line.tried_us = now_us
        line.due_us = min(waiter.due_us, now_us + REFRESH_US)
        line.is_unknown = refusal.wait_us == UNKNOWN
        self.on_line(line.gauge, waiter.is_batch, True)

    def _expire(self, now_us: int) -> None:
        while (waiter := self._by_deadline.first()) is not None and waiter.deadline_us < now_us:
            self._end(waiter, waiter.refusal)

    def _next_us(self, now_us: int) -> int:
        first = self._by_deadline.first()
        if first is None:
            return 0
        due_us = min(line.due_us for line in self._lines.values())
        return max(min(due_us, first.deadline_us + 1), now_us + 1)

    # Who stands where

    def _stand(self, waiter: Waiter, gauge: Gauge, due_us: int) -> None:
        """`due_us` is when to try it where it is the first of its class."""
        line = self._lines.get(gauge.key)
        if line is None:
            line = self._lines[gauge.key] = Line(gauge, due_us)
        ring = line.ring(waiter.is_batch)
        if not ring.living:
            line.due_us = min(line.due_us, due_us)
            self.on_line(gauge, waiter.is_batch, True)
        ring.add(waiter)

    def _move(self, waiter: Waiter, gauge: Gauge, now_us: int) -> None:
        """To another line, after its turn in this one."""
        share = waiter.share
        assert share is not None and share.head() is waiter
        waiter.stood_at.add(share.ring.line.key)
        share.by_age.pop()
        self._unstand(waiter)
        self._stand(waiter, gauge, min(waiter.due_us, now_us + REFRESH_US))

    def _unstand(self, waiter: Waiter) -> Line:
        share = waiter.share
        assert share is not None
        line = share.ring.line
        share.ring.drop(waiter)
        if not line.ring(waiter.is_batch).living:
            self.on_line(line.gauge, waiter.is_batch, False)
        if line.is_empty():
            del self._lines[line.key]
        return line

    # Who is in the queue

    def _enrol(self, waiter: Waiter) -> None:
        self._depths[waiter.is_batch] += 1
        self._tenants[waiter.is_batch].setdefault(waiter.tenant, OrderedDict())[waiter] = None
        self._by_deadline.push(waiter.deadline_us, waiter, len(self))

    def _remove(self, waiter: Waiter) -> None:
        line = self._unstand(waiter)
        if line.head is waiter:  # who was held up behind it may fit
            line.due_us = 0
            line.head = None
        self._depths[waiter.is_batch] -= 1
        tenants = self._tenants[waiter.is_batch]
        del tenants[waiter.tenant][waiter]
        if not tenants[waiter.tenant]:
            del tenants[waiter.tenant]
        waiter.admit = waiter.on_done = _nothing  # the heaps keep it for a while, but not its request

    def _end(self, waiter: Waiter, outcome: object) -> None:
        on_done = waiter.on_done
        self._remove(waiter)
        on_done(outcome)

    def _loser_to(self, waiter: Waiter) -> Waiter | None:
        """Who makes room in a full queue: the youngest of the tenant that has most, for its weight.

        Batch waiters make room for interactive ones; within a class a tenant only gains what leaves it with
        no more than the other keeps. So one tenant cannot fill the queue for all.
        """
        interactive, batch = self._tenants
        if not waiter.is_batch and batch:
            return youngest_of_largest(batch)
        own = batch if waiter.is_batch else interactive
        if not own:
            return None
        loser = youngest_of_largest(own)
        gained = (len(own.get(waiter.tenant, ())) + 1) * loser.weight
        kept = (len(own[loser.tenant]) - 1) * waiter.weight
        return loser if gained <= kept else None


def youngest_of_largest(tenants: dict[str, OrderedDict[Waiter, None]]) -> Waiter:
    """O(tenants), in a full queue only."""
    return max(
        (next(reversed(waiters)) for waiters in tenants.values()),
        key=lambda waiter: len(tenants[waiter.tenant]) / waiter.weight,
    )


def _nothing(_: object) -> None:
    """What is left of a waiter that has gone."""


__all__ = ["Joined", "Queue", "Waiter"]
