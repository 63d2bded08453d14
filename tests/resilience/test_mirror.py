"""A share of requests is copied: the client never notices, nobody pays, and the copies are compared."""

import asyncio
import json

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, UPSTREAM_KEY, Gateway, up, wait_for
from proofkit import records, with_callers
from wireclient import chat, exchange, post, wire_to

MIRROR_KEY = "sk-mirror-secret"
PRICES = {"price": {"input": "1.00", "output": "2.00"}}


@pytest.fixture(scope="module")
def shared_gateway(far_ends, module_gateway):
    return module_gateway(config_for(far_ends))


def config_for(far_ends):
    a, b, _ = (end.port for end in far_ends)
    calm = {"breaker": "off", "retry_budget": {"per_second": 1000}}
    one = {"targets": [{"provider": "a"}], "retry": {"max_attempts": 1}, **PRICES}
    to = {"target": {"provider": "m", "model": "other"}}
    return {
        "providers": {
            "a": up(a, **calm),
            "m": up(b, MIRROR_KEY, **calm),
            "narrow": up(b, MIRROR_KEY, limits={"concurrent": 1}, **calm),
        },
        "models": {
            "mock": {**one, "mirror": {**to, "share": 1.0}},
            "tenth": {**one, "mirror": {**to, "share": 0.1}},
            "narrow": {**one, "mirror": {"target": {"provider": "narrow"}, "share": 1.0}},
        },
        "tenants": {
            "acme": {
                "keys": [{"name": "web", "key": CLIENT_KEY}],
                "budgets": [{"amount": "10", "period": "day"}],
            }
        },
    }


@pytest.fixture
async def gateway(shared_gateway: Gateway, a: FarEnd, b: FarEnd) -> Gateway:
    await shared_gateway.forget_log()
    await wait_for("all copies are over", lambda: in_flight(shared_gateway) == 0)
    a.reset()
    b.reset()
    return shared_gateway


def in_flight(gateway: Gateway) -> float:
    return gateway.metrics().total("llm_target_inflight")


class Counted:
    """What the metrics of a model's copies have gained since."""

    def __init__(self, gateway: Gateway, model: str = "mock") -> None:
        self.gateway, self.model = gateway, model
        self.before = self.now()

    def now(self) -> dict[str, float]:
        metrics = self.gateway.metrics()
        return {
            sample.labels["outcome"]: sample.value
            for sample in metrics.samples
            if sample.name == "llm_mirror_requests_total" and sample.labels["model"] == self.model
        }

    async def gained(self, count: int) -> dict[str, float]:
        def look() -> dict[str, float]:
            now = self.now()
            found = {word: value - self.before.get(word, 0) for word, value in now.items()}
            return {word: value for word, value in found.items() if value}

        await wait_for(f"{count} copies are over", lambda: sum(look().values()) >= count)
        return look()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_copy_goes_to_the_mirror_with_its_key_and_model_and_its_answer_nowhere(gateway, a, b, stream):
    counted = Counted(gateway)
    b.script({"text": "from the mirror"})
    answer = await exchange(gateway.port, post(chat("nonce-beef", stream=stream)))
    assert await counted.gained(1) == {"same": 1}
    assert b"from the mirror" not in answer.body
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("a", "1")
    (original,), (copy,) = a.seen, b.seen
    assert json.loads(copy.body) == {**json.loads(original.body), "model": "other"}
    assert copy.ended == "complete"
    assert copy.values("authorization") == [f"Bearer {MIRROR_KEY}"]
    assert original.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    line = await gateway.log_line()
    assert (line["provider_used"], line["attempts"], line["status"]) == ("a", 1, 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_on_record_as_a_copy_and_the_client_pays_for_its_request_alone(gateway, stream):
    counted = Counted(gateway)
    left = gateway.metrics().total("llm_budget_remaining_usd", tenant="acme")
    await exchange(gateway.port, post(chat("nonce-beef", stream=stream)))
    await counted.gained(1)
    line = await gateway.log_line()
    found = {one["provider_used"]: one for one in records(gateway) if one["request_id"] == line["request_id"]}
    assert {name: (one["outcome"], one["charged"]) for name, one in found.items()} == {
        "a": ("ok", True),
        "m": ("mirror_ok", False),
    }
    assert found["a"]["attempt_id"] != found["m"]["attempt_id"]
    assert found["m"]["usage_source"] == "reported"
    assert found["m"]["output_tokens"] == line["output_tokens"]
    now_left = gateway.metrics().total("llm_budget_remaining_usd", tenant="acme")
    assert left - now_left == pytest.approx(line["cost_usd"], abs=1e-7)


async def test_its_latency_stands_beside_that_of_the_request(gateway, b):
    before = gateway.metrics()
    b.script({"delay_s": 0.3})
    counted = Counted(gateway)
    await exchange(gateway.port, post(chat()))
    await counted.gained(1)
    after = gateway.metrics()

    def gained(name: str, side: str) -> float:
        name = f"llm_mirror_latency_seconds_{name}"
        return after.total(name, side=side) - before.total(name, side=side)

    assert (gained("count", "primary"), gained("count", "mirror")) == (1, 1)
    assert gained("sum", "mirror") - gained("sum", "primary") > 0.1


@pytest.mark.parametrize(
    ("fault", "word", "outcome"),
    [
        ({"status": 503}, "different", "mirror_broken"),
        ({"status": 429}, "different", "mirror_broken"),
        ({"status": 404}, "different", "mirror_client_error"),
        ({"reset": "before-head", "times": 2}, "failed", "mirror_broken"),
        ({"garbage": "http"}, "failed", "mirror_broken"),
    ],
    ids=lambda value: str(value),
)
async def test_its_failure_is_compared_and_concerns_nobody(gateway, b, fault, word, outcome):
    counted = Counted(gateway)
    b.script(fault)
    answer = await exchange(gateway.port, post(chat()))
    assert answer.status == 200
    assert await counted.gained(1) == {word: 1}
    (record,) = [one for one in records(gateway) if one["outcome"].startswith("mirror_")][-1:]
    assert (record["outcome"], record["charged"]) == (outcome, False)


async def test_where_the_request_fails_the_copy_that_did_not_is_different(gateway, a):
    counted = Counted(gateway)
    a.script({"status": 500})
    assert (await exchange(gateway.port, post(chat()))).status == 502
    assert await counted.gained(1) == {"different": 1}


async def test_a_slow_mirror_delays_nobody(gateway, a, b):
    b.script({"delay_s": 0.6, "interval_s": 0.05})
    counted = Counted(gateway)
    async with wire_to(gateway.port) as wire:
        for stream in (False, True, False):
            wire.send(post(chat("nonce-beef", stream=stream)))
            assert (await wire.answer()).status == 200
        assert b.call(lambda mock: mock.in_flight) > 0
    assert await counted.gained(3) == {"same": 3}


async def test_a_client_that_leaves_does_not_end_the_copy(gateway, a, b):
    counted = Counted(gateway)
    a.script({"stall": "before-head"})
    b.script({"delay_s": 0.2})
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat()))
        await a.wait(lambda mock: mock.in_flight == 1)
    assert await counted.gained(1) == {"uncompared": 1}
    assert [one.ended for one in b.seen] == ["complete"]


async def test_its_share_of_requests_is_copied(gateway, a, b):
    counted = Counted(gateway, "tenth")

    async def each(caller) -> None:
        for _ in range(100):
            assert (await caller.ask(chat(model="tenth"))).status == 200

    await with_callers([gateway], 1, each)
    assert await counted.gained(10) == {"same": 10}
    assert (len(a.seen), len(b.seen)) == (100, 10)


async def test_what_the_mirrors_limits_have_no_room_for_is_dropped_and_counted(gateway, a, b):
    counted = Counted(gateway, "narrow")
    b.script({"delay_s": 0.5})
    for _ in range(3):
        assert (await exchange(gateway.port, post(chat(model="narrow")))).status == 200
    assert await counted.gained(3) == {"same": 1, "no_room": 2}
    assert len(b.seen) == 1


async def test_no_more_than_so_many_are_under_way(gateway, a, b):
    counted = Counted(gateway)
    b.script({"delay_s": 1.0, "times": 100})
    answers = await asyncio.gather(*(exchange(gateway.port, post(chat())) for _ in range(80)))
    assert {answer.status for answer in answers} == {200}
    assert await counted.gained(80) == {"same": 64, "too_many": 16}
    assert len(b.seen) == 64


async def test_routes_that_make_something_are_not_copied(gateway, b):
    body = json.dumps({"model": "mock", "prompt": "a cat"}).encode()
    await exchange(gateway.port, post(body, "/v1/images/generations"))
    await gateway.log_line()
    assert len(b.seen) == 0


async def test_a_gateway_that_stops_ends_its_copies_and_says_nothing(far_ends, start_gateway, a, b):
    gateway = start_gateway(config_for(far_ends))
    b.script({"stall": "before-head"}, {"stall": "events:2"})
    for stream in (False, True):
        assert (await exchange(gateway.port, post(chat(stream=stream)))).status == 200
    await b.wait(lambda mock: mock.in_flight == 2)
    assert await asyncio.to_thread(gateway.stop) == 0
    await b.wait(lambda mock: mock.in_flight == 0)
    copies = [one for one in records(gateway) if one["provider_used"] == "m"]
    assert [(one["outcome"], one["charged"]) for one in copies] == [("mirror_cancelled", False)] * 2
    assert [line for line in map(json.loads, gateway.own_lines) if line["level"] != "info"] == []
