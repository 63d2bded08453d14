"""When nobody is left: the operator's own words, in the shape of the route, for nothing."""

import asyncio
import json

import pytest
from gatewayrig import CLIENT_KEY, up
from openai import AsyncOpenAI
from proofkit import records
from wireclient import chat, exchange, post, post_chunked

MESSAGE = 'We are sorry, "everybody" is out – try again soon.'
ASK = [{"role": "user", "content": "hello"}]
PATHS = {
    "/v1/chat/completions": {"messages": ASK},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
}


@pytest.fixture(scope="module")
def shared_gateway(far_ends, module_gateway):
    model = {
        "targets": [{"provider": "a"}],
        "retry": {"max_attempts": 1},
        "price": {"input": "1.00", "output": "2.00"},
    }
    impatient = {"timeouts": {"first_token": "200ms"}}
    config = {
        "providers": {
            "a": up(far_ends[0].port, breaker="off", retry_budget={"per_second": 1000}),
            "slow": up(far_ends[0].port, breaker="off", **impatient),
            "gone": up(far_ends[1].port, breaker={"failures": 1, "open": "60s"}),
        },
        "models": {
            "mock": {**model, "degraded": {"message": MESSAGE}, "fallbacks": ["plain"]},
            "plain": model,
            "slow": {**model, "targets": [{"provider": "slow"}], "degraded": {"message": MESSAGE}},
            "gone": {**model, "targets": [{"provider": "gone"}], "degraded": {"message": MESSAGE}},
        },
        "tenants": {
            "acme": {
                "keys": [{"name": "web", "key": CLIENT_KEY}],
                "budgets": [{"amount": "10", "period": "day"}],
            }
        },
    }
    return module_gateway(config)


@pytest.fixture
async def gateway(shared_gateway, a, b):
    await shared_gateway.forget_log()
    a.reset()
    a.script({"status": 503, "times": 1000})
    b.script({"status": 503, "times": 1000})
    return shared_gateway


@pytest.fixture
async def client(gateway):
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=CLIENT_KEY, max_retries=0) as opened:
        yield opened


def request_for(path: str, *, stream: bool, **more: object) -> bytes:
    body = {"model": "mock", "stream": stream, **PATHS[path], **more}
    return post(json.dumps(body).encode(), path)


def payloads(events: list[bytes]) -> list[dict]:
    return [json.loads(event) for event in events if event != b"[DONE]"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_the_answer_says_that_it_is_one_and_the_log_why(gateway, path, stream):
    answer = await exchange(gateway.port, request_for(path, stream=stream))
    assert answer.status == 200
    assert answer.header("x-llmgw-degraded") == "true"
    assert answer.header("x-llmgw-route") == "a/mock:503,a/plain:503"
    assert answer.header("x-llmgw-attempts") == "2"
    assert answer.header("x-llmgw-cache") == "bypass"
    assert answer.header("x-llmgw-cost-usd") == "0.000000"
    assert answer.header("x-llmgw-provider") is answer.header("x-llmgw-model") is None
    assert answer.header("content-type") == ("text/event-stream" if stream else "application/json")
    line = await gateway.log_line()
    assert (line["status"], line["error_code"], line["provider_used"]) == (200, "degraded", "")
    assert (line["attempts"], line["stream"], line["client_gone"]) == (2, stream, False)
    assert line["input_tokens"] == line["output_tokens"] == line["cost_usd"] == 0
    assert json.dumps(MESSAGE, ensure_ascii=False) in answer.body.decode()


async def test_it_is_in_the_metrics_as_a_request_of_no_provider(gateway):
    before = gateway.metrics()
    await exchange(gateway.port, request_for("/v1/chat/completions", stream=False))
    after = gateway.metrics()
    labels = {"model": "mock", "provider": "", "status": "200"}
    name = "llm_requests_total"
    assert after.total(name, **labels) == before.total(name, **labels) + 1
    for name in ("llm_tokens_used_total", "llm_cost_usd_total"):
        assert after.total(name) == before.total(name)


async def test_nobody_pays_and_each_attempt_is_on_record(gateway):
    answer = await exchange(gateway.port, request_for("/v1/chat/completions", stream=False))
    found = [one for one in records(gateway) if one["request_id"] == answer.header("x-request-id")]
    assert [(one["outcome"], one["charged"]) for one in found] == [("broken", False)] * 2
    left = gateway.metrics().total("llm_budget_remaining_usd", tenant="acme")
    assert left == pytest.approx(10, abs=1e-9)


async def test_of_a_silent_provider_it_comes_when_the_deadline_has_passed_and_nobody_pays(gateway, a):
    a.reset()
    a.script({"stall": "before-head"})
    answer = await exchange(gateway.port, post(chat(model="slow")))
    assert (answer.status, answer.header("x-llmgw-route")) == (200, "slow/slow:timeout")
    (record,) = [one for one in records(gateway) if one["request_id"] == answer.header("x-request-id")]
    assert (record["outcome"], record["charged"]) == ("timeout", False)
    assert record["input_tokens"] > 0  # it may be billed
    assert (await gateway.log_line())["input_tokens"] == 0
    assert gateway.metrics().total("llm_budget_remaining_usd", tenant="acme") == pytest.approx(10, abs=1e-9)


async def test_where_no_target_is_available_it_comes_without_an_attempt(gateway):
    await exchange(gateway.port, post(chat(model="gone")))
    answer = await exchange(gateway.port, post(chat(model="gone")))
    assert (answer.status, answer.header("x-llmgw-degraded")) == (200, "true")
    assert (answer.header("x-llmgw-route"), answer.header("x-llmgw-attempts")) == ("gone/gone:open", "0")


async def test_what_has_no_text_keeps_its_error(gateway):
    body = json.dumps({"model": "mock", "input": "hello"}).encode()
    answer = await exchange(gateway.port, post(body, "/v1/embeddings"))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert answer.header("x-llmgw-degraded") is None


async def test_a_model_without_one_keeps_its_error(gateway):
    answer = await exchange(gateway.port, post(chat(model="plain")))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")


async def test_what_the_provider_says_of_the_request_is_no_reason_for_it(gateway, a):
    a.reset()
    a.script({"status": 404})
    answer = await exchange(gateway.port, post(chat()))
    assert (answer.status, answer.header("x-llmgw-degraded")) == (404, None)


async def test_a_stream_that_breaks_off_stays_broken(gateway, a):
    a.reset()
    a.script({"close": "events:3", "events": 6, "interval_s": 0.01})
    answer = await exchange(gateway.port, post(chat(stream=True)))
    assert answer.header("x-llmgw-degraded") is None
    assert b"[DONE]" not in answer.body
    assert MESSAGE.encode() not in answer.body


async def test_a_stream_has_the_role_the_words_the_end_and_the_usage_that_was_asked_for(gateway):
    path = "/v1/chat/completions"
    plain = await exchange(gateway.port, request_for(path, stream=True))
    asked = await exchange(
        gateway.port, request_for(path, stream=True, stream_options={"include_usage": True})
    )
    assert plain.events[-1] == asked.events[-1] == b"[DONE]"
    choices = [event["choices"][0] for event in payloads(plain.events)]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": MESSAGE},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert all("usage" not in event for event in payloads(plain.events))
    *rest, last = payloads(asked.events)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 0
    assert all(event["usage"] is None for event in rest)


async def test_the_sdk_reads_it_whole(client):
    answer = await client.chat.completions.create(model="mock", messages=ASK)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (MESSAGE, "stop")
    assert (answer.model, answer.usage.total_tokens) == ("mock", 0)
    assert (await client.completions.create(model="mock", prompt="hi")).choices[0].text == MESSAGE
    assert (await client.responses.create(model="mock", input="hi")).output_text == MESSAGE


async def test_the_sdk_reads_it_as_a_stream(client):
    stream = await client.chat.completions.create(model="mock", messages=ASK, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == MESSAGE
    texts = await client.completions.create(model="mock", prompt="hi", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in texts]) == MESSAGE
    async with client.responses.stream(model="mock", input="hi") as events:
        async for _ in events:
            pass
        assert (await events.get_final_response()).output_text == MESSAGE


@pytest.mark.parametrize("stream", [False, True])
async def test_the_general_lane_says_the_same(gateway, stream):
    request = post_chunked(chat(stream=stream))
    answer = await exchange(gateway.port, request)
    assert (answer.status, answer.header("x-llmgw-degraded")) == (200, "true")
    assert (answer.header("content-type"), answer.header("x-llmgw-route")) == (
        "text/event-stream" if stream else "application/json",
        "a/mock:503,a/plain:503",
    )
    assert json.dumps(MESSAGE, ensure_ascii=False) in answer.body.decode()


async def test_many_at_once_leave_nothing_in_flight(gateway):
    request = request_for("/v1/chat/completions", stream=True)
    answers = await asyncio.gather(*(exchange(gateway.port, request) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    metrics = gateway.metrics()
    assert metrics.total("llm_inflight_requests") == 0
    assert metrics.total("llm_target_inflight") == 0
