"""What `POST /admin/explain` tells of a request that nobody made: what would happen, and nothing does."""

import asyncio
import json

import pytest
from explainrig import ADMIN_KEY, ask_admin, config_of, explained, lasting, send, supposed
from gatewayrig import OTHER_KEY, Gateway
from wireclient import chat


async def test_a_supposed_request_would_go_to_the_targets_of_the_first_tier(gateway):
    told = await supposed(gateway, model="pair", prompt_bytes=4_000, max_tokens=100, user="anna")
    assert told["outcome"] == {"result": "admitted", "targets": ["a/pair", "b/other-name"]}
    assert told["request"]["priority"] == "interactive" and told["strategy"] == "ordered"
    assert told["estimate"]["output_tokens"] == 100 and told["estimate"]["input_tokens"] >= 1_000
    limits = {limit["limit"]: limit for limit in told["limits"]}
    assert set(limits) == {"tenant:tpm", "user:rpm"}
    assert limits["tenant:tpm"]["asked"] == sum(told["estimate"].values())
    first = told["targets"][0]
    assert (first["verdict"], first["health"]["state"], first["tier"]) == ("go", "closed", 1)
    assert first["price"] == {"input": 1.0, "output": 2.0}
    assert first["cost_usd"] == pytest.approx((told["estimate"]["input_tokens"] + 200) / 1e6, abs=2e-6)


async def test_it_leaves_nothing_behind_and_asks_nobody(gateway, ends):
    await send(gateway, chat(model="turns"))
    await send(gateway, chat(model="bird"))
    await gateway.log_lines(2)
    for end in ends.values():
        end.reset()
    counted = gateway.metrics().total("llm_requests_total")  # a scrape moves windows on
    before = lasting(gateway)
    for model in ("pair", "turns", "behind", "gone", "gone-but", "small", "bird", "mock"):
        for user in (None, "a user that nobody heard of"):
            body = json.loads(chat("hello", model=model))
            await supposed(gateway, model=model, user=user, body=body, tags=["one", "two"], priority="batch")
    after = lasting(gateway)
    assert [region for region in before if before[region] != after[region]] == []
    assert gateway.metrics().total("llm_requests_total") == counted
    assert [len(end.seen) for end in ends.values()] == [0, 0]
    assert len(gateway.all_log_lines()[gateway._skipped :]) == 2


async def test_a_canary_keeps_its_turns(ends, tmp_path):
    ports = {name: end.port for name, end in ends.items()}
    gateway = Gateway(tmp_path / "bird", config_of(ports)).start()
    try:
        went = []
        for turn in range(8):
            for _ in range(turn % 3):
                told = await supposed(gateway, model="bird")
                assert [target["tier"] for target in told["targets"]] == ["canary", 1]
            went.append((await send(gateway, chat(model="bird"))).header("x-llmgw-provider"))
        assert sorted(went) == ["a"] * 4 + ["b"] * 4 and went[0] != went[1]
    finally:
        gateway.kill()


async def test_a_refusal_is_foreseen_with_the_words_that_the_caller_would_get(gateway):
    for _ in range(3):
        real = await send(gateway, chat(), key=OTHER_KEY)
    assert real.status == 429
    told = await supposed(gateway, tenant="narrow", key="one", model="mock")
    outcome = told["outcome"]
    assert (outcome["result"], outcome["limit"], outcome["status"]) == ("refused", "tenant:rpm", 429)
    assert outcome["code"] == real.error["code"]
    assert outcome["message"].partition("Please")[0] == real.error["message"].partition("Please")[0]
    assert 0 < outcome["wait_ms"] <= int(real.header("retry-after-ms")) and outcome["may_wait"] is False
    assert told["fallbacks"] == []


async def test_what_a_key_may_wait_for_is_told(gateway):
    body = {"model": "mock", "max_tokens": 90_000}
    told = await supposed(gateway, key="patient", model="mock", body=body)
    assert told["outcome"]["result"] == "admitted" and told["request"]["max_wait_ms"] > 0
    told = await supposed(gateway, model="mock", max_tokens=200_000)
    outcome = told["outcome"]
    assert (outcome["result"], outcome["limit"], outcome["wait_ms"]) == ("refused", "tenant:tpm", None)
    assert outcome["message"].startswith("Request too large") and outcome["may_wait"] is False


async def test_a_limit_of_the_provider_stands_with_its_target(gateway):
    await send(gateway, chat(model="small"))
    told = await supposed(gateway, model="small")
    assert (told["outcome"]["result"], told["outcome"]["limit"]) == ("refused", "provider:small:rpm")
    (limit,) = told["targets"][0]["limits"]
    assert (limit["limit"], limit["used"], limit["refused"]) == ("provider:small:rpm", 1, True)


async def test_an_open_target_is_told_with_its_wait_and_the_next_tier_would_serve(gateway):
    assert (await send(gateway, chat(model="behind"))).header("x-llmgw-provider") == "b"
    past = await explained(gateway, await send(gateway, chat(model="behind")))
    assert [step["result"] for step in past["route"]] == ["open", "ok"]
    told = await supposed(gateway, model="behind")
    first, second = told["targets"]
    assert (first["target"], first["verdict"], first["health"]["state"]) == ("broken/behind", "open", "open")
    assert 0 < first["wait_ms"] <= 30_000
    assert told["outcome"] == {"result": "admitted", "targets": ["b/behind"]} and second["tier"] == 2


async def test_where_nobody_is_left_that_is_told_or_who_stands_in(gateway):
    await send(gateway, chat(model="gone"))
    told = await supposed(gateway, model="gone")
    outcome = told["outcome"]
    assert (outcome["result"], outcome["status"], outcome["code"]) == ("away", 503, "no_available_upstream")
    assert 0 < outcome["wait_ms"] <= 30_000
    told = await supposed(gateway, model="gone-but")
    assert told["outcome"] == {
        "result": "admitted",
        "targets": ["a/pair", "b/other-name"],
        "fallback": "pair",
    }
    (fallback,) = told["fallbacks"]
    assert (fallback["model"], fallback["because"]) == ("pair", "server_error")
    assert told["targets"][0]["verdict"] == "open"


async def test_who_cannot_serve_it_at_all_is_told_with_the_reason(gateway):
    told = await supposed(gateway, tenant="narrow", key="one", model="unpriced-too")
    skipped = told["targets"][0]
    assert (skipped["verdict"], skipped["why"]) == ("skipped", "price unknown")
    assert told["targets"][1]["verdict"] == "go"


ASKED = {"tenant": "acme", "key": "web", "model": "mock"}
ERRORS = {
    "no tenant": ({"key": "web", "model": "mock"}, 400, None),
    "unknown tenant": ({"tenant": "nix", "key": "web", "model": "mock"}, 404, "tenant_not_found"),
    "unknown key": ({"tenant": "acme", "key": "nix", "model": "mock"}, 404, "key_not_found"),
    "unknown model": ({"tenant": "acme", "key": "web", "model": "nix"}, 404, "model_not_found"),
    "no model": ({"tenant": "acme", "key": "web"}, 400, None),
    "not its model": ({"tenant": "narrow", "key": "one", "model": "pair"}, 403, "model_access_denied"),
    "unknown route": ({"tenant": "acme", "key": "web", "endpoint": "/nowhere"}, 404, "unknown_url"),
    "no route of ours": (ASKED | {"endpoint": "/admin"}, 404, "unknown_url"),
    "respelled route": (ASKED | {"endpoint": "/v1/Chat/completions"}, 404, "unknown_url"),
    "two readings": (ASKED | {"endpoint": "//v1/../x"}, 400, None),
    "odd query": (ASKED | {"endpoint": "/v1/chat/completions?\u00e9"}, 400, None),
    "unknown field": ({"tenant": "acme", "key": "web", "model": "mock", "modell": 1}, 400, None),
    "bad number": ({"tenant": "acme", "key": "web", "model": "mock", "max_tokens": -1}, 400, None),
    "true is no number": ({"tenant": "acme", "key": "web", "model": "mock", "prompt_bytes": True}, 400, None),
    "bad tags": ({"tenant": "acme", "key": "web", "model": "mock", "tags": "!"}, 400, None),
    "bad priority": ({"tenant": "acme", "key": "web", "model": "mock", "priority": "now"}, 400, None),
    "bad body": ({"tenant": "acme", "key": "web", "model": "mock", "body": []}, 400, None),
    "surrogate": (b'{"tenant": "acme", "key": "\\ud800", "model": "mock"}', 400, None),
    "half": (b"{", 400, None),
    "a list": (b"[1]", 400, None),
    "nothing": (b"", 400, None),
    "deep": (b"[" * 100_000, 400, None),
    "too large": (b" " * ((1 << 20) + 1), 413, "request_too_large"),
}


async def test_a_query_makes_no_other_route(gateway):
    plain, asked = [
        await supposed(gateway, model="pair", max_tokens=100, endpoint="/v1/chat/completions" + query)
        for query in ("", "?x=1")
    ]
    assert asked["request"] == plain["request"] and asked["estimate"] == plain["estimate"]


@pytest.mark.parametrize("case", ERRORS)
async def test_a_question_that_cannot_be_answered_is_told_so_in_json(gateway, case):
    question, status, code = ERRORS[case]
    found, told = await asyncio.to_thread(ask_admin, gateway, "", question)
    assert found == status, told
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["code"] == code
    assert gateway.fetch(f"{gateway.admin_url}/health/live")[0] == 200


async def test_the_admin_listeners_key_is_needed_here_as_everywhere(ends, tmp_path):
    config = config_of({name: end.port for name, end in ends.items()})
    config["server"] = {"admin": {"port": 0, "keys": [{"name": "ops", "key": ADMIN_KEY}]}}
    gateway = Gateway(tmp_path / "keyed", config).start()
    try:
        question = {"tenant": "acme", "key": "web", "model": "mock"}
        for path, asked in (("", None), ("", question), ("/req_x", None)):
            assert (await asyncio.to_thread(ask_admin, gateway, path, asked))[0] == 401
            assert (await asyncio.to_thread(ask_admin, gateway, path, asked, "sk-other"))[0] == 401
        assert (await asyncio.to_thread(ask_admin, gateway, "", question, ADMIN_KEY))[0] == 200
    finally:
        gateway.kill()
