"""Eight times what a worker may have in flight: the surplus is told at once, the rest goes on as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from burst import Burst, quantile, told
from farend import FarEnd
from gatewayrig import Gateway, default_config, wait_for
from wireclient import Wire, chat, exchange, get, post, post_chunked, wire_to

INFLIGHT = 8
SERVICE_S = 0.1
CAPACITY_PER_S = INFLIGHT / SERVICE_S
SLOW = {"mock": {"delay_s": SERVICE_S}}
LANES = {"fast": post, "general": post_chunked}


@pytest.fixture
def narrow(start_gateway: Callable[..., Gateway], far: FarEnd) -> Iterator[Gateway]:
    """A gateway that takes on INFLIGHT requests at a time."""
    gateway = start_gateway(default_config(far.port, server={"overload": {"max_inflight": INFLIGHT}}))
    yield gateway
    assert [line for line in gateway.own_lines if '"error"' in line or "Traceback" in line] == []


async def idle(gateway: Gateway) -> None:
    await wait_for("nothing is in flight", lambda: gateway.metrics().total("llm_inflight_requests") == 0)


@pytest.mark.parametrize("lane", LANES)
async def test_a_burst_of_eight_times_the_capacity(narrow: Gateway, far: FarEnd, lane: str) -> None:
    request = LANES[lane](chat(**SLOW))
    assert (await exchange(narrow.port, request)).status == 200  # what a first request has to make is there
    quiet = Burst(narrow.port, far.port, request)
    await quiet.run(CAPACITY_PER_S / 4, 1.0)
    assert len(quiet.of(200)) == len(quiet.outcomes)
    burst = Burst(narrow.port, far.port, request)
    await burst.run(8 * CAPACITY_PER_S, 2.0)
    served, refused = burst.of(200), burst.of(503)
    print(lane, told("quiet", quiet.of(200)), told("served", served), sep="; ")
    print(lane, told("refused", refused), told("health", burst.health_s), sep="; ")
    print(lane, told("noise", burst.noise_s))
    noise_p50_s, noise_p99_s = quantile(burst.noise_s, 0.5), 4 * quantile(burst.noise_s, 0.99)
    assert len(served) + len(refused) == len(burst.outcomes)
    assert len(served) >= CAPACITY_PER_S  # of two seconds
    assert quantile(refused, 0.5) < 0.01 + noise_p50_s
    assert quantile(refused, 0.99) < SERVICE_S + noise_p99_s
    assert quantile(served, 0.5) < 2 * quantile(quiet.of(200), 0.5) + noise_p50_s
    assert quantile(served, 0.99) < 4 * quantile(quiet.of(200), 0.99) + noise_p99_s
    assert quantile(burst.health_s, 0.5) < 0.01 + noise_p50_s
    assert quantile(burst.health_s, 0.99) < SERVICE_S + noise_p99_s
    await idle(narrow)
    metrics = narrow.metrics()
    assert metrics.total("llm_overload_refused_total", reason="inflight") == len(refused)
    assert metrics.total("llm_requests_total", status="503", tenant="acme") == len(refused)
    after = Burst(narrow.port, far.port, request)
    await after.run(CAPACITY_PER_S / 4, 0.5)
    assert len(after.of(200)) == len(after.outcomes)


@pytest.fixture
async def full(narrow: Gateway, far: FarEnd) -> list[Wire]:
    """As many requests as may be in flight, each of them a stream that stands still."""
    silent = post(chat(stream=True, mock={"stall": "events:1"}))
    wires = [await Wire.open(narrow.port) for _ in range(INFLIGHT)]
    for wire in wires:
        wire.send(silent)
    for wire in wires:
        await wire.begun()
    return wires


@pytest.mark.parametrize("lane", LANES)
async def test_a_refusal_says_when_to_come_back_and_leaves_its_connection_open(
    narrow: Gateway, full: list[Wire], far: FarEnd, lane: str
) -> None:
    asked = far.requests
    async with wire_to(narrow.port) as wire:
        for _ in range(3):
            wire.send(LANES[lane](chat()))
            answer = await wire.answer()
            assert (answer.status, answer.error["type"], answer.error["code"]) == (
                503,
                "api_error",
                "overloaded",
            )
            assert answer.header("x-should-retry") == "true"
            assert answer.header("retry-after") in {"1", "2"}
            assert 1000 <= int(answer.header("retry-after-ms") or 0) <= 2000
            if lane == "general":
                break  # its body was not read, so nothing can follow it
            assert answer.keeps_alive
    assert far.requests == asked
    line = (await narrow.log_lines(1 if lane == "general" else 3))[0]
    assert (line["status"], line["error_code"], line["tenant_id"]) == (503, "overloaded", "acme")
    assert line["attempts"] == 0
    for each in full:
        each.close()
    await idle(narrow)
    assert (await exchange(narrow.port, LANES[lane](chat()))).status == 200


async def test_health_and_the_admin_listener_are_never_refused(narrow: Gateway, full: list[Wire]) -> None:
    assert (await exchange(narrow.port, get("/v1/models"))).status == 503
    for path in ("/health/live", "/health/ready"):
        assert (await exchange(narrow.port, get(path, key=None))).status == 200
    assert narrow.metrics().total("llm_inflight_requests") == INFLIGHT
    for each in full:
        each.close()


async def test_who_is_not_known_is_told_that_and_takes_no_place(narrow: Gateway, full: list[Wire]) -> None:
    answers = [await exchange(narrow.port, make(chat(), key="sk-nobody")) for make in LANES.values()]
    assert [answer.status for answer in answers] == [401, 401]
    for each in full:
        each.close()


async def test_a_request_whose_body_is_still_to_come_has_its_place(narrow: Gateway) -> None:
    waiting = [await Wire.open(narrow.port) for _ in range(INFLIGHT)]
    body = chat()
    for wire in waiting:
        wire.send(post(body)[: -len(body)])

    async def status() -> int:
        return (await exchange(narrow.port, post(chat(), "/v1/chat/completions"))).status

    while await status() != 503:
        pass
    for wire in waiting[:-1]:
        wire.close()
    waiting[-1].send(body)
    assert (await waiting[-1].answer()).status == 200
    while await status() != 200:
        pass
    waiting[-1].close()
