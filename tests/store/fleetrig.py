"""Machines as the gateway runs them: a limiter, a store and the runner of leases."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from llmgw._core.limiter import CALENDAR, REQUESTS, SLOTS, TOKENS, USD, Gauge, Hold, Limiter, Refusal
from llmgw._core.segment import Segment
from llmgw.config import parse_redis_url
from llmgw.limits import lease
from llmgw.store.adapter import Counters, Store
from llmgw.store.client import make_client
from llmgw.store.leases import Leases

MINUTE_US = 60_000_000
DEADLINE_S = 0.25  # a noisy machine's; the product's default is 0.05
NAMES = itertools.count()


def gauge(unit: int = REQUESTS, limit: int = 100, window_us: int = MINUTE_US, name: str = "") -> Gauge:
    """Machines know a limit by its key alone: two gauges of one name are one limit."""
    key = hashlib.sha256((name or str(unit)).encode()).digest()[:16]
    return Gauge(key, unit, 0 if unit == SLOTS else window_us, limit, is_shared=True, info=name)


class Machine:
    """With one worker; or one worker of a machine, where `limiter` is of its segment."""

    def __init__(
        self,
        url: str,
        deadline_s: float = DEADLINE_S,
        grace_s: float = 10.0,
        *,
        limiter: Limiter | None = None,
        name: str = "",
    ) -> None:
        self.limiter = limiter or Limiter(rows=64)
        self.counters = Counters()
        self.store = Store(make_client(parse_redis_url(url), deadline_s), "t", deadline_s, self.counters)
        self.leases = Leases(
            self.limiter,
            self.store,
            name or f"machine{next(NAMES)}",
            self.limiter.slot,
            lambda gauge: "tenant:acme",
            grace_s=grace_s,
            is_keeper=self.limiter.slot == 0,
        )
        self.waits = 0

    async def __aenter__(self) -> Machine:
        self.leases.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leases.close()

    async def is_known(self) -> None:
        """Waits for the first words with Redis; then as if the others had counted this machine for long."""
        await self.leases._begun.wait()
        self.leases._outage._joined_us = self.limiter.now_us() - lease.JOIN_US

    def used(self, gauge: Gauge) -> int:
        return self.limiter.read(gauge, self.limiter.now_us())[0]

    def settle(self, hold: Hold, tokens: int = 0, usd_micro: int = 0) -> None:
        self.limiter.settle(hold, tokens, usd_micro, self.limiter.now_us())

    async def ask(
        self, *gauges: Gauge, tokens: int = 0, usd_micro: int = 0, turns: int = 3
    ) -> Hold | Refusal:
        """One request, as the gateway asks for it."""
        amounts = {REQUESTS: 1, TOKENS: tokens, USD: usd_micro, SLOTS: 1}
        answer: Hold | Refusal
        for _ in range(turns):
            answer = self.limiter.admit(gauges, (), tokens, usd_micro, self.limiter.now_us())
            if isinstance(answer, Hold) or answer.lacking is None:
                return answer
            self.waits += 1
            await self.leases.wait(answer.lacking, [amounts[one.unit] for one in answer.lacking])
        return answer

    async def flood(self, count: int, *gauges: Gauge, tokens: int = 0, usd_micro: int = 0) -> list[Hold]:
        """So many at once; those that were admitted."""
        asks = (self.ask(*gauges, tokens=tokens, usd_micro=usd_micro) for _ in range(count))
        return [answer for answer in await asyncio.gather(*asks) if isinstance(answer, Hold)]


def workers(url: str, path: Path, count: int = 2) -> list[Machine]:
    """Of one machine, whose segment is at `path`."""
    segment = Segment(str(path / "segment"), count)
    Limiter(segment).prepare()
    name = f"machine{next(NAMES)}"
    return [Machine(url, limiter=Limiter(segment, slot), name=name) for slot in range(count)]


async def drain(limit: Gauge, *machines: Machine, goal: int, within_s: float = 5.0) -> int:
    """Asks on until so much was admitted, and once more; what was admitted in all."""
    admitted, until_s = 0, time.monotonic() + within_s
    while admitted < goal and time.monotonic() < until_s:
        for machine in machines:
            admitted += len(await machine.flood(10, limit))
        await asyncio.sleep(0.02)
    for machine in machines:
        admitted += len(await machine.flood(10, limit))
    return admitted


async def until(is_so: Callable[[], object], within_s: float = 5.0) -> None:
    """Waits for what runs in the background."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


__all__ = [
    "CALENDAR",
    "DEADLINE_S",
    "MINUTE_US",
    "REQUESTS",
    "SLOTS",
    "TOKENS",
    "USD",
    "drain",
    "Hold",
    "Machine",
    "Refusal",
    "gauge",
    "until",
    "workers",
]
