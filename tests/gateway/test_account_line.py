"""One log line for each request, whatever ends it, with what it used and what that cost."""

import asyncio
import json
import math
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from gatewayrig import CLIENT_KEY, OTHER_KEY
from wireclient import chat, exchange, get, post, post_chunked, wire_to

FIELDS = [
    "ts",
    "trace_id",
    "request_id",
    "tenant_id",
    "key_name",
    "user",
    "model_requested",
    "model_used",
    "provider_used",
    "endpoint",
    "stream",
    "status",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "usage_source",
    "cost_usd",
    "latency_ms",
    "queue_ms",
    "ttft_ms",
    "upstream_ms",
    "attempts",
    "fallback_used",
    "cache",
    "error_code",
    "client_gone",
]
PACED = {"interval_s": 0.01}


def mock_price_usd(line: dict) -> float:
    """1.00, 0.50 cached and 2.00 USD for a million tokens; whole micro-dollars, rounded up."""
    fresh = line["input_tokens"] - line["cached_tokens"]
    micro = fresh + Fraction(line["cached_tokens"], 2) + 2 * line["output_tokens"]
    return math.ceil(micro) / 1e6


async def test_an_answered_request(gateway):
    body = chat("nonce-beef", user="anna", mock={"cached_tokens": 2})
    answer = await exchange(gateway.port, post(body))
    line = await gateway.log_line()
    usage = answer.json["usage"]
    assert list(line) == FIELDS
    expected = {
        "request_id": answer.header("x-request-id"),
        "tenant_id": "acme",
        "key_name": "web",
        "user": "anna",
        "model_requested": "mock",
        "model_used": "mock",
        "provider_used": "up",
        "endpoint": "/v1/chat/completions",
        "stream": False,
        "status": 200,
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cached_tokens": 2,
        "usage_source": "reported",
        "attempts": 1,
        "fallback_used": False,
        "cache": "bypass",
        "error_code": None,
        "client_gone": False,
    }
    assert {name: line[name] for name in expected} == expected
    assert line["cost_usd"] == mock_price_usd(line)
    assert answer.header("x-llmgw-cost-usd") == f"{line['cost_usd']:.6f}"
    told = {"x-llmgw-provider": "up", "x-llmgw-model": "mock", "x-llmgw-attempts": "1"}
    told |= {"x-llmgw-cache": "bypass", "x-llmgw-queue-ms": "0", "server": "llmgw"}
    assert {name: answer.header(name) for name in told} == told
    assert line["latency_ms"] >= line["ttft_ms"] >= 0
    assert line["latency_ms"] >= line["upstream_ms"] >= 0
    age = datetime.now(UTC) - datetime.fromisoformat(line["ts"])
    assert 0 <= age.total_seconds() < 60


async def test_a_stream_that_did_not_ask_for_usage_is_still_charged_by_report(gateway):
    whole = await exchange(gateway.port, post(chat("nonce-beef")))
    streamed = await exchange(gateway.port, post(chat("nonce-beef", stream=True)))
    first, second = await gateway.log_lines(2)
    assert b"usage" not in streamed.body
    assert second["stream"]
    same = ("input_tokens", "output_tokens", "cost_usd", "usage_source", "status")
    assert [second[name] for name in same] == [first[name] for name in same]
    assert first["usage_source"] == "reported"
    assert whole.header("x-llmgw-cost-usd") is not None
    assert streamed.header("x-llmgw-cost-usd") is None  # not known before the headers leave


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_a_stream_and_the_whole_answer_cost_the_same_on_each_route(gateway, path):
    asked = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    for streams in (False, True):
        body = json.dumps({**asked, "stream": streams}).encode()
        assert (await exchange(gateway.port, post(body, path))).status == 200
    first, second = await gateway.log_lines(2)
    assert first["output_tokens"] > 0
    assert (first["usage_source"], second["usage_source"]) == ("reported", "reported")
    assert second["cost_usd"] == first["cost_usd"] == mock_price_usd(first)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_what_the_provider_does_not_report_is_estimated_from_what_was_relayed(gateway, path, streams):
    asked = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    asked |= {"stream": streams, "mock": {"no_usage": True, "text_bytes": 4000}}
    assert (await exchange(gateway.port, post(json.dumps(asked).encode(), path))).status == 200
    line = await gateway.log_line()
    assert line["usage_source"] == "estimated"
    assert line["input_tokens"] > 0
    assert 1000 <= line["output_tokens"] <= 1100  # 4000 bytes of text at 4 bytes a token, hardly more
    assert line["cost_usd"] == mock_price_usd(line)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions?general=lane"])
async def test_a_large_embeddings_answer_is_charged_by_the_usage_at_its_end(gateway, path):
    asked = {"model": "mock", "input": ["some text"] * 40, "dimensions": 8192, "encoding_format": "float"}
    path = path.replace("chat/completions", "embeddings")
    answer = await exchange(gateway.port, post(json.dumps(asked).encode(), path))
    assert len(answer.body) > 2 << 20
    line = await gateway.log_line()
    assert line["usage_source"] == "reported"
    assert line["input_tokens"] == answer.json["usage"]["prompt_tokens"]
    assert (line["output_tokens"], line["cost_usd"]) == (0, mock_price_usd(line))


@pytest.mark.parametrize("inputs", [1, 40])
async def test_embeddings_without_a_report_are_estimated_by_their_input_alone(gateway, inputs):
    """An embedding has no output tokens, however many bytes its numbers take."""
    asked = {"model": "mock", "input": ["some text"] * inputs, "dimensions": 8192, "encoding_format": "float"}
    asked["mock"] = {"no_usage": True}
    answer = await exchange(gateway.port, post(json.dumps(asked).encode(), "/v1/embeddings"))
    assert answer.status == 200
    line = await gateway.log_line()
    assert line["usage_source"] == "estimated"
    assert inputs <= line["input_tokens"] <= inputs * 10
    assert line["output_tokens"] == 0


REFUSED = [
    (post(b"{"), 400, None, "acme"),
    (post(chat(), key="sk-wrong-0123456789"), 401, "invalid_api_key", ""),
    (post(chat(), key=None), 401, "invalid_api_key", ""),
    (post(chat(model="other"), key=OTHER_KEY), 403, "model_access_denied", "narrow"),
    (post(chat(), "/v1/moderations", key=OTHER_KEY), 403, "model_access_denied", "narrow"),
    (get("/nothing"), 404, "unknown_url", ""),
    (b"NONSENSE\r\n\r\n", 400, None, ""),
    (get("/v1/models", method="OPTIONS"), 405, "method_not_allowed", ""),
    (post(b"", "/v1/chat/completions", "X: " + "x" * 40_000), 431, "request_too_large", ""),
    (post(b"").replace(b"Length: 0", b"Length: 99999999"), 413, "request_too_large", "acme"),
]


@pytest.mark.parametrize(("request_", "status", "code", "tenant"), REFUSED, ids=range(len(REFUSED)))
async def test_a_refused_request_has_its_line_and_costs_nothing(gateway, far, request_, status, code, tenant):
    answer = await exchange(gateway.port, request_)
    line = await gateway.log_line()
    assert answer.status == line["status"] == status
    assert answer.error["code"] == line["error_code"]
    assert line["request_id"] == answer.header("x-request-id")
    assert answer.header("x-should-retry") == "false"
    assert (line["error_code"], line["tenant_id"], line["attempts"]) == (code, tenant, 0)
    assert (line["usage_source"], line["cost_usd"], line["provider_used"]) == (None, None, "")
    assert (line["upstream_ms"], line["ttft_ms"]) == (None, None)
    assert (line["input_tokens"], line["output_tokens"]) == (0, 0)
    assert far.requests == 0


async def test_a_providers_400_costs_nothing(gateway):
    answer = await exchange(gateway.port, post(chat(mock={"status": 400})))
    line = await gateway.log_line()
    assert (answer.status, line["status"], line["attempts"], line["provider_used"]) == (400, 400, 1, "up")
    assert (line["usage_source"], line["cost_usd"]) == (None, None)
    assert answer.header("x-llmgw-cost-usd") is None


async def test_a_broken_stream_is_charged_for_what_was_relayed(gateway):
    body = chat(
        "nonce-beef", stream=True, mock=PACED | {"events": 50, "text_bytes": 5000, "close": "events:11"}
    )
    answer = await exchange(gateway.port, post(body))
    line = await gateway.log_line()
    relayed = len(answer.text)
    assert relayed > 500
    assert (line["status"], line["error_code"], line["client_gone"]) == (200, "upstream_error", False)
    assert line["usage_source"] == "estimated"
    assert line["output_tokens"] == pytest.approx(relayed / 4, abs=6)
    assert line["cost_usd"] == mock_price_usd(line)


async def test_a_client_that_leaves_within_a_stream_pays_for_what_came(gateway, far):
    body = chat(stream=True, mock={"interval_s": 0.01, "events": 500, "text_bytes": 50_000})
    async with wire_to(gateway.port) as wire:
        wire.send(post(body))
        await wire.begun(3000)
    await far.wait(lambda mock: mock.seen.client_gone == 1)
    line = await gateway.log_line()
    assert (line["client_gone"], line["status"], line["usage_source"]) == (True, 200, "estimated")
    assert 50 < line["output_tokens"] < 5000
    assert line["cost_usd"] == mock_price_usd(line)


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_a_client_that_leaves_before_the_answer_pays_for_its_prompt(gateway, far, build):
    async with wire_to(gateway.port) as wire:
        wire.send(build(chat("x" * 400, mock={"delay_s": 30})))
        await far.wait(lambda mock: mock.in_flight == 1)
    await far.wait(lambda mock: mock.seen.client_gone == 1)
    line = await gateway.log_line()
    assert (line["client_gone"], line["usage_source"]) == (True, "estimated")
    assert (100 <= line["input_tokens"] < 150, line["output_tokens"]) == (True, 0)
    assert line["latency_ms"] < 20_000  # of 30 s


async def test_a_client_that_leaves_within_its_request_is_noted_or_nothing_happened(gateway, far):
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat())[:-10])
        await exchange(gateway.port, get("/health/live"))
    await gateway.forget_log()
    assert far.requests == 0


async def test_the_trace_of_the_caller_stands_in_the_line_and_goes_upstream(gateway, far):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for build in (post, post_chunked):
        await exchange(gateway.port, build(chat(), "/v1/chat/completions", f"traceparent: {trace}"))
    for line, arrival in zip(await gateway.log_lines(2), far.seen, strict=True):
        assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert arrival.values("traceparent") == [trace]


async def test_a_key_shows_by_its_name_and_text_of_the_request_stays_out(gateway):
    await exchange(gateway.port, post(chat("my secret prompt"), "/v1/chat/completions?api_key=" + CLIENT_KEY))
    text = json.dumps(await gateway.log_line())
    assert '"key_name": "web"' in text
    assert "secret prompt" not in text
    assert CLIENT_KEY not in text


async def test_a_slow_upload_is_the_clients_time_and_not_the_gateways(gateway):
    """Durations count from the request read whole, on both lanes."""
    overheads_s = []
    for build in (post, post_chunked):
        before_s = gateway.metrics().total("llm_gateway_overhead_seconds_sum")
        request = build(chat())
        async with wire_to(gateway.port) as wire:
            wire.send(request[:-20])
            await asyncio.sleep(1.5)  # the client's slowness is what is tested
            wire.send(request[-20:])
            line = await gateway.log_line((await wire.answer()).header("x-request-id"))
        overheads_s.append(gateway.metrics().total("llm_gateway_overhead_seconds_sum") - before_s)
        assert line["latency_ms"] < 1200
    assert max(overheads_s) < 1.2
