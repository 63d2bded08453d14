"""What stands behind a target: so many places, times to first token and of streams, errors, bad periods."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any, Final, Protocol

from llmgw.routing.causes import Cause
from llmgw.routing.healths import to_us
from llmgw.simulate.strategies_targets import SimulatedTarget

REFUSED_US: Final = 20_000  # until an error is there: one round trip


class Agenda:
    """What happens when; of what happens at the same time, what was noted first."""

    def __init__(self) -> None:
        self.now_us = 0
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()

    def note(self, at_us: int, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (max(at_us, self.now_us), next(self._number), act, args))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now_us, _, act, args = heapq.heappop(self._events)
            act(*args)


class Asked(Protocol):
    """One request to one target, of which it hears one of: `on_failure`; `on_first_token`, then `on_end`."""

    def on_first_token(self) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self, cause: Cause, stated_s: float | None = None) -> None: ...


class SimulatedUpstream:
    def __init__(self, target: SimulatedTarget, agenda: Agenda, random: Random, first_token_s: float) -> None:
        self.target = target
        self.busy = 0
        self._agenda = agenda
        self._random = random
        self._patience_us = to_us(first_token_s)
        self._queue: dict[Asked, int] = {}  # in the order of arrival; until when each stays

    def ask(self, attempt: Asked) -> None:
        now_us, target = self._agenda.now_us, self.target
        is_broken = self._random.random() < target.errors
        if is_broken or target.is_down(now_us / 1e6):
            self._agenda.note(now_us + REFUSED_US, attempt.on_failure, Cause.SERVER_ERROR)
        elif self.busy < target.capacity:
            self._begin(attempt, now_us + self._patience_us)
        elif target.when_full == "queue":
            self._queue[attempt] = now_us + self._patience_us
            self._agenda.note(now_us + self._patience_us, self._leave_queue, attempt)
        else:
            self._agenda.note(now_us + REFUSED_US, attempt.on_failure, Cause.RATE_LIMIT, target.retry_after_s)

    def _begin(self, attempt: Asked, silent_us: int) -> None:
        """`silent_us`: nobody waits longer for the first token."""
        now_us, target = self._agenda.now_us, self.target
        slowness = target.slowness(now_us / 1e6)
        first_us = now_us + to_us(target.first_token.value(self._random) * slowness)
        end_us = first_us + to_us(target.streaming.value(self._random) * slowness)
        self.busy += 1
        if first_us > silent_us:
            self._agenda.note(silent_us, self._give_up, attempt)
            return
        self._agenda.note(first_us, attempt.on_first_token)
        self._agenda.note(end_us, self._end, attempt)

    def _end(self, attempt: Asked) -> None:
        self._free()
        attempt.on_end()

    def _give_up(self, attempt: Asked) -> None:
        self._free()
        attempt.on_failure(Cause.TIMEOUT)

    def _leave_queue(self, attempt: Asked) -> None:
        if self._queue.pop(attempt, None) is not None:
            attempt.on_failure(Cause.TIMEOUT)

    def _free(self) -> None:
        self.busy -= 1
        if self._queue:
            first = next(iter(self._queue))
            self._begin(first, self._queue.pop(first))
