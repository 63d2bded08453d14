"""Where a request may go several ways, what it reserves holds for the dearest of them, and each attempt counts."""

import asyncio

from gatewayrig import up
from proofkit import chat, one_tenant, records, with_callers


async def test_a_fallback_that_costs_more_cannot_overrun_the_budget(far, start_gateway):
    """By the price of the first, 60 calls would cost some 0.0006 USD; by that of the second, 0.06."""
    config = one_tenant(
        far,
        {"budgets": [{"amount": "0.05", "period": "1h"}]},
        providers={"gone": up(1), "up": up(far.port)},
        models={
            "mock": {
                "targets": [
                    {"provider": "gone", "model": "gpt-4o-mini"},
                    {"provider": "up", "model": "gpt-4", "priority": 2},
                ]
            }
        },
    )
    gateway = start_gateway(config, workers=2)

    async def once(caller):
        return (
            await caller.ask(
                chat(max_tokens=16),
                deadline_s=60.0,
            )
        ).status

    statuses = await with_callers([gateway], 60, once)
    assert set(statuses) <= {200, 429}
    assert 0 < statuses.count(200) == far.requests
    spent_usd_micro = sum(record["cost_usd_micro"] or 0 for record in records(gateway))
    assert 20_000 < spent_usd_micro <= 50_000


async def test_each_target_is_charged_at_its_own_price(far, start_gateway):
    """The same model at two sellers, and a third that names no price: its model's counts."""
    sellers = {"dear": {"input": "40", "output": "40"}, "cheap": {"input": "4", "output": "4"}, "usual": None}
    targets = [{"provider": name, **({"price": price} if price else {})} for name, price in sellers.items()]
    config = one_tenant(
        far,
        {},
        providers={name: up(far.port) for name in sellers},
        models={
            "mock": {
                "strategy": "round_robin",
                "targets": targets,
                "price": {"input": "400", "output": "400"},
            }
        },
    )
    gateway = start_gateway(config)

    async def once(caller):
        return (await caller.ask(chat(), deadline_s=60.0)).status

    assert await with_callers([gateway], 6, once) == [200] * 6
    per_token = {
        (
            record["provider_used"],
            record["cost_usd_micro"] / (record["input_tokens"] + record["output_tokens"]),
        )
        for record in records(gateway)
    }
    assert per_token == {("dear", 40), ("cheap", 4), ("usual", 400)}


async def test_a_way_without_a_price_is_not_taken_under_a_budget(far, start_gateway):
    config = one_tenant(
        far,
        {"budgets": [{"amount": "1.00", "period": "1h"}]},
        providers={"gone": up(1), "up": up(far.port)},
        models={
            "mock": {
                "targets": [
                    {"provider": "gone", "model": "gpt-4o-mini"},
                    {"provider": "up", "model": "mine", "priority": 2},
                ]
            }
        },
    )
    gateway = start_gateway(config)

    async def once(caller):
        return (await caller.ask(chat(), deadline_s=60.0)).status

    assert set(await with_callers([gateway], 3, once)) == {502}
    assert far.requests == 0


async def test_each_key_that_is_tried_counts_for_the_providers_limit(far, start_gateway):
    provider = {**up(far.port, "k1", "k2", "k3", "k4", "k5"), "limits": {"rpm": 3}}
    gateway = start_gateway(one_tenant(far, {}, providers={"up": provider}))

    async def once(caller):
        return (await caller.ask(chat(mock={"status": 429}), deadline_s=60.0)).status

    statuses = await with_callers([gateway], 3, once)
    assert set(statuses) <= {429, 503}
    assert far.requests == 3


async def test_a_field_of_another_route_does_not_lower_what_is_reserved(far, start_gateway):
    gateway = start_gateway(one_tenant(far, {"limits": {"tpm": 4000}}))

    async def once(caller):
        return await caller.ask(chat(max_tokens=5000, max_output_tokens=1), deadline_s=60.0)

    (answer,) = await with_callers([gateway], 1, once)
    assert (answer.status, answer.error["type"], answer.header("x-should-retry")) == (429, "tokens", "false")
    assert answer.header("x-ratelimit-limit-tokens") == "4000"
    await asyncio.sleep(0)
    assert far.requests == 0
