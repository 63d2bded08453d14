"""Budgets to the micro-dollar, over workers and machines, counted at the far end and in the ledgers."""

import asyncio
import time

from proofkit import A_CENT_EACH, CENT_USD_MICRO, chat, one_tenant, records, with_callers

CALLS = 2000
AFFORDABLE = 100

DOLLAR = {"budgets": [{"amount": "1.00", "period": "1h"}]}
# 4 tokens in and 16 out are a cent too.
BY_TOKENS = {"input": "500", "output": "500"}


async def spend(gateways, body: bytes) -> list[int]:
    async def once(caller):
        answer = await caller.ask(body, deadline_s=60.0)
        if answer.status == 429:
            assert answer.error["code"] == "insufficient_quota", answer.error
            assert answer.header("x-should-retry") == "false"
        return answer.status

    return await with_callers(gateways, CALLS, once)


def priced(far, price, **sections):
    models = {"mock": {"targets": [{"provider": "up"}], "price": price}}
    return one_tenant(far, DOLLAR, models=models, **sections)


def shared(redis):
    """A Redis that may take its time: what machines do without one is proved elsewhere."""
    return {"url": redis.url, "deadline": "5s"}


def spent_usd_micro(*gateways) -> int:
    return sum(record["cost_usd_micro"] for gateway in gateways for record in records(gateway))


async def test_of_2000_calls_at_once_exactly_as_many_go_upstream_as_the_budget_pays(far, start_gateway):
    gateway = start_gateway(priced(far, A_CENT_EACH), workers=2)
    statuses = await spend([gateway], chat())
    assert far.requests == statuses.count(200) == AFFORDABLE
    assert statuses.count(429) == CALLS - AFFORDABLE
    assert spent_usd_micro(gateway) == AFFORDABLE * CENT_USD_MICRO


async def test_the_same_holds_over_two_machines_that_share_a_redis(far, start_gateway, redis):
    config = priced(far, A_CENT_EACH, redis=shared(redis))
    machines = [start_gateway(config, workers=2) for _ in range(2)]
    statuses = await spend(machines, chat())
    assert far.requests == statuses.count(200) >= AFFORDABLE - 4, (
        "at most one call's worth a worker is on its way"
    )
    await spend_the_rest(machines, chat())
    assert far.requests == AFFORDABLE
    assert spent_usd_micro(*machines) == AFFORDABLE * CENT_USD_MICRO


async def test_a_budget_by_tokens_is_spent_up_to_less_than_two_calls(far, start_gateway, redis):
    config = priced(far, BY_TOKENS, redis=shared(redis))
    started = [start_gateway(config, workers=2) for _ in range(2)]
    body = chat("0123456789abcdef", max_tokens=16, mock={"text_bytes": 64})
    await spend_the_rest(started, body)
    assert far.requests <= AFFORDABLE
    spent = spent_usd_micro(*started)
    assert spent == far.requests * CENT_USD_MICRO
    assert AFFORDABLE * CENT_USD_MICRO - spent < 2 * CENT_USD_MICRO


async def spend_the_rest(gateways, body: bytes) -> None:
    """Until nobody gets anything for longer than what others have reserved or leased can be out: 2 s, more on a busy machine."""

    async def some(caller):
        return [(await caller.ask(body)).status for _ in range(10)]

    last_s = time.monotonic()
    while time.monotonic() < last_s + 5:
        began_s = time.monotonic()
        if any(200 in statuses for statuses in await with_callers(gateways, 20, some)):
            last_s = began_s
        await asyncio.sleep(0.1)
