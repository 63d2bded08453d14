"""What is asked of Redis, gathered by hash slot: for requests that wait, for the tick, and to look."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmgw._core.limiter import Limiter
from llmgw.limits import lease
from llmgw.limits.fleet import Ask, Lease, TakeSlots
from llmgw.store.line import Line
from llmgw.store.watch import Watch

ROWS_MAX = 128  # of one exchange: some 2 ms of Redis' time
LOOK_US = 250_000  # between two questions whether a limit is still reached
LOOK_MACHINES = 16  # so many machines more make it so much longer


class Asks:
    """One for each row."""

    def __init__(self) -> None:
        self._by_tag: dict[tuple[str, bool], list[Ask]] = {}
        self._heard: dict[tuple[str, bool], tuple[int, int]] = {}  # epoch, and when it answered last
        self._keys: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, watch: Watch, ask: Ask) -> None:
        self._keys.add(ask.row.key)
        place = watch.tag, watch.is_slots
        self._by_tag.setdefault(place, []).append(ask)
        self._heard[place] = max(self._heard.get(place, (0, 0)), (watch.epoch, watch.heard_us))

    def batches(self, line: Line, machine: str) -> Iterator[list[Lease | TakeSlots]]:
        """One exchange after another, numbered as they are taken; an empty one where nothing is asked.

        A hash slot is asked twice only in two exchanges: of each asker, Redis keeps its last reply there.
        """
        batch: list[Lease | TakeSlots] = []
        rows = 0
        for (tag, is_slots), asks in self._by_tag.items():
            for first in range(0, len(asks), ROWS_MAX):
                part = tuple(asks[first : first + ROWS_MAX])
                if rows + len(part) > ROWS_MAX:
                    yield batch
                    batch, rows = [], 0
                rows += len(part)
                number, heard = line.next_number(), self._heard[tag, is_slots]
                batch.append(
                    TakeSlots(tag, line.asker, number, machine, part, *heard)
                    if is_slots
                    else Lease(tag, line.asker, number, part, *heard)
                )
        yield batch


class Waiting:
    """Requests that wait for one gauge's lease."""

    __slots__ = ("least", "total", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.least = 0
        self.total = 0

    def add(self, amount: int) -> None:
        self.least = min(self.least or amount, amount)
        self.total += amount

    def ask(self, machines: int) -> Ask:
        """For all of them, and for those that will come next."""
        row = self.watch.row
        wanted = max(self.total, min(self.total + self.watch.demand.target, row.limit))
        return Ask(row, wanted, self.total, max(self.least, 1), lease.parts_of(machines))


def top_up(limiter: Limiter, watch: Watch, machines: int, now_us: int) -> Ask | None:
    """For what runs low; of what is refused, whether it still is."""
    if watch.ask_again_us > now_us:
        return None
    if watch.blocked_us > now_us:
        watch.ask_again_us = now_us + look_us(machines)
        return Ask(watch.row, 0, 0, watch.least, 1)
    wanted = lease.top_up(watch.demand, limiter.lease_left(watch.gauge, now_us), watch.row.limit)
    if wanted <= 0:
        return None
    watch.ask_again_us = now_us + lease.TICK_US
    least = min(max(math.ceil(watch.demand.size), 1), wanted)  # a part of a request is of use to others
    return Ask(watch.row, wanted, 0, least, lease.parts_of(machines))


def look(limiter: Limiter, watch: Watch, now_us: int) -> Ask:
    """Takes nothing. Of slots it says how many the machine holds."""
    held = 0
    if watch.is_slots:
        held = limiter.read(watch.gauge, now_us)[0] + limiter.lease_left(watch.gauge, now_us)
    return Ask(watch.row, 0, 0, 1, 1, held)


def look_us(machines: int) -> int:
    return LOOK_US * (1 + machines // LOOK_MACHINES)
