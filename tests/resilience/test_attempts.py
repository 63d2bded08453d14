"""How often providers are asked for one request of a client, whatever they answer."""

import random

import pytest
from gatewayrig import CLIENT_KEY, up
from wireclient import chat, exchange, post

KEYS = ("sk-up-one", "sk-up-two", "sk-up-three")
MAX_ATTEMPTS = 3
REFUSALS = {
    "401": {"status": 401},
    "402": {"status": 402},
    "403": {"status": 403},
    "429": {"status": 429},
    "funds": {"status": 429, "body": '{"error": {"code": "insufficient_quota", "message": "Used up."}}'},
}
STRATEGIES = ("weighted", "round_robin", "ordered", "least_busy", "latency", "cost", "hash")
FAULTS = [*REFUSALS.values(), {"status": 500}, {"status": 400}, {"garbage": "http"}, {}, {"status": 408}]
ROUNDS = 80


@pytest.fixture(scope="module")
def gateway(far_ends, module_gateway):
    return module_gateway(config_for(far_ends))


def config_for(far_ends):
    """Of each target its own provider for each test: what one learns of its keys is not the other's."""
    a, b, _ = far_ends
    providers, models = {}, {}
    for name in [*REFUSALS, *(f"s-{strategy}" for strategy in STRATEGIES), "rested"]:
        providers |= {f"a-{name}": up(a.port, *KEYS[:2]), f"b-{name}": up(b.port, *KEYS)}
        models[name] = {
            "strategy": name.removeprefix("s-") if name.startswith("s-") else "round_robin",
            "targets": [{"provider": f"{end}-{name}"} for end in "ab"],
            "retry": {"max_attempts": MAX_ATTEMPTS, "base_delay": "1ms"},
        }
    return {
        "providers": providers,
        "models": models,
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_each_key_of_each_target_is_tried_once(gateway, a, b, refusal):
    for end in (a, b):
        end.script({**REFUSALS[refusal], "times": 100})
    answer = await exchange(gateway.port, post(chat(model=refusal)))
    assert answer.status in {502, 503}
    used = [arrival.values("authorization")[0] for arrival in [*a.seen, *b.seen]]
    assert sorted(used) == sorted(f"Bearer {key}" for key in (*KEYS[:2], *KEYS))
    assert answer.header("x-llmgw-route").count(":") == 5


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_no_request_asks_more_often_than_attempts_and_keys_allow(gateway, a, b, strategy):
    chance = random.Random(strategy)
    for _ in range(ROUNDS):
        for end in (a, b):
            end.reset()
            end.script(*(chance.choice(FAULTS) for _ in range(20)))
        await exchange(gateway.port, post(chat(model=f"s-{strategy}")))
        assert len(a.seen) + len(b.seen) <= MAX_ATTEMPTS + (2 - 1) + (3 - 1)


async def test_a_key_without_funds_rests(gateway, a, b):
    a.script({**REFUSALS["funds"], "times": 100})
    b.script({**REFUSALS["funds"], "times": 100})
    await exchange(gateway.port, post(chat(model="rested")))
    asked = len(a.seen) + len(b.seen)
    answer = await exchange(gateway.port, post(chat(model="rested")))
    assert (answer.status, answer.header("x-should-retry")) == (503, "true")
    assert len(a.seen) + len(b.seen) == asked == 5
