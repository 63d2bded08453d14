"""The line of calls for requests that wait: the asks of one turn of the loop go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from llmgw._core.limiter import Gauge, Limiter
from llmgw.limits.fleet import Call
from llmgw.store.adapter import Counters, StoreAway
from llmgw.store.asks import Asks, Waiting
from llmgw.store.intake import Denied
from llmgw.store.line import Line
from llmgw.store.outage import Outage
from llmgw.store.watch import Watch, Watches

Exchanges = Callable[[Line, Sequence[Call]], Awaitable[tuple[Denied, ...]]]


class Asker(NamedTuple):
    answered: asyncio.Future[tuple[Denied, ...]]
    keys: frozenset[bytes]

    def answer(self, denied: tuple[Denied, ...]) -> None:
        if not self.answered.done():
            self.answered.set_result(tuple(one for one in denied if one.gauge.key in self.keys))


class Front:
    """`exchange` raises StoreAway, and `lose` is called then; `tell`, when the limiter learned something."""

    def __init__(
        self,
        line: Line,
        machine: str,
        limiter: Limiter,
        watches: Watches,
        outage: Outage,
        counters: Counters,
        *,
        exchange: Exchanges,
        lose: Callable[[], None],
        tell: Callable[[], object],
    ) -> None:
        self.line = line
        self._machine = machine
        self._limiter = limiter
        self._watches = watches
        self._outage = outage
        self._counters = counters
        self._exchange = exchange
        self._lose = lose
        self._tell = tell
        self._waiting: dict[bytes, Waiting] = {}
        self._askers: list[Asker] = []
        self._serving: asyncio.Task[None] | None = None

    async def wait(
        self, lacking: Sequence[Gauge], amounts: Sequence[int], within_s: float
    ) -> tuple[Denied, ...]:
        began_us = self._limiter.now_us()
        watches = [self._watches.find(gauge, began_us) for gauge in lacking]
        if self._outage.is_on:
            self._outage.enforce_on(watches, began_us)
            return ()
        loop = asyncio.get_running_loop()
        asker = Asker(loop.create_future(), frozenset(gauge.key for gauge in lacking))
        timer = loop.call_later(within_s, asker.answer, ())
        self._askers.append(asker)
        self._gather(watches, amounts)
        try:
            return await asker.answered
        finally:
            timer.cancel()
            waited_us = self._limiter.now_us() - began_us
            self._counters.longest_wait_us = max(self._counters.longest_wait_us, waited_us)

    def want(self, lacking: Sequence[Gauge], amounts: Sequence[int]) -> None:
        now_us = self._limiter.now_us()
        watches = [self._watches.find(gauge, now_us) for gauge in lacking]
        if self._outage.is_on:
            self._outage.enforce_on(watches, now_us)
        else:
            self._gather(watches, amounts)

    def answer_askers(self) -> None:
        """Those whose asks have not gone out."""
        self._waiting = {}
        self._answer([])

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait((self._serving,))
        self._answer([])

    def _answer(self, sent: list[Asker]) -> None:
        askers, self._askers = self._askers, []
        for asker in (*sent, *askers):
            asker.answer(())

    def _gather(self, watches: Sequence[Watch], amounts: Sequence[int]) -> None:
        for watch, amount in zip(watches, amounts, strict=True):
            watch.demand.note_size(amount)
            self._waiting.setdefault(watch.gauge.key, Waiting(watch)).add(amount)
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve())

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
                self._tell()
        except StoreAway:
            self._lose()
            self._answer(askers)
        finally:
            self._serving = None

    async def _lease(self, waiting: list[Waiting]) -> tuple[Denied, ...]:
        asks = Asks()
        for one in waiting:
            asks.add(one.watch, one.ask(self._outage.machines))
        denied: tuple[Denied, ...] = ()
        for batch in asks.batches(self.line, self._machine):
            denied += await self._exchange(self.line, batch)
        return denied
