"""While Redis is away, and how the machine comes back: nothing that was admitted meanwhile is forgotten.

The rules are `llmgw.limits.lease`'s. All workers of a machine see the same rows: whoever notices first
degrades them, whoever comes back first recovers them. What was admitted without a lease is one number
in the row, which a worker takes, and tells Redis of: so it is charged once, whoever of them is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from llmgw._core.limiter import Limiter
from llmgw.limits import lease
from llmgw.limits.fleet import DEAD_US, Beat, Call, Entry, Lease, Reply, Row, Settle, TakeSlots
from llmgw.store.adapter import Store
from llmgw.store.asks import Asks, look
from llmgw.store.line import Exchange, Line
from llmgw.store.pending import Pending
from llmgw.store.watch import Watch, Watches

PROBE_MIN_S = 0.25
PROBE_MAX_S = 0.5
ROWS_MAX = 256  # charged in one exchange


class Outage:
    def __init__(
        self,
        limiter: Limiter,
        store: Store,
        watches: Watches,
        pending: Pending,
        machine: str,
        grace_s: float,
    ) -> None:
        self._limiter = limiter
        self._store = store
        self._watches = watches
        self._pending = pending
        self._machine = machine
        self._grace_us = int(grace_s * 1e6)
        self._since_us = 0
        self._joined_us: int | None = None  # since when this machine belongs to the fleet
        self.is_on = False
        # What Redis has forgotten: its epoch now, and up to when it knows of us (on its clock; 0: nothing).
        # What we used since is charged again.
        self.lost: dict[Watch, tuple[int, int]] = {}
        self.machines = 1
        self.offset_us: int | None = None  # Redis' clock less ours; a little less than true, which is strict

    # -- what replies tell

    def hear(self, exchange: Exchange) -> None:
        now_us = self._limiter.now_us()
        for call, reply in zip(exchange.calls, exchange.replies, strict=True):
            self.offset_us = reply.time_us - now_us
            if isinstance(call, Beat):
                self.hear_beat(reply, now_us)
            elif isinstance(call, (Lease, TakeSlots)):
                self._hear_memory(call, reply)

    def hear_beat(self, reply: Reply, now_us: int) -> None:
        self.machines = max(reply.machines, 1)
        if self._joined_us is None:
            self._joined_us = now_us

    def _hear_memory(self, call: Lease | TakeSlots, reply: Reply) -> None:
        is_loss = False
        for ask in call.asks:
            watch = self._watches.by_key(ask.row.key)
            if watch is not None and self._is_new(watch, reply.epoch):
                is_loss = True
            elif watch is not None and watch not in self.lost:
                self._remember(watch, reply.epoch, reply.time_us)
        if is_loss:
            new = [w for w in self._watches if w.tag == call.tag and self._is_new(w, reply.epoch)]
            known = len(self.lost)
            for watch in new:
                self._note_loss(watch, reply.epoch, reply.since_us if watch.epoch == call.epoch else 0)
            self._store.counters.losses += len(self.lost) > known

    def _is_new(self, watch: Watch, epoch: int) -> bool:
        """Whether another memory has counted what the machine used; none has before the first word."""
        if not watch.epoch:
            watch.epoch, watch.heard_us = self._limiter.heard(watch.gauge)
        noted, _ = self.lost.get(watch, (watch.epoch, 0))
        return noted not in (0, epoch)

    def _remember(self, watch: Watch, epoch: int, heard_us: int) -> None:
        watch.epoch, watch.heard_us = epoch, heard_us
        self._limiter.hear(watch.gauge, epoch, heard_us, self._limiter.now_us())

    def _note_loss(self, watch: Watch, epoch: int, since_us: int) -> None:
        """The copy's moment says what anybody had told by then; ours is when this machine was heard last."""
        self._pending.drop(watch.row.key)
        counted, heard_us = self._limiter.heard(watch.gauge)
        if counted == epoch:  # another worker has charged it
            self._remember(watch, epoch, 0)
        else:
            self.lost[watch] = epoch, min(since_us, heard_us)

    def collect(self, watch: Watch, now_us: int) -> None:
        """What Redis does not know of: admitted under a cap, by whichever worker, or left by a dead one.

        What this worker's own requests of the outage came to is one with what they had reserved.
        """
        owed, returned, returned_us = self._limiter.take_owed(watch.gauge, now_us)
        self._pending.add(watch, returned_us, -returned)
        if owed and not watch.is_slots:
            since = 0 if watch.lost_us is None else self._pending.take_since(watch, watch.lost_us)
            self._pending.add(watch, now_us, owed + since)

    # -- away

    def begin(self, now_us: int) -> None:
        if not self.is_on:
            self.is_on = True
            self._since_us = now_us
            self.enforce(now_us)

    async def pause(self) -> None:
        """Until the next probe. Caps that shrink are kept up with."""
        until_us = self._limiter.now_us() + round(random.uniform(PROBE_MIN_S, PROBE_MAX_S) * 1e6)
        while (now_us := self._limiter.now_us()) < until_us:
            is_held = self._is_held(now_us)
            await asyncio.sleep(min(until_us - now_us, lease.TICK_US if is_held else until_us) / 1e6)
            if is_held:
                self._keep_up()

    def enforce(self, now_us: int) -> None:
        if self.is_on:
            self.enforce_on(self._watches, now_us)

    def enforce_on(self, watches: Iterable[Watch], now_us: int) -> None:
        """Each row is held by the worker that degraded it, so that its cap is made from one loss only."""
        for watch in watches:
            if not (watch.is_ours and self._limiter.is_degraded(watch.gauge)):
                self._lose(watch, now_us)
            if watch.is_ours:
                self._limiter.degrade(watch.gauge, self._cap(watch, now_us))

    def _cap(self, watch: Watch, now_us: int) -> int:
        assert watch.lost_us is not None, "it was lost just before, if not earlier"
        away_us = now_us - watch.lost_us
        is_unknown = watch.known is None and now_us - self._since_us >= lease.TRUST_US
        used, _ = self._limiter.read(watch.gauge, now_us)
        admitted = self._limiter.leased(watch.gauge) - watch.admitted
        kept = lease.kept_of(watch.row, watch.own, used, admitted)
        if watch.row.width_us and away_us >= watch.row.life_us:  # a lease ends, though nobody can return it
            watch.own = watch.own._replace(leased=min(watch.own.leased, max(admitted, 0)))
        return lease.cap(watch.row, watch.own, kept, is_unknown, self.machines, away_us, self._grace_us)

    def _lose(self, watch: Watch, now_us: int) -> None:
        gauge = watch.gauge
        watch.is_ours = not self._limiter.is_degraded(gauge)
        if watch.lost_us is None or watch.is_ours:
            watch.lost_us = now_us
            watch.admitted = self._limiter.leased(gauge)
        used, _ = self._limiter.read(gauge, now_us)
        left = 0
        if watch.is_ours:  # the cap takes the place of the leases
            left = self._limiter.release_lease(gauge, self._limiter.lease_left(gauge, now_us), now_us)
            self._pending.add(watch, now_us - watch.row.life_us, -left, is_unused=True)
        known = None if self._is_newcomer(now_us) else watch.known
        watch.own = lease.own_of(watch.row, used, left, known, self.machines, self._grace_us)

    def _is_newcomer(self, now_us: int) -> bool:
        return self._joined_us is None or now_us - self._joined_us < lease.JOIN_US

    def _is_held(self, now_us: int) -> bool:
        return now_us - self._since_us < lease.HOLD_US + lease.TICK_US

    def _keep_up(self) -> None:
        now_us = self._limiter.now_us()
        self.enforce_on(self._watches.active(now_us), now_us)

    # -- and back

    async def try_end(self, front: Line, back: Line) -> bool:
        """StoreAway: it was too early."""
        self.enforce(self._limiter.now_us())
        reply = await self._probe()
        if reply is None:
            return False
        self.offset_us = reply.time_us - self._limiter.now_us()
        await self._recall(front)
        await self._recall(back)
        await self._look(back)
        await self.recharge(back)
        for watch in self._watches:
            self.collect(watch, self._limiter.now_us())
        while self._pending:
            now_us = self._limiter.now_us()
            await back.exchange(self._pending.calls(back, self._machine, now_us, self.offset_us), now_us)
        self._recover()
        if self._limiter.now_us() - self._since_us > DEAD_US - lease.JOIN_US:  # the others forgot this one
            self._joined_us = self._limiter.now_us()
        return True

    async def _probe(self) -> Reply | None:
        """It may take a second, in which caps shrink."""
        probe = asyncio.ensure_future(self._store.probe(self._machine))
        try:
            while not probe.done() and self._is_held(self._limiter.now_us()):
                await asyncio.wait((probe,), timeout=lease.TICK_US / 1e6)
                self._keep_up()
            return await probe
        except asyncio.CancelledError:
            probe.cancel()
            raise

    async def _recall(self, line: Line) -> None:
        """What was granted is pending before anything else can fail: no one would ask for it again."""
        exchange = await line.recall(self._limiter.now_us())
        if exchange is None:
            return
        for call, reply in zip(exchange.calls, exchange.replies, strict=True):
            if isinstance(call, (Lease, TakeSlots)):
                self._hear_memory(call, reply)
        self.return_all(exchange)

    async def _look(self, back: Line) -> None:
        """Is each hash slot's memory the one that we knew?"""
        heard = sorted(self._watches, key=lambda watch: (watch.epoch, watch.heard_us))
        asks = Asks()
        for watch in {watch.tag: watch for watch in heard if not watch.is_slots}.values():
            asks.add(watch, look(self._limiter, watch, self._limiter.now_us()))
        beat: list[Call] = [Beat(self._machine)]
        for batch in asks.batches(back, self._machine):
            self.hear(await back.exchange([*beat, *batch], self._limiter.now_us()))
            beat = []

    def return_all(self, exchange: Exchange) -> None:
        """Leases that are not to be used: their reply was lost, and a cap has taken their place."""
        for call, reply in zip(exchange.calls, exchange.replies, strict=True):
            if isinstance(call, (Lease, TakeSlots)):
                for ask, got in zip(call.asks, reply.answers, strict=True):
                    self.give_back(ask.row, got.granted, reply.time_us)

    def give_back(self, row: Row, granted: int, time_us: int) -> None:
        watch = self._watches.by_key(row.key)
        if watch is None or watch.row.start_us != row.start_us or self.offset_us is None:
            self._store.counters.stranded += granted
        else:
            at_us = time_us - self.offset_us + row.life_us
            self._pending.add(watch, at_us, -granted, is_unused=True)

    def _recover(self) -> None:
        now_us = self._limiter.now_us()
        for watch in self._watches:
            if watch.lost_us is None:
                continue
            if watch.is_slots:  # what ran beyond the lease came back as if leased: begin from what is in use
                self._limiter.release_lease(
                    watch.gauge, self._limiter.lease_left(watch.gauge, now_us), now_us
                )
            self._limiter.recover(watch.gauge)
            self.collect(watch, now_us)
            watch.lost_us = None
            watch.is_ours = False
        self.is_on = False

    async def recharge(self, line: Line) -> None:
        """Redis has forgotten: each row is charged with what this machine has used, once for all workers.

        Where it went on from an old copy, with what was used since. What is on lease may have been counted
        before: it is charged again.
        """
        lost = dict(self.lost)
        if not lost:
            return
        now_us = self._limiter.now_us()
        late_us = round(self._store.deadline_s * 1e6)  # a reply's way back, by which the offset is too small
        calls: list[Call] = []
        charged: list[tuple[Watch, int]] = []
        for watch, (epoch, since_us) in lost.items():
            if watch.is_slots:  # they are named in the next look
                continue
            at_us = since_us - (self.offset_us or 0) - late_us if since_us else 0
            used = self._limiter.used_since(watch.gauge, at_us, now_us)
            used += self._limiter.lease_left(watch.gauge, now_us)
            self._limiter.take_unused(watch.gauge, now_us)  # Redis does not count it any more
            owed, _, _ = self._limiter.take_owed(watch.gauge, now_us)
            if used:
                charged.append((watch, owed))
                asker = f"{self._machine}.{watch.row.key}"
                calls.append(Settle(watch.tag, asker, epoch, (Entry(watch.row, 0, used),)))
        replies: list[Reply] = []
        for first in range(0, len(calls), ROWS_MAX):
            replies += (await line.exchange(calls[first : first + ROWS_MAX], now_us)).replies
        for (watch, owed), reply in zip(charged, replies, strict=True):
            if self.offset_us is not None and reply.time_us < now_us + self.offset_us:
                self._pending.add(watch, now_us, owed)  # charged before, without what was owed since
        for watch, (epoch, _) in lost.items():
            self._remember(watch, epoch, 0)
            self.lost.pop(watch, None)
