"""One budget of two machines, to the micro-dollar: from their first moment on, and where replies get lost."""

from __future__ import annotations

import asyncio
import random
import time

from proofkit import CENT_USD_MICRO, chat, one_tenant, records, with_callers
from redisrig import Lossy

DOLLAR = {"budgets": [{"amount": "1.00", "period": "1h"}]}
AFFORDABLE = 100
CALLS = 2000
# What others have on lease, or have reserved, comes back within so long.
OUT_S = 2.5
SPENT_S = 15.0  # on a machine that others use too


def spent_usd_micro(gateways) -> int:
    return sum(record["cost_usd_micro"] for gateway in gateways for record in records(gateway))


async def spend(gateways, calls: int, at_once: int) -> int:
    """How many were admitted. A refusal is a budget's, or the word that the fleet could not be asked."""
    rest = iter(range(calls))

    async def some(caller) -> int:
        admitted = 0
        for _ in rest:
            answer = await caller.ask(chat(), deadline_s=60.0)
            admitted += answer.status == 200
            if answer.status != 200:
                assert (answer.status, answer.error["code"]) in {
                    (429, "insufficient_quota"),
                    (503, "overloaded"),
                }, answer.error
        return admitted

    return sum(await with_callers(gateways, at_once, some))


async def spend_all(gateways, far) -> None:
    """Until the budget is spent, and then for as long as something can be out."""
    until_s = time.monotonic() + SPENT_S
    while far.requests < AFFORDABLE and time.monotonic() < until_s:
        await spend(gateways, 40, 20)
        await asyncio.sleep(0.1)
    await asyncio.sleep(OUT_S)
    await spend(gateways, 200, 20)


async def test_2000_calls_at_once_in_the_first_moments_of_a_fleet_spend_exactly_the_budget(
    far, start_fleet, redis
):
    machines = start_fleet(one_tenant(far, DOLLAR, redis={"url": redis.url}))
    admitted = await spend(machines, CALLS, CALLS)
    assert far.requests == admitted <= AFFORDABLE
    await spend_all(machines, far)
    assert far.requests == AFFORDABLE
    assert spent_usd_micro(machines) == AFFORDABLE * CENT_USD_MICRO


async def test_of_20_replies_one_is_lost_and_all_of_the_budget_is_spent_once(far, start_fleet, redis):
    chance = random.Random(5)
    async with Lossy(redis.port, lambda: chance.random() < 0.05) as lossy:
        url = f"redis://127.0.0.1:{lossy.port}"
        # A deadline that the proxy, on the same loop as the callers, is sure to keep.
        started = asyncio.to_thread(
            start_fleet, one_tenant(far, DOLLAR, redis={"url": url, "deadline": "500ms"})
        )
        machines = await started
        await spend(machines, 300, 20)
        await spend_all(machines, far)
        assert lossy.dropped > 0
        assert far.requests == AFFORDABLE
        assert spent_usd_micro(machines) == far.requests * CENT_USD_MICRO


async def test_machines_that_never_reached_redis_start_and_spend_nothing(far, start_fleet, redis):
    redis.kill()
    machines = start_fleet(one_tenant(far, DOLLAR, redis={"url": redis.url}))
    assert await spend(machines, 20, 4) == far.requests == 0
    assert all(machine.metrics().total("llm_redis_up") == 0 for machine in machines)
    for machine in machines:
        assert any("Redis does not answer: budgets are closed" in line for line in machine.own_lines)
