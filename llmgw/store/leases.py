"""The runner of leases: one in each worker. It alone moves amounts between Redis and the machine's limiter.

Two lines of calls. The front one is for requests that wait: the asks of one turn of the loop go out
together. The back one runs on a tick: it tops up what runs low, settles what came to another amount, returns
what was not used, and once a second beats and looks. Where Redis does not answer, `Outage` takes over, and
gives back when it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from llmgw._core.limiter import Gauge, Limiter
from llmgw.limits import lease
from llmgw.limits.fleet import Beat, Call, GiveSlots, Settle
from llmgw.store.adapter import OVERSLEPT_S, Store, StoreAway
from llmgw.store.asks import Asks, Waiting, look, top_up
from llmgw.store.intake import Denied, Intake
from llmgw.store.line import Line
from llmgw.store.outage import Outage
from llmgw.store.pending import Pending
from llmgw.store.watch import Watch, Watches

SETTLE_US = 50_000
BEAT_US = 1_000_000
MEET_US = 1_000_000  # with one more probe, of a second, at most: how long a start is held up without a Redis
MEET_AGAIN_S = 0.05


class Asker(NamedTuple):
    answered: asyncio.Future[tuple[Denied, ...]]
    keys: frozenset[bytes]

    def answer(self, denied: tuple[Denied, ...]) -> None:
        if not self.answered.done():
            self.answered.set_result(tuple(one for one in denied if one.gauge.key in self.keys))


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
        self._front = Line(store, f"{machine_id}.{slot}.f", now_us)
        self._back = Line(store, f"{machine_id}.{slot}.b", now_us)
        self._waiting: dict[bytes, Waiting] = {}
        self._askers: list[Asker] = []
        self._serving: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._settled_us = self._beaten_us = 0
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

    def top_up(self, gauges: Iterable[Gauge]) -> None:
        """These are in use: the next tick looks after them."""
        now_us = self._limiter.now_us()
        for gauge in gauges:
            if is_leased(gauge):
                self._watches.find(gauge, now_us)

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
        now_us = self._limiter.now_us()
        watches = [self._watches.find(gauge, now_us) for gauge in lacking]
        if self._outage.is_on:
            self._outage.enforce_on(watches, now_us)
            return ()
        loop = asyncio.get_running_loop()
        asker = Asker(loop.create_future(), frozenset(gauge.key for gauge in lacking))
        timer = loop.call_later(self.wait_max_s if within_s is None else within_s, asker.answer, ())
        self._askers.append(asker)
        self._gather(watches, amounts)
        try:
            return await asker.answered
        finally:
            timer.cancel()

    def want(self, lacking: Sequence[Gauge], amounts: Sequence[int]) -> None:
        """The same for those that wait elsewhere: `on_news` tells when something came."""
        now_us = self._limiter.now_us()
        watches = [self._watches.find(gauge, now_us) for gauge in lacking]
        if self._outage.is_on:
            self._outage.enforce_on(watches, now_us)
        else:
            self._gather(watches, amounts)

    def _gather(self, watches: Sequence[Watch], amounts: Sequence[int]) -> None:
        for watch, amount in zip(watches, amounts, strict=True):
            watch.demand.note_size(amount)
            self._waiting.setdefault(watch.gauge.key, Waiting(watch)).add(amount)
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Returns what this worker can; the keeper also what the machine has on lease."""
        for task in (self._running, self._serving):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._answer_askers(())
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

    # -- the front line

    async def _serve(self) -> None:
        """One exchange after another, until nobody waits."""
        askers: list[Asker] = []
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                askers, self._askers = self._askers, []
                denied = await self._lease(list(waiting.values()))
                for asker in askers:
                    asker.answer(denied)
                self.on_news()
        except StoreAway:
            self._lose(askers)
        finally:
            self._serving = None

    def _lose(self, askers: list[Asker]) -> None:
        self._outage.begin(self._limiter.now_us())
        self._waiting = {}
        for asker in askers:
            asker.answer(())
        self._answer_askers(())
        self.on_news()

    def _answer_askers(self, denied: tuple[Denied, ...]) -> None:
        askers, self._askers = self._askers, []
        for asker in askers:
            asker.answer(denied)

    async def _lease(self, waiting: list[Waiting]) -> tuple[Denied, ...]:
        asks = Asks()
        for one in waiting:
            asks.add(one.watch, one.ask(self.machines))
        return await self._exchange(self._front, asks.calls(self._front, self._machine))

    async def _exchange(self, line: Line, calls: Sequence[Call]) -> tuple[Denied, ...]:
        """What a Redis grants that has forgotten is returned, and what we know is charged again."""
        exchange = await line.exchange(calls, self._limiter.now_us())
        self._outage.hear(exchange)
        if not self._outage.lost_tags:
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
                    await asyncio.sleep(self._outage.pause_s())
                    self._collect(self._limiter.now_us())
                    if await self._outage.try_end(self._front, self._back):
                        self._beaten_us = 0
                else:
                    await asyncio.sleep(random.uniform(0.8, 1.2) * lease.TICK_US / 1e6)
                    await self._tick(self._limiter.now_us())
            except StoreAway:
                self._lose([])

    async def _meet(self) -> None:
        """The first words with Redis. Where everything starts at once they take a few tries."""
        until_us = self._limiter.now_us() + MEET_US
        while not await self._try_meet():
            if self._limiter.now_us() >= until_us:
                self._lose([])
                return
            await asyncio.sleep(MEET_AGAIN_S)

    async def _try_meet(self) -> bool:
        try:
            if self._outage.is_on:
                return await self._outage.try_end(self._front, self._back)
            reply = await self._store.probe(self._machine)
            if reply is None:
                return False
            self._outage.hear_beat(reply, self._limiter.now_us())
            await self._tick(self._limiter.now_us())
        except StoreAway:
            self._lose([])
            return False
        return True

    async def _tick(self, now_us: int) -> None:
        self._collect(now_us)
        calls: list[Call] = []
        asks = Asks()
        for watch in self._watches.active(now_us):
            ask = top_up(self._limiter, watch, self.machines, now_us)
            if ask is not None:
                asks.add(watch, ask)
        if now_us - self._beaten_us >= BEAT_US:
            self._beaten_us = now_us
            calls.append(Beat(self._machine))
            self._add_looks(asks, now_us)
        calls += asks.calls(self._back, self._machine)
        if now_us - self._settled_us >= SETTLE_US and self._pending:
            self._settled_us = now_us
            calls += self._pending.calls(self._back, self._machine, now_us, self._outage.offset_us)
        if calls:
            await self._exchange(self._back, calls)

    def _collect(self, now_us: int) -> None:
        """What came to another amount, and what was leased and not used."""
        for gauge, at_us, delta in self._limiter.take_settled():
            if is_leased(gauge):
                self._pending.add(self._watches.find(gauge, now_us), at_us, delta)
        for watch in self._watches.active(now_us):
            watch.demand.note(self._limiter.leased(watch.gauge), now_us)
            unused = self._unused(watch, now_us)
            if unused:
                self._store.counters.returned += unused
                self._pending.add(watch, now_us - watch.row.life_us, -unused)

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
        """The keeper looks at all that it watches, others at what they use. Slots are held by being named."""
        for watch in self._watches:
            is_due = self._is_keeper or watch.is_slots or watch.active_until_us >= now_us
            if is_due and watch.row.key not in asks:
                watch.renew(watch.gauge)
                asks.add(watch, look(self._limiter, watch, now_us))

    async def _give_all_back(self) -> None:
        for line in (self._front, self._back):
            exchange = await line.recall(self._limiter.now_us())
            if exchange is not None:
                self._outage.return_all(exchange)
        now_us = self._limiter.now_us()
        self._collect(now_us)
        if self._is_keeper:
            for watch in self._watches:
                left = self._limiter.lease_left(watch.gauge, now_us)
                released = self._limiter.release_lease(watch.gauge, left, now_us)
                self._pending.add(watch, now_us - watch.row.life_us, -released)
        calls: list[Settle | GiveSlots] = self._pending.calls(
            self._back, self._machine, now_us, self._outage.offset_us
        )
        if calls:
            await self._back.exchange(calls, now_us)


def tell(task: asyncio.Task[None]) -> None:
    """The runner never ends by itself: if it does, that is a fault to be seen."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        task.get_loop().call_exception_handler({"message": "the runner of leases broke", "exception": error})


def is_leased(gauge: Gauge) -> bool:
    return gauge.is_shared and not gauge.is_shadow
