"""What Redis answers, written into the machine's limiter."""

from __future__ import annotations

from typing import NamedTuple

from llmgw._core.limiter import Gauge, Limiter
from llmgw.limits import lease
from llmgw.limits.fleet import Answer, Ask, Lease, TakeSlots
from llmgw.store.adapter import Counters
from llmgw.store.asks import look_us
from llmgw.store.line import Exchange
from llmgw.store.outage import Outage
from llmgw.store.pending import Pending
from llmgw.store.watch import Watch, Watches


class Denied(NamedTuple):
    """The fleet's limit does not hold what was asked for."""

    gauge: Gauge
    wait_us: int  # NEVER or UNKNOWN as in a Refusal
    used: int


class Intake:
    def __init__(
        self,
        limiter: Limiter,
        counters: Counters,
        watches: Watches,
        pending: Pending,
        outage: Outage,
        is_keeper: bool,
    ) -> None:
        self._limiter = limiter
        self._counters = counters
        self._watches = watches
        self._pending = pending
        self._outage = outage
        self._is_keeper = is_keeper

    def take_in(self, exchange: Exchange) -> tuple[Denied, ...]:
        """What was denied."""
        now_us = self._limiter.now_us()
        denied: list[Denied] = []
        for call, reply in zip(exchange.calls, exchange.replies, strict=True):
            if isinstance(call, (Lease, TakeSlots)):
                for ask, got in zip(call.asks, reply.answers, strict=True):
                    watch = self._watches.by_key(ask.row.key)
                    if watch is None or watch.row.start_us != ask.row.start_us:
                        self._counters.stranded += got.granted
                    elif self._take(watch, ask, got, exchange.sent_us, now_us):
                        denied.append(Denied(watch.gauge, got.wait_us, got.used))
        return tuple(denied)

    def _take(self, watch: Watch, ask: Ask, got: Answer, sent_us: int, now_us: int) -> bool:
        """Whether it is a denial."""
        watch.look(got.used, now_us)
        if watch.is_slots and not ask.wanted and self._is_keeper:
            self._note_excess(watch, got, now_us)
        if got.granted:
            self._counters.leased += got.granted
            watch.blocked_us = 0
            self._limiter.grant(watch.gauge, got.granted, sent_us + watch.row.life_us, now_us)
        elif got.wait_us and ask.wanted and not ask.need and got.used < ask.row.limit:
            watch.ask_again_us = now_us + look_us(self._outage.machines)  # smaller requests may have room
        elif got.wait_us:
            self._deny(watch, ask, got, now_us)
            return True
        elif watch.blocked_us > now_us:  # there is room again
            watch.blocked_us = 0
            self._limiter.deny(watch.gauge, now_us, got.used)
        return False

    def _deny(self, watch: Watch, ask: Ask, got: Answer, now_us: int) -> None:
        watch.least = ask.least
        watch.blocked_us = now_us + lease.denied_us(watch.row, got.used, got.wait_us)
        watch.ask_again_us = now_us + look_us(self._outage.machines)
        self._counters.denied += 1
        self._limiter.deny(watch.gauge, watch.blocked_us, got.used)

    def _note_excess(self, watch: Watch, got: Answer, now_us: int) -> None:
        """Slots that nobody holds, since a worker died with an answer unread, go back."""
        known = self._limiter.read(watch.gauge, now_us)[0] + self._limiter.lease_left(watch.gauge, now_us)
        self._pending.add(watch, now_us, -watch.note_excess(got.held - known))
