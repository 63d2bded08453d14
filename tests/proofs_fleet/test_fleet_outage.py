"""Redis stands still while a fleet is under load: nobody waits for it, nothing goes above the limit, and it is back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import pytest
from gatewayrig import wait_for
from proofkit import chat, most_in_window, one_tenant, with_callers

CALLERS = 32
# What nobody waits longer for Redis, once for those that come while nobody knows yet; and what two noisy cores add to it.
WAIT_S = 0.05
NOISE_S = 0.05
# Inside, where no client's and no far end's turn on the processor is part of it: `redis.deadline`, 40 ms, and what a loop
# that was late gets beyond it.
INSIDE_MS = 50.0
# The far end may hear so late of a request.
HEARD_S = 0.03
# Probes every half second at most; upkeep says so once a second.
BACK_S = 2.0 + 1.0


class Load:
    """Callers at a steady pace; `waits` are (when, how long) of every answer."""

    def __init__(self, gateways, per_s: int) -> None:
        self.gateways = gateways
        self.pause_s = CALLERS / per_s
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
            await asyncio.sleep(max(began_s + self.pause_s - time.monotonic(), 0))

    def p99_s(self, since_s: float, until_s: float) -> float:
        waits = sorted(wait_s for at_s, wait_s in self.waits if since_s <= at_s < until_s)
        return waits[len(waits) * 99 // 100]


async def test_a_redis_that_stands_still_for_4_seconds(far, start_fleet, redis):
    await stand_still(far, start_fleet, redis, 4.0, per_s=320)


@pytest.mark.soak
async def test_a_redis_that_stands_still_for_10_seconds_again_and_again(far, start_fleet, redis):
    """Each outage is 10 s at 500 requests/s."""
    await stand_still(far, start_fleet, redis, 10.0, per_s=500, times=3)


async def stand_still(far, start_fleet, redis, for_s: float, *, per_s: int, times: int = 1) -> None:
    """Twice as much is asked for as the limit allows."""
    limit = per_s // 2
    config = one_tenant(far, {"limits": {"rps": limit}}, redis={"url": redis.url})
    machines = start_fleet(config)
    async with Load(machines, per_s) as load:
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
            assert sum(frozen_s <= arrival.started_s < thawed_s for arrival in far.seen) > limit * for_s / 3
            await wait_for("both machines have Redis again", lambda: all_up(machines), BACK_S)
            print(f"back after {time.monotonic() - thawed_s:.1f} s")
        await asyncio.sleep(2)
    waited_ms = [ms for machine in machines for ms in waited_inside_ms(machine)]
    print(f"{len(waited_ms)} workers' outages; waited inside at most {sorted(waited_ms)} ms")
    assert len(waited_ms) >= times and max(waited_ms) < INSIDE_MS
    starts = [(arrival.started_s, 1) for arrival in far.seen]
    most, sure = most_in_window(starts, 1.0), most_in_window(starts, 1.0 - HEARD_S)
    print(f"at most {most} of {limit} in a second, {sure} in {1.0 - HEARD_S} s, {far.requests} in all")
    assert sure <= limit


def waited_inside_ms(machine) -> list[float]:
    """What each worker says of each outage: how long a request waited for Redis at most."""
    found = (re.search(r"a request waited ([\d.]+) ms for it at most", line) for line in machine.own_lines)
    return [float(match[1]) for match in found if match]


def all_up(machines) -> bool:
    return all(machine.metrics().total("llm_redis_up") for machine in machines)
