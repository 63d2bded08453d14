"""What the metrics say is what was sent, counted by whoever sent it."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, ONCE, OTHER_KEY, UPSTREAM_KEY, default_config, secrets_in, up, wait_for
from wireclient import chat, exchange, get, post, post_chunked, wire_to

PROMPT = "hello"


@pytest.fixture
async def two_workers(start_gateway, mock):
    return start_gateway(default_config(mock.port), workers=2)


KINDS = {
    "whole": (post(chat(PROMPT)), 200),
    "general": (post_chunked(chat(PROMPT)), 200),
    "stream": (post(chat(PROMPT, stream=True)), 200),
    "bad": (post(b"{"), 400),
    "nobody": (post(chat(), key="sk-wrong-0123456789"), 401),
    "barred": (post(chat(model="other"), key=OTHER_KEY), 403),
    "providers": (post(chat(mock={"status": 404})), 404),
    "broken": (post(chat(mock={"status": 500})), 502),
}


async def test_requests_by_status_are_what_was_sent_whichever_worker_served_them(two_workers, mock):
    sent: Counter[str] = Counter()

    async def one_client(number: int) -> None:
        async with wire_to(two_workers.port) as wire:
            for kind in list(KINDS)[number % 3 :]:
                request, status = KINDS[kind]
                wire.send(request)
                answer = await wire.answer()
                assert answer.status == status, kind
                sent[str(status)] += 1

    await asyncio.gather(*map(one_client, range(40)))
    total = sum(sent.values())
    lines = await two_workers.log_lines(total)
    assert Counter(str(line["status"]) for line in lines) == sent

    metrics = two_workers.metrics()
    assert metrics.by("llm_requests_total", "status") == sent
    assert metrics.total("llm_request_duration_seconds_count") == total
    assert metrics.total("llm_gateway_overhead_seconds_count") == total
    assert metrics.total("llm_time_to_first_token_seconds_count") == sum(
        line["stream"] and line["ttft_ms"] is not None for line in lines
    )
    assert metrics.total("llm_inflight_requests") == 0
    assert metrics.total("llm_upstream_attempts_total") == mock.seen.requests
    outcomes = metrics.by("llm_upstream_attempts_total", "outcome")
    assert outcomes == {"ok": sent["200"], "client_error": sent["404"], "broken": sent["502"]}
    assert await workers_that_served(two_workers) == 2


async def workers_that_served(gateway) -> int:
    """Each worker holds at least one connection to the provider if it asked it."""
    count = 0
    for pid in gateway.worker_pids():
        tcp = Path(f"/proc/{pid}/net/tcp").read_text()  # of the namespace: the inodes tell whose it is
        inodes = {fields[9] for fields in map(str.split, tcp.splitlines()[1:]) if fields[3] == "01"}
        owned = [entry.readlink().name for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        count += any(f"socket:[{inode}]" in owned for inode in inodes)
    return count


async def test_tokens_and_money_are_the_sum_of_the_log(two_workers):
    requests = [post(chat("x" * size, stream=size % 2 == 1)) for size in range(30)]
    requests += [post(chat(model="nobody-priced-this")), post(chat(model="renamed"))]
    answers = await asyncio.gather(*(exchange(two_workers.port, request) for request in requests))
    assert {answer.status for answer in answers} == {200}
    lines = await two_workers.log_lines(len(requests))
    metrics = two_workers.metrics()
    for direction in ("input", "output", "cached"):
        expected = sum(line[f"{direction}_tokens"] for line in lines)
        assert metrics.total("llm_tokens_used_total", tenant="acme", direction=direction) == expected
    expected_micro = sum(round((line["cost_usd"] or 0) * 1e6) for line in lines)
    assert round(metrics.total("llm_cost_usd_total") * 1e6) == expected_micro > 0


async def test_an_unknown_price_is_counted_and_never_a_cost_of_zero(two_workers):
    answer = await exchange(two_workers.port, post(chat(model="nobody-priced-this")))
    line = await two_workers.log_line()
    assert (line["usage_source"], line["cost_usd"]) == ("reported", None)
    assert answer.header("x-llmgw-cost-usd") is None
    metrics = two_workers.metrics()
    assert metrics.total("llm_price_unknown_total", model="*") == 1
    assert metrics.total("llm_cost_usd_total") == 0


async def test_a_price_of_the_shipped_table_is_used_without_a_word_in_the_file(two_workers):
    answer = await exchange(two_workers.port, post(chat("x" * 4000, model="gpt-4o-mini-2024-07-18")))
    usage = answer.json["usage"]
    expected_micro = -(-(usage["prompt_tokens"] * 15 + usage["completion_tokens"] * 60) // 100)
    assert (await two_workers.log_line())["cost_usd"] == expected_micro / 1e6


async def test_a_renamed_model_costs_what_it_is_called_upstream(start_gateway, mock):
    models = {"fast": {"targets": [{"provider": "up", "model": "gpt-4o-mini"}]}}
    gateway = start_gateway(default_config(mock.port, models=models))
    await exchange(gateway.port, post(chat("x" * 4000, model="fast")))
    line = await gateway.log_line()
    assert (line["model_requested"], line["model_used"]) == ("fast", "gpt-4o-mini")
    assert line["cost_usd"] > 0


async def test_labels_come_from_the_configuration_only(gateway):
    strange = "a-name-that-a-client-made-up"
    for request in (
        post(chat(model=strange, user=strange)),
        post(chat(), f"/v1/{strange}"),
        post(chat(model=strange), key=OTHER_KEY),
        post(chat(), key=f"sk-{strange}"),
        get(f"/{strange}"),
        get("/v1/files", method="PUT"),
    ):
        await exchange(gateway.port, request)
    await gateway.log_lines(6)
    text = gateway.metrics_text()
    assert strange not in text
    assert set(re.findall(r'model="([^"]*)"', text)) <= {"", "mock", "renamed", "gpt-*", "*"}
    assert set(re.findall(r'tenant="([^"]*)"', text)) <= {"", "acme", "narrow"}


async def test_a_request_under_way_is_in_the_gauge_until_its_client_leaves(gateway, far):
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat(mock={"delay_s": 30})))
        await far.wait(lambda mock: mock.in_flight == 1)
        assert gateway.metrics().total("llm_inflight_requests") == 1
    await wait_for("the gauge is back", lambda: gateway.metrics().total("llm_inflight_requests") == 0)


LEAKS = {
    "whole": post(chat()),
    "wrong-key": post(chat(), key=CLIENT_KEY + "x"),
    "key-as-model": post(chat(model=CLIENT_KEY), key=OTHER_KEY),
    "key-in-the-path": get(f"/v1/{CLIENT_KEY}", key=None),
    "key-in-the-query": get(f"/nothing?key={CLIENT_KEY}", key=None),
    "refused-upstream": post(chat(mock={"status": 401, "message": f"Incorrect API key: {UPSTREAM_KEY}"})),
    "forbidden-upstream": post(chat(mock={"status": 403, "message": f"Not for {UPSTREAM_KEY}"})),
    "broken-upstream": post(chat(mock={"status": 500, "message": f"Oops, {UPSTREAM_KEY}"})),
    "echoing-header": post(
        chat(mock={"headers": {"x-echo": f"Bearer {UPSTREAM_KEY}", "set-cookie": UPSTREAM_KEY}})
    ),
    "broken-stream": post(chat(stream=True, mock={"events": 9, "reset": "events:3", "interval_s": 0.01})),
    "unreadable": b"POST /v1/x HTTP/1.1\r\nAuthorization: Bearer "
    + CLIENT_KEY.encode()
    + b"\r\nbad header\r\n\r\n",
}


async def test_no_credential_is_in_any_answer_log_or_metric(start_gateway, shared_far: FarEnd):
    shared_far.reset()
    config = default_config(shared_far.port)
    config["providers"]["dead"] = up(1)
    config["models"]["dead"] = ONCE | {"targets": [{"provider": "dead"}]}
    gateway = start_gateway(config)
    for name, request in {**LEAKS, "dead": post(chat(model="dead"))}.items():
        async with wire_to(gateway.port) as wire:
            wire.send(request)
            await wire.answer()
            answer = bytes(wire.raw)
        told = set(secrets_in(answer)) - ({CLIENT_KEY} if name.startswith("key-") else set())
        assert not told, name
    await gateway.forget_log()
    gateway.stop()
    for line in gateway.all_log_lines():
        told = {**line, "model_requested": "", "endpoint": ""}  # a client's own words, whatever they are
        assert not secrets_in(json.dumps(told))
        assert UPSTREAM_KEY not in json.dumps(line)
    assert not secrets_in("".join(gateway.own_lines))


async def test_the_clients_key_is_nowhere_upstream_and_the_providers_key_is_only_there(gateway, far):
    lines = (
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "Cookie",
        "Proxy-Authorization",
        "X-Forwarded-Authorization",
    )
    headers = [f"{name}: {CLIENT_KEY}" for name in lines]
    for build in (post, post_chunked):
        answer = await exchange(gateway.port, build(chat(), "/v1/chat/completions", *headers))
        assert answer.status == 200
    for arrival in far.seen:
        assert CLIENT_KEY not in json.dumps(arrival.headers) + arrival.body.decode()
        assert arrival.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert UPSTREAM_KEY not in gateway.metrics_text()


async def test_an_attempt_is_counted_by_how_it_ended_not_by_how_it_began(gateway, far):
    def outcomes() -> Counter[str]:
        return Counter(gateway.metrics().by("llm_upstream_attempts_total", "outcome"))

    before = outcomes()
    for fault in ({}, {"close": "events:2"}, {"stall": "events:2"}, {"status": 404}):
        async with wire_to(gateway.port) as wire:
            wire.send(post(chat(stream=True, mock={"interval_s": "10ms", **fault})))
            if "stall" not in fault:
                await wire.answer()
            else:
                await wire.begun()  # and the client leaves
    due = {"ok": 1, "broken": 1, "cancelled": 1, "client_error": 1}
    await wait_for("all are counted", lambda: outcomes() - before == due)
