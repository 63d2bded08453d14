"""Redis stands still while a fleet is under load: nobody waits for it, nothing goes above the limit, and it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from gatewayrig import wait_for
from proofkit import chat, most_in_window, one_tenant, with_callers

RPS = 160
OFFERED_RPS = 320
CALLERS = 32
# Of `redis.deadline`, 50 ms, once for those that come while nobody knows yet; and what two noisy cores add to it.
WAIT_S = 0.05
NOISE_S = 0.05
# Probes every half second at most; upkeep says so once a second.
BACK_S = 2.0 + 1.0


class Load:
    """Callers at a steady pace; `waits` are (when, how long) of every answer."""

    def __init__(self, gateways) -> None:
        self.gateways = gateways
        self.waits: list[tuple[float, float]] = []
        self.is_over = False

    async def __aenter__(self) -> Load:
        self.task = asyncio.ensure_future(with_callers(self.gateways, CALLERS, self.call))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_over = True
        await self.task

    async def call(self, caller) -> None:
        while not self.is_over:
            began_s = time.monotonic()
            answer = await caller.ask(chat())
            assert answer.status in {200, 429}, answer.body
            self.waits.append((began_s, time.monotonic() - began_s))
            await asyncio.sleep(max(began_s + CALLERS / OFFERED_RPS - time.monotonic(), 0))

    def p99_s(self, since_s: float, until_s: float) -> float:
        waits = sorted(wait_s for at_s, wait_s in self.waits if since_s <= at_s < until_s)
        return waits[len(waits) * 99 // 100]


async def test_a_redis_that_stands_still_for_4_seconds(far, start_fleet, redis):
    await stand_still(far, start_fleet, redis, 4.0)


@pytest.mark.soak
async def test_a_redis_that_stands_still_for_10_seconds_again_and_again(far, start_fleet, redis):
    await stand_still(far, start_fleet, redis, 10.0, times=5)


async def stand_still(far, start_fleet, redis, for_s: float, times: int = 1) -> None:
    config = one_tenant(far, {"limits": {"rps": RPS}}, redis={"url": redis.url})
    machines = start_fleet(config)
    async with Load(machines) as load:
        await asyncio.sleep(1)  # connections
        for _ in range(times):
            began_s = time.monotonic()
            await asyncio.sleep(3)
            os.kill(redis.process.pid, signal.SIGSTOP)
            frozen_s = time.monotonic()
            try:
                await asyncio.sleep(for_s)
            finally:
                os.kill(redis.process.pid, signal.SIGCONT)
            thawed_s = time.monotonic()
            before_s, during_s = load.p99_s(began_s, frozen_s), load.p99_s(frozen_s, thawed_s)
            print(f"p99 {before_s * 1e3:.1f} ms, with Redis frozen {during_s * 1e3:.1f} ms")
            assert during_s < max(before_s, NOISE_S) + WAIT_S
            assert sum(frozen_s <= arrival.started_s < thawed_s for arrival in far.seen) > RPS * for_s / 3
            await wait_for("both machines have Redis again", lambda: all_up(machines), BACK_S)
            print(f"back after {time.monotonic() - thawed_s:.1f} s")
        await asyncio.sleep(2)
    most = most_in_window(((arrival.started_s, 1) for arrival in far.seen), 1.0)
    print(f"at most {most} of {RPS} in a second, {far.requests} in all")
    assert most <= RPS


def all_up(machines) -> bool:
    return all(machine.metrics().total("llm_redis_up") for machine in machines)
