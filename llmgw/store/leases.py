"""The runner of leases: one in each worker. It alone moves amounts between Redis and the machine's limiter.

Two lines of calls. The front one is for requests that wait (`Front`). The back one runs on a tick: it tops
up what runs low, settles what came to another amount, returns what was not used, and once a second beats and
looks. Where Redis does not answer, `Outage` takes over, and gives back when it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence

from llmgw._core.limiter import USD, Gauge, Limiter
from llmgw.limits import lease
from llmgw.limits.fleet import Beat, Call, Claim
from llmgw.store.adapter import OVERSLEPT_S, Store, StoreAway
from llmgw.store.asks import Asks, look, top_up
from llmgw.store.front import Front
from llmgw.store.intake import Denied, Intake
from llmgw.store.line import Line
from llmgw.store.outage import Outage
from llmgw.store.pending import Pending
from llmgw.store.watch import Watch, Watches

SETTLE_US = 50_000
BEAT_US = 1_000_000
BUDGET_BEATS = 5
MEET_US = 1_000_000  # with one more probe, of a second, at most: how long a start is held up without a Redis
MEET_AGAIN_S = 0.05


class Leases:
    """`machine_id` is the machine's, `slot` the worker's: together they name one asker in the fleet.

    `tag_of` names the hash slot of a gauge, such as `tenant:acme`. The keeper (one worker of
    each machine) watches over what is the machine's and no worker's.
    """

    def __init__(
        self,
        limiter: Limiter,
        store: Store,
        machine_id: str,
        slot: int,
        tag_of: Callable[[Gauge], str],
        *,
        grace_s: float = 10.0,
        is_keeper: bool = True,
    ) -> None:
        now_us = limiter.now_us()
        self._limiter = limiter
        self._store = store
        self._machine = machine_id
        self._is_keeper = is_keeper
        self._watches = Watches(limiter, tag_of)
        self._pending = Pending()
        self._outage = Outage(limiter, store, self._watches, self._pending, machine_id, grace_s)
        self._intake = Intake(limiter, store.counters, self._watches, self._pending, self._outage, is_keeper)
        self._front = Front(
            Line(store, f"{machine_id}.{slot}.f", now_us),
            machine_id,
            limiter,
            self._watches,
            self._outage,
            store.counters,
            exchange=self._exchange,
            lose=self._lose,
            tell=self._tell,
        )
        self._back = Line(store, f"{machine_id}.{slot}.b", now_us)
        self._running: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._settled_us = self._beaten_us = self._beats = 0
        self.on_news: Callable[[], object] = lambda: None  # the limiter may admit now what it refused

    # -- what the gateway calls

    async def begin(self) -> bool:
        """Starts, and returns when Redis was heard, its scripts are loaded and all limits were looked at.

        So what comes first has no more to wait for than what comes later. False: Redis is away; a
        machine that begins so, and does not know the fleet, is strict.
        """
        self.start()
        await self._begun.wait()
        return not self._outage.is_on

    def start(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run())
        self._running.add_done_callback(tell)

    def watch(self, gauges: Iterable[Gauge]) -> None:
        """All shared gauges of the configuration: looked at though idle, so that a loss finds them known."""
        self._watches.pin((gauge for gauge in gauges if is_leased(gauge)), self._limiter.now_us())
        self._outage.enforce(self._limiter.now_us())

    def maybe_used(self, gauge: Gauge) -> int | None:
        """What the fleet was last seen to use, with what is reserved or on lease; of budgets within 5 s."""
        watch = self._watches.by_key(gauge.key.hex())
        if watch is None or watch.known is None or gauge.period_start_us not in (0, watch.row.start_us):
            return None
        return watch.known.used

    async def maybe_claim(self, word: str, stays_us: int) -> bool | None:
        """Whether this machine is the first of the fleet to say it. None: Redis is away.

        `stays_us` 0 gives it up.
        """
        try:
            reply = await self._store.exchange([Claim(word, self._machine, stays_us)])
        except StoreAway:
            return None
        return reply[0].is_ours

    @property
    def wait_max_s(self) -> float:
        """The store's own deadline comes first, and puts caps in the place of what did not answer."""
        return self._store.deadline_s + OVERSLEPT_S

    async def wait(
        self, lacking: Sequence[Gauge], amounts: Sequence[int], within_s: float | None = None
    ) -> tuple[Denied, ...]:
        """Returns when the limiter has a grant, a denial or a cap for each: put the question again.

        Within `wait_max_s`, also when nothing came; no Task is needed. Returned is what was denied of
        these gauges, with the true wait: the limiter is told a shorter one where smaller requests have room.
        """
        return await self._front.wait(lacking, amounts, self.wait_max_s if within_s is None else within_s)

    def want(self, lacking: Sequence[Gauge], amounts: Sequence[int]) -> None:
        """The same for those that wait elsewhere: `on_news` tells when something came."""
        self._front.want(lacking, amounts)

    async def close(self) -> None:
        """Returns what this worker can; the keeper also what the machine has on lease."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))
        await self._front.stop()
        if not self._outage.is_on:
            with contextlib.suppress(StoreAway):
                await self._give_all_back()
        await self._store.close()

    @property
    def is_away(self) -> bool:
        return self._outage.is_on

    @property
    def machines(self) -> int:
        """How many lived at the last beat."""
        return self._outage.machines

    # -- what both lines do

    def _tell(self) -> None:
        self.on_news()

    def _lose(self) -> None:
        self._outage.begin(self._limiter.now_us())
        self._front.answer_askers()
        self.on_news()

    async def _exchange(self, line: Line, calls: Sequence[Call]) -> tuple[Denied, ...]:
        """What a Redis grants that has forgotten is returned, and what we know is charged again."""
        exchange = await line.exchange(calls, self._limiter.now_us())
        self._outage.hear(exchange)
        if not self._outage.lost:
            return self._intake.take_in(exchange)
        self._outage.return_all(exchange)
        await self._outage.recharge(line)
        self._beaten_us = 0  # slots are named in the next look
        return ()

    # -- the back line

    async def _run(self) -> None:
        await self._meet()
        self._begun.set()
        while True:
            try:
                if self._outage.is_on:
                    await self._outage.pause()
                    self._collect(self._limiter.now_us())
                    if await self._outage.try_end(self._front.line, self._back):
                        self._beaten_us = 0
                else:
                    await asyncio.sleep(random.uniform(0.8, 1.2) * lease.TICK_US / 1e6)
                    await self._tick(self._limiter.now_us())
            except StoreAway:
                self._lose()

    async def _meet(self) -> None:
        """The first words with Redis. Where everything starts at once they take a few tries."""
        until_us = self._limiter.now_us() + MEET_US
        while not await self._try_meet():
            if self._limiter.now_us() >= until_us:
                self._lose()
                return
            await asyncio.sleep(MEET_AGAIN_S)

    async def _try_meet(self) -> bool:
        try:
            if self._outage.is_on:
                return await self._outage.try_end(self._front.line, self._back)
            reply = await self._store.probe(self._machine)
            if reply is None:
                return False
            self._outage.hear_beat(reply, self._limiter.now_us())
            await self._tick(self._limiter.now_us())
        except StoreAway:
            self._lose()
            return False
        return True

    async def _tick(self, now_us: int) -> None:
        self._collect(now_us)
        beat: list[Call] = []
        settles: list[Call] = []
        asks = Asks()
        for watch in self._watches.active(now_us):
            ask = top_up(self._limiter, watch, self.machines, now_us)
            if ask is not None:
                asks.add(watch, ask)
        if now_us - self._beaten_us >= BEAT_US:
            self._beaten_us = now_us
            beat = [Beat(self._machine)]
            self._add_looks(asks, now_us)
        if now_us - self._settled_us >= SETTLE_US and self._pending:
            self._settled_us = now_us
            settles = [*self._pending.calls(self._back, self._machine, now_us, self._outage.offset_us)]
        for batch in asks.batches(self._back, self._machine):
            if calls := [*beat, *batch, *settles]:
                beat, settles = [], []
                await self._exchange(self._back, calls)

    def _collect(self, now_us: int) -> None:
        """What came to another amount, and what was leased and not used."""
        for gauge, at_us, delta in self._limiter.take_settled():
            if is_leased(gauge):
                self._pending.add(self._watches.find(gauge, now_us), at_us, delta)
        for watch in self._watches.active(now_us):
            if not self._outage.is_on:
                self._outage.collect(watch, now_us)
            watch.demand.note(self._limiter.leased(watch.gauge), now_us)
            self._return_unused(watch, now_us)

    def _return_unused(self, watch: Watch, now_us: int) -> None:
        if unused := self._unused(watch, now_us):
            self._store.counters.returned += unused
            self._pending.add(watch, now_us - watch.row.life_us, -unused, is_unused=True)

    def _unused(self, watch: Watch, now_us: int) -> int:
        if not watch.is_slots:
            return self._limiter.take_unused(watch.gauge, now_us)
        if self._outage.is_on:
            return 0
        left = self._limiter.lease_left(watch.gauge, now_us)
        free = watch.row.limit - watch.known.used + left if watch.known else 0
        spare = left - min(watch.demand.target, max(free, 0) // lease.parts_of(self.machines))
        return self._limiter.release_lease(watch.gauge, spare, now_us) if spare > 0 else 0

    def _add_looks(self, asks: Asks, now_us: int) -> None:
        """The keeper looks at all that is configured, others at what they use. Slots are held by being named.

        All look at budgets now and then: each may be asked for metrics. Users that do nothing, and hold
        nothing, are forgotten.
        """
        self._beats += 1
        for watch in self._watches.pinned:
            is_due = self._is_keeper or watch.is_slots or watch.active_until_us >= now_us
            if is_due or (watch.row.unit == USD and self._beats % BUDGET_BEATS == 1):
                self._add_look(asks, watch, now_us)
        for watch in self._watches.others:
            if watch.active_until_us >= now_us or look(self._limiter, watch, now_us).held:
                self._add_look(asks, watch, now_us)
            else:
                self._watches.forget(watch)

    def _add_look(self, asks: Asks, watch: Watch, now_us: int) -> None:
        """What is on lease there, if only from workers that died, is seen to until it is used or returned."""
        if watch.row.key not in asks:
            watch.renew(watch.gauge)
            self._outage.collect(watch, now_us)
            if self._limiter.lease_left(watch.gauge, now_us):
                self._watches.find(watch.gauge, now_us)
            else:
                self._return_unused(watch, now_us)
            asks.add(watch, look(self._limiter, watch, now_us))

    async def _give_all_back(self) -> None:
        for line in (self._front.line, self._back):
            exchange = await line.recall(self._limiter.now_us())
            if exchange is not None:
                self._outage.return_all(exchange)
        now_us = self._limiter.now_us()
        self._collect(now_us)
        if self._is_keeper:
            for watch in self._watches:
                left = self._limiter.lease_left(watch.gauge, now_us)
                released = self._limiter.release_lease(watch.gauge, left, now_us)
                self._outage.collect(watch, now_us)
                self._pending.add(watch, now_us - watch.row.life_us, -released, is_unused=True)
        while self._pending and self._outage.offset_us is not None:
            calls = self._pending.calls(self._back, self._machine, now_us, self._outage.offset_us)
            await self._back.exchange(calls, now_us)


def tell(task: asyncio.Task[None]) -> None:
    """The runner never ends by itself: if it does, that is a fault to be seen."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        task.get_loop().call_exception_handler({"message": "the runner of leases broke", "exception": error})


def is_leased(gauge: Gauge) -> bool:
    return gauge.is_shared and not gauge.is_shadow
