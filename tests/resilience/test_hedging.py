"""A late target gets a second one beside it: the first good answer wins, and the client pays for that one."""

import asyncio
import json
import time

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, OTHER_KEY, Gateway, up, wait_for
from proofkit import records
from wireclient import chat, exchange, post, wire_to

AFTER_S = 0.15
LATE = {"first_token_s": 30}
SILENT = {"stall": "before-head"}
PRICES = {"price": {"input": "1.00", "output": "2.00"}}
KNOWN = 120  # answers, so that a target's usual time is known


@pytest.fixture(scope="module")
def shared_gateway(far_ends, module_gateway):
    return module_gateway(config_for(far_ends))


def config_for(far_ends):
    a, b, _ = (end.port for end in far_ends)
    calm = {"breaker": "off"}
    both = {"strategy": "ordered", "targets": [{"provider": "a"}, {"provider": "b"}], **PRICES}
    often = {"after": "150ms", "max_extra": 1.0}
    return {
        "providers": {
            "a": up(a, **calm),
            "b": up(b, **calm),
            "rare": up(a, **calm),
            "slot": up(a, **calm, limits={"concurrent": 1}),
            "narrow": up(b, **calm, limits={"concurrent": 1}),
        },
        "models": {
            "mock": {**both, "hedge": often, "retry": {"max_attempts": 2}, "fallbacks": ["last"]},
            "last": {"targets": [{"provider": "b", "model": "last"}], **PRICES},
            "off": both,
            "usual": {**both, "hedge": {"after": "p95", "max_extra": 1.0}},
            "seldom": {
                **both,
                "targets": [{"provider": "rare"}, {"provider": "b"}],
                "hedge": {"after": "150ms", "max_extra": 0.05},
            },
            "narrow": {**both, "targets": [{"provider": "a"}, {"provider": "narrow"}], "hedge": often},
            "slots": {**both, "targets": [{"provider": "slot"}, {"provider": "narrow"}], "hedge": often},
        },
        "tenants": {
            "acme": {
                "keys": [{"name": "web", "key": CLIENT_KEY}],
                "budgets": [{"amount": "10", "period": "day"}],
            },
            "free": {"keys": [{"name": "web", "key": OTHER_KEY}]},
        },
    }


@pytest.fixture
async def gateway(shared_gateway: Gateway, a: FarEnd, b: FarEnd) -> Gateway:
    await shared_gateway.forget_log()
    a.reset()
    b.reset()
    return shared_gateway


def records_of(gateway: Gateway, request_id: str) -> dict[str, dict]:
    """By provider; each attempt has exactly one."""
    found = [one for one in records(gateway) if one["request_id"] == request_id]
    assert len({one["attempt_id"] for one in found}) == len(found)
    return {one["provider_used"]: one for one in found}


def nothing_is_left(gateway: Gateway) -> None:
    metrics = gateway.metrics()
    assert metrics.total("llm_target_inflight") == 0
    assert metrics.total("llm_inflight_requests") == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [LATE, SILENT], ids=["no-body", "no-head"])
async def test_the_second_wins_and_the_first_ends_at_once(gateway, a, b, stream, fault):
    a.script(fault)
    answer = await exchange(gateway.port, post(chat("nonce-beef", stream=stream)))
    ended_s = time.monotonic()
    await a.wait(lambda mock: mock.in_flight == 0)
    (first,), (second,) = a.seen, b.seen
    assert (first.ended, second.ended) == ("client_gone", "complete")
    assert first.finished_s - ended_s < 0.5
    assert second.started_s - first.started_s >= AFTER_S * 0.9
    assert (answer.status, b"nonce-beef" in answer.body) == (200, True)
    assert answer.header("x-llmgw-provider") == "b"
    assert answer.header("x-llmgw-attempts") == "2"
    assert answer.header("x-llmgw-route") == "a/mock:hedged,a/mock:cancelled,b/mock:ok"
    line = await gateway.log_line()
    assert (line["provider_used"], line["attempts"], line["fallback_used"]) == ("b", 2, False)
    assert line["upstream_ms"] <= line["latency_ms"]
    found = records_of(gateway, line["request_id"])
    assert {name: (one["outcome"], one["charged"]) for name, one in found.items()} == {
        "a": ("cancelled", False),
        "b": ("ok", True),
    }
    assert found["a"]["usage_source"] == "estimated"  # it may be billed
    assert found["b"]["cost_usd_micro"] == round(line["cost_usd"] * 1e6)
    nothing_is_left(gateway)


async def test_a_404_of_the_second_does_not_beat_a_good_answer_that_is_late(gateway, a, b):
    a.script({"delay_s": 0.5})
    b.script({"status": 404})
    answer = await exchange(gateway.port, post(chat()))
    assert (answer.status, answer.header("x-llmgw-provider")) == (200, "a")
    records = records_of(gateway, answer.header("x-request-id"))
    assert {name: (record["charged"], record["outcome"]) for name, record in records.items()} == {
        "a": (True, "ok"),
        "b": (False, "client_error"),
    }
    assert records["b"]["input_tokens"] == 0
    nothing_is_left(gateway)


async def test_the_first_wins_where_it_answers_before_the_second(gateway, a, b):
    a.script({"delay_s": 0.5})
    b.script(SILENT)
    answer = await exchange(gateway.port, post(chat("nonce-beef")))
    await b.wait(lambda mock: mock.in_flight == 0)
    assert [one.ended for one in b.seen] == ["client_gone"]
    assert answer.header("x-llmgw-provider") == "a"
    assert answer.header("x-llmgw-route") == "a/mock:hedged,b/mock:cancelled,a/mock:ok"
    line = await gateway.log_line()
    assert (line["provider_used"], line["attempts"]) == ("a", 2)
    found = records_of(gateway, line["request_id"])
    assert {name: (one["outcome"], one["charged"]) for name, one in found.items()} == {
        "a": ("ok", True),
        "b": ("cancelled", False),
    }
    nothing_is_left(gateway)


@pytest.mark.parametrize(
    ("first", "second", "route"),
    [
        ({"delay_s": 0.4, "status": 503}, {"delay_s": 0.6}, "a/mock:hedged,a/mock:503,b/mock:ok"),
        ({"delay_s": 0.6}, {"status": 503}, "a/mock:hedged,b/mock:503,a/mock:ok"),
    ],
    ids=["first-fails", "second-fails"],
)
async def test_where_one_fails_the_other_is_awaited(gateway, a, b, first, second, route):
    a.script(first)
    b.script(second)
    answer = await exchange(gateway.port, post(chat()))
    assert (answer.status, answer.header("x-llmgw-route")) == (200, route)
    assert (len(a.seen), len(b.seen)) == (1, 1)
    found = records_of(gateway, answer.header("x-request-id"))
    assert sorted((one["outcome"], one["charged"]) for one in found.values()) == [
        ("broken", False),
        ("ok", True),
    ]
    nothing_is_left(gateway)


async def test_where_both_fail_the_next_model_is_asked(gateway, a, b):
    a.script({"delay_s": 0.5, "status": 503})
    b.script({"delay_s": 0.1, "status": 500})
    answer = await exchange(gateway.port, post(chat()))
    assert answer.status == 200
    assert answer.header("x-llmgw-route") == "a/mock:hedged,b/mock:500,a/mock:503,b/last:ok"
    assert answer.header("x-llmgw-model") == "last"
    line = await gateway.log_line()
    assert (line["attempts"], line["fallback_used"]) == (3, True)
    found = [one for one in records(gateway) if one["request_id"] == line["request_id"]]
    assert sorted((one["model_used"], one["outcome"], one["charged"]) for one in found) == [
        ("last", "ok", True),
        ("mock", "broken", False),
        ("mock", "broken", False),
    ]
    nothing_is_left(gateway)


async def test_a_client_that_leaves_ends_both(gateway, a, b):
    a.script(SILENT)
    b.script(SILENT)
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat()))
        await b.wait(lambda mock: mock.in_flight == 1)
    await a.wait(lambda mock: mock.in_flight == 0)
    await b.wait(lambda mock: mock.in_flight == 0)
    assert [one.ended for one in (*a.seen, *b.seen)] == ["client_gone"] * 2
    line = await gateway.log_line()
    assert (line["client_gone"], line["provider_used"], line["attempts"]) == (True, "a", 2)
    found = records_of(gateway, line["request_id"])
    assert {name: (one["outcome"], one["charged"]) for name, one in found.items()} == {
        "a": ("cancelled", True),
        "b": ("cancelled", False),
    }
    nothing_is_left(gateway)


async def test_the_budget_is_used_once(gateway, a, b):
    left = gateway.metrics().total("llm_budget_remaining_usd", tenant="acme")
    a.script(SILENT)
    await exchange(gateway.port, post(chat()))
    line = await gateway.log_line()
    assert line["cost_usd"] > 0
    now_left = gateway.metrics().total("llm_budget_remaining_usd", tenant="acme")
    assert left - now_left == pytest.approx(line["cost_usd"], abs=1e-7)


async def test_without_it_nobody_else_is_asked(gateway, a, b):
    a.script({"delay_s": 0.5})
    answer = await exchange(gateway.port, post(chat(model="off")))
    assert (answer.header("x-llmgw-route"), len(b.seen)) == ("a/off:ok", 0)


async def test_who_answers_in_time_is_left_alone(gateway, a, b):
    for _ in range(20):
        await exchange(gateway.port, post(chat()))
    assert (len(a.seen), len(b.seen)) == (20, 0)


async def test_no_more_than_its_share_of_requests_has_a_second(gateway, a, b):
    for _ in range(20):
        await exchange(gateway.port, post(chat(model="seldom")))
    a.script({"delay_s": 0.4, "times": 100})
    await asyncio.gather(*(exchange(gateway.port, post(chat(model="seldom"))) for _ in range(40)))
    assert 1 <= len(b.seen) <= 0.05 * (20 + 40)


async def test_where_the_other_has_no_room_nobody_waits_for_it(gateway, a, b):
    a.script({"delay_s": 0.6, "times": 3})
    b.script({**SILENT, "times": 3})
    answers = await asyncio.gather(*(exchange(gateway.port, post(chat(model="narrow"))) for _ in range(3)))
    assert [answer.header("x-llmgw-provider") for answer in answers] == ["a"] * 3
    assert len(b.seen) == 1
    nothing_is_left(gateway)


async def test_the_slots_of_both_are_free_again_whoever_wins(gateway, a, b):
    for late, early in ((a, b), (b, a), (a, b)):
        late.script(SILENT)
        early.script({"delay_s": 0.3})
        answer = await exchange(gateway.port, post(chat(model="slots")))
        assert answer.header("x-llmgw-attempts") == "2"
    assert (len(a.seen), len(b.seen)) == (3, 3)


async def test_the_usual_time_is_learned_and_a_lost_race_counts_as_slow(gateway, a, b):
    a.script(SILENT)
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat(model="usual")))
        await a.wait(lambda mock: mock.in_flight == 1)
        await asyncio.sleep(0.2)
        assert len(b.seen) == 0  # too little is known
    await a.wait(lambda mock: mock.in_flight == 0)
    for _ in range(KNOWN):
        await exchange(gateway.port, post(chat(model="usual")))
    a.script({**SILENT, "times": KNOWN})
    b.reset()
    b.script({"delay_s": 0.2, "times": KNOWN})
    answer = await exchange(gateway.port, post(chat(model="usual")))
    assert answer.header("x-llmgw-provider") == "b"
    usual_s = b.seen[0].started_s - a.seen[-1].started_s
    assert usual_s < 0.15
    for _ in range(3):
        await asyncio.gather(*(exchange(gateway.port, post(chat(model="usual"))) for _ in range(20)))
    assert b.seen[-1].started_s - a.seen[-1].started_s > max(0.15, usual_s)


async def test_uploads_are_never_sent_twice(gateway, a, b):
    boundary = "----cut"
    form = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nmock\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
        f"Content-Type: audio/mpeg\r\n\r\n{'x' * 1000}\r\n--{boundary}--\r\n"
    ).encode()
    request = post(form, "/v1/audio/transcriptions", key=OTHER_KEY).replace(
        b"application/json", f"multipart/form-data; boundary={boundary}".encode()
    )
    a.script({"delay_s": 0.5})
    answer = await exchange(gateway.port, request)
    assert (answer.status, answer.header("x-llmgw-attempts"), len(b.seen)) == (200, "1", 0)


async def test_many_races_leave_nothing_behind_and_nothing_said(gateway, a, b):
    for end in (a, b):
        end.script(*({"delay_s": 0.1 + 0.01 * (n % 20), "status": 200 if n % 3 else 503} for n in range(300)))
    answers = await asyncio.gather(
        *(exchange(gateway.port, post(chat(f"nonce-{n:04x}", stream=bool(n % 2)))) for n in range(100))
    )
    for number, answer in enumerate(answers):
        assert answer.status != 200 or f"nonce-{number:04x}".encode() in answer.body
    lines = await gateway.log_lines(100)
    found: dict[str, list[dict]] = {line["request_id"]: [] for line in lines}
    for record in records(gateway):
        if record["request_id"] in found:
            found[record["request_id"]].append(record)
    for line in lines:
        assert len(found[line["request_id"]]) == line["attempts"]
        assert sum(one["charged"] for one in found[line["request_id"]]) <= 1
    await wait_for("nothing in flight", lambda: gateway.metrics().total("llm_target_inflight") == 0)
    said = [json.loads(line) for line in gateway.own_lines]
    assert [line for line in said if line.get("level") not in {"info", "INFO"}] == []


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("sent:2", {"a": ("crashed", True), "b": ("crashed", False)}),
        ("before-settle:1", {"a": ("cancelled", False), "b": ("crashed", True)}),
    ],
)
async def test_a_worker_that_dies_leaves_a_record_of_each_and_a_bill_for_one(
    far_ends, start_gateway, a, b, place, left
):
    gateway = start_gateway(config_for(far_ends), LLMGW_FAILPOINT=place)
    a.script(SILENT)
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat()))
        assert await wire.end() in ("eof", "reset")
    found = await wait_for("two records", lambda: records(gateway)[:2] if len(records(gateway)) > 1 else None)
    assert {one["provider_used"]: (one["outcome"], one["charged"]) for one in found} == left
    assert len({one["attempt_id"] for one in found}) == 2
