"""A share of a model's requests goes to its canary, evenly, and none of them is lost with it."""

import asyncio

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, Gateway, up
from proofkit import with_callers
from wireclient import chat

SHARES = {"some": 0.05, "none": 0.0, "all": 1.0}
REQUESTS = 1000


@pytest.fixture(scope="module")
def shared_gateway(far_ends, module_gateway):
    a, b, _ = (end.port for end in far_ends)
    calm = {"breaker": "off", "retry_budget": {"per_second": 1000}}
    config = {
        "providers": {"a": up(a, **calm), "new": up(b, **calm)},
        "models": {
            name: {
                "targets": [{"provider": "a"}],
                "canary": {"target": {"provider": "new", "model": "newer"}, "share": share},
            }
            for name, share in SHARES.items()
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }
    return module_gateway(config)


@pytest.fixture
async def gateway(shared_gateway: Gateway, a: FarEnd, b: FarEnd) -> Gateway:
    await asyncio.to_thread(shared_gateway.forget_health)
    return shared_gateway


async def ask(gateway: Gateway, model: str, count: int) -> list[str]:
    """The providers that answered, in order."""
    providers: list[str] = []

    async def each(caller) -> None:
        for _ in range(count):
            answer = await caller.ask(chat(model=model))
            assert answer.status == 200
            providers.append(answer.header("x-llmgw-provider"))

    await with_callers([gateway], 1, each)
    return providers


async def test_its_share_is_exact_and_even(gateway, a, b):
    providers = await ask(gateway, "some", REQUESTS)
    assert (len(a.seen), len(b.seen)) == (950, 50)
    places = [number for number, name in enumerate(providers) if name == "new"]
    assert {after - before for before, after in zip(places, places[1:], strict=False)} == {20}


async def test_its_failures_are_served_by_the_others(gateway, a, b):
    b.script({"status": 500, "times": REQUESTS})
    assert set(await ask(gateway, "some", 200)) == {"a"}
    assert (len(a.seen), len(b.seen)) == (200, 10)


@pytest.mark.parametrize(("model", "there"), [("none", 0), ("all", 50)])
async def test_a_share_of_none_or_all(gateway, a, b, model, there):
    await ask(gateway, model, 50)
    assert (len(a.seen), len(b.seen)) == (50 - there, there)


async def test_where_all_go_to_it_and_it_is_gone_the_others_serve(gateway, a, b):
    b.script({"status": 503, "times": REQUESTS})
    assert set(await ask(gateway, "all", 20)) == {"a"}
