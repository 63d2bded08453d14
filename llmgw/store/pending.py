"""What is to be told to Redis: returns and overruns, gathered by gauge and bucket until they are sent."""

from __future__ import annotations

from dataclasses import dataclass

from llmgw.limits.fleet import Entry, GiveSlots, Row, Settle
from llmgw.limits.lease import phase_us
from llmgw.store.line import Line
from llmgw.store.watch import Watch

BATCH = 256  # entries of one sending: some 2 ms of Redis' time


@dataclass(slots=True)
class Item:
    tag: str
    row: Row
    at_us: int  # on the machine's clock, the beginning of its bucket
    delta: int = 0


class Pending:
    """Bounded by the gauges watched times the buckets of a window: one bucket's differences are one item."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, int, bool], Item] = {}

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, watch: Watch, at_us: int, delta: int, *, is_unused: bool = False) -> None:
        """`is_unused`: it comes back from a lease, not from a reservation."""
        if not delta:
            return
        row = watch.row
        width_us = row.width_us or 1
        at_us = at_us // width_us * width_us if row.width_us else row.start_us
        item = self._items.setdefault((row.key, at_us, is_unused), Item(watch.tag, row, at_us))
        item.row = row
        item.delta += delta

    def take_since(self, watch: Watch, at_us: int) -> int:
        """Removes the differences of this gauge's reservations from a moment on; their sum.

        Those of the bucket that the moment lies in stay: they may be of what was admitted before it.
        """
        key = watch.row.key
        found = [place for place in self._items if place[0] == key and place[1] >= at_us and not place[2]]
        return sum(self._items.pop(place).delta for place in found)

    def drop(self, key: str) -> None:
        self._items = {place: item for place, item in self._items.items() if place[0] != key}

    def calls(self, line: Line, machine: str, now_us: int, offset_us: int | None) -> list[Settle | GiveSlots]:
        """Hands the oldest over to the line, which never loses them. `offset_us`: Redis' clock less ours.

        What is added comes first: what is returned may have been paid with it.
        """
        if offset_us is None:
            return []
        entries: dict[tuple[str, bool], list[Entry]] = {}
        oldest = [self._items.pop(place) for place in list(self._items)[:BATCH]]
        for item in sorted(oldest, key=lambda item: item.delta < 0):
            if item.delta and not has_left(item, now_us):
                entry = Entry(item.row, max(item.at_us + offset_us, 0), item.delta)
                entries.setdefault((item.tag, item.row.window_us == 0), []).append(entry)
        return [
            GiveSlots(tag, line.asker, line.next_number(), machine, tuple(found))
            if is_slots
            else Settle(tag, line.asker, line.next_number(), tuple(found))
            for (tag, is_slots), found in entries.items()
        ]


def has_left(item: Item, now_us: int) -> bool:
    """Whether a return comes too late to matter. What was used beyond always matters."""
    return item.delta < 0 and item.row.window_us > 0 and now_us - item.at_us > phase_us(item.row)
