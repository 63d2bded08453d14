"""What a worker knows of one shared gauge, and the gauges that it watches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from llmgw._core.limiter import SLOTS, Gauge, Limiter
from llmgw.limits.fleet import Row
from llmgw.limits.lease import Demand, Known, Own

WATCHED_MAX = 4096  # beside those of the configuration
EXCESS_LOOKS = 4
IDLE_US = 5_000_000  # beyond the life of a lease


class Watch:
    """`gauge` is the newest of its key: a reload makes others."""

    __slots__ = (
        "active_until_us",
        "admitted",
        "ask_again_us",
        "blocked_us",
        "demand",
        "epoch",
        "excess",
        "gauge",
        "heard_us",
        "is_ours",
        "known",
        "least",
        "lost_us",
        "own",
        "row",
        "tag",
    )

    def __init__(self, gauge: Gauge, tag: str, limiter: Limiter, now_us: int) -> None:
        self.gauge = gauge
        self.tag = tag
        self.row = row_of(gauge)
        self.known: Known | None = None
        self.epoch, self.heard_us = limiter.heard(gauge)  # of Redis' memory that counts this
        self.admitted = limiter.leased(gauge)  # at the loss
        self.demand = Demand(self.row.life_us, self.admitted, now_us)
        self.own = Own(0, 0)  # at the loss
        self.active_until_us = 0
        self.blocked_us = 0  # the fleet's limit is reached until then
        self.ask_again_us = 0  # whether it still is
        self.least = 1  # that was denied
        self.lost_us: int | None = None  # since when this worker knows of the loss
        self.is_ours = False  # this worker degraded the row
        self.excess: list[int] = []  # slots: what Redis counts beyond what the machine knows of

    def renew(self, gauge: Gauge) -> None:
        """Limits change with a reload, periods with the calendar."""
        self.gauge = gauge
        row = self.row
        if row.limit != gauge.limit or (row.window_us < 0 and row.start_us != gauge.period_start_us):
            is_same = row.start_us == gauge.period_start_us or row.window_us >= 0
            self.known = self.known if is_same else None
            self.row = row_of(gauge)

    def touch(self, now_us: int) -> None:
        self.active_until_us = now_us + self.row.life_us + IDLE_US

    def look(self, used: int, now_us: int) -> None:
        if self.known is None:
            self.known = Known(used, now_us)
        else:
            self.known.look(used, now_us)

    def note_excess(self, excess: int) -> int:
        """How many slots to return that Redis counts and nobody holds: what some looks agree on."""
        self.excess.append(max(excess, 0))
        if len(self.excess) < EXCESS_LOOKS:
            return 0
        agreed, self.excess = min(self.excess), []
        return agreed

    @property
    def is_slots(self) -> bool:
        return self.row.unit == SLOTS


def row_of(gauge: Gauge) -> Row:
    start_us, end_us = (gauge.period_start_us, gauge.period_end_us) if gauge.window_us < 0 else (0, 0)
    return Row(gauge.key.hex(), gauge.unit, gauge.window_us, gauge.limit, start_us, end_us)


class Watches:
    """Those of the configuration stay; of the others, the ones that were met last."""

    def __init__(self, limiter: Limiter, tag_of: Callable[[Gauge], str]) -> None:
        self._limiter = limiter
        self._tag_of = tag_of
        self._pinned: dict[bytes, Watch] = {}
        self._others: OrderedDict[bytes, Watch] = OrderedDict()
        self._active: dict[bytes, Watch] = {}

    def __iter__(self) -> Iterator[Watch]:
        yield from self.pinned
        yield from self.others

    @property
    def pinned(self) -> list[Watch]:
        return list(self._pinned.values())

    @property
    def others(self) -> list[Watch]:
        return list(self._others.values())

    def active(self, now_us: int) -> list[Watch]:
        for key, watch in list(self._active.items()):
            if watch.active_until_us < now_us:
                del self._active[key]
        return list(self._active.values())

    def pin(self, gauges: Iterable[Gauge], now_us: int) -> None:
        """These, and no other ones, are the configuration's."""
        for key, watch in self._pinned.items():
            self._others[key] = watch
        self._pinned = {}
        for gauge in gauges:
            watch = self._others.get(gauge.key) or self._make(gauge, now_us)
            if gauge.key in self._others:
                del self._others[gauge.key]
            watch.renew(gauge)
            self._pinned[gauge.key] = watch

    def find(self, gauge: Gauge, now_us: int) -> Watch:
        """The gauge's watch, which is active from now on."""
        key = gauge.key
        watch = self._pinned.get(key) or self._others.get(key)
        if watch is None:
            watch = self._others[key] = self._make(gauge, now_us)
            while len(self._others) > WATCHED_MAX:
                self.forget(next(iter(self._others.values())))
        elif key in self._others:
            self._others.move_to_end(key)
        watch.renew(gauge)
        watch.touch(now_us)
        self._active[key] = watch
        return watch

    def forget(self, watch: Watch) -> None:
        """One of the others. A row that it holds to a cap would be held to it for ever."""
        del self._others[watch.gauge.key]
        self._active.pop(watch.gauge.key, None)
        if watch.is_ours:
            self._limiter.recover(watch.gauge)

    def by_key(self, key: str) -> Watch | None:
        digest = bytes.fromhex(key)
        return self._pinned.get(digest) or self._others.get(digest)

    def _make(self, gauge: Gauge, now_us: int) -> Watch:
        return Watch(gauge, self._tag_of(gauge), self._limiter, now_us)
