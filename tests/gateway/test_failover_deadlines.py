"""Each of the deadlines ends what it is for, and none ends anything else."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import openai
import pytest
from gatewayrig import CLIENT_KEY, POLL_S, Gateway, up
from openai import AsyncOpenAI
from wireclient import chat, exchange, get, post, post_chunked, wire_to

NAMES = ("deaf", "deafer", "up", "first", "idle", "total")
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def deaf_port() -> Iterator[int]:
    """Of a listener whose queue is full: the kernel lets further attempts to connect wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="module")
def timed_gateway(shared_far, deaf_port, tmp_path_factory) -> Iterator[Gateway]:
    port = shared_far.port
    config = {
        "server": {"timeouts": {"body": "400ms", "header": "400ms", "keep_alive": "500ms"}},
        "providers": {
            "deaf": up(deaf_port, timeouts={"connect": "300ms"}),
            "deafer": up(deaf_port, timeouts={"connect": "60s", "first_token": "60s"}),
            "up": up(port),
            "first": up(port, timeouts={"first_token": "1s"}),
            "idle": up(port, timeouts={"idle": "1s"}),
            "total": up(port, timeouts={"total": "2s"}),
        },
        "models": {
            **{name: {"targets": [{"provider": name}]} for name in NAMES},
            "deaf-or-up": {"strategy": "ordered", "targets": [{"provider": "deaf"}, {"provider": "up"}]},
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
        "routes": {"/v1/*": "up"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("timed"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def timed(timed_gateway, far) -> Gateway:
    await timed_gateway.forget_log()
    far.reset()
    return timed_gateway


async def test_connecting_has_a_deadline(timed):
    began_s = time.monotonic()
    answer = await exchange(timed.port, post(chat(model="deaf")))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert 0.29 < time.monotonic() - began_s < 4.5  # 5 s if nobody had said 300 ms
    assert timed.metrics().total("llm_upstream_attempts_total", provider="deaf", outcome="timeout") >= 1


async def test_who_cannot_be_connected_to_in_time_is_passed_over(timed):
    answer = await exchange(timed.port, post(chat(model="deaf-or-up", stream=True)))
    assert (answer.status, answer.header("x-llmgw-provider")) == (200, "up")


async def test_a_client_that_leaves_while_we_connect_leaves_nothing(timed):
    async with wire_to(timed.port) as wire:
        wire.send(post(chat(model="deafer")))
        assert (await exchange(timed.port, get("/health/live"))).status == 200
    line = await timed.log_line()
    assert line["client_gone"]
    assert line["latency_ms"] < 20_000
    assert timed.metrics().total("llm_inflight_requests") == 0


EACH = [
    ("first", {"delay_s": 20}, 504),
    ("first", {"first_token_s": 20}, 504),
    ("first", {"interval_s": 1.1, "events": 1}, 200),  # the first came in time; idle is longer
    ("idle", {"first_token_s": 1.5}, 200),
    ("idle", {"interval_s": 0.2, "events": 6}, 200),
    ("total", {"interval_s": 0.1, "events": 2}, 200),
]


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_each_deadline_ends_only_what_it_is_for(timed, build):
    bodies = [chat(model=model, stream=True, mock=fault) for model, fault, _ in EACH]
    answers = await asyncio.gather(*(exchange(timed.port, build(body)) for body in bodies))
    for answer, (model, fault, status) in zip(answers, EACH, strict=True):
        assert answer.status == status, (model, fault)
        if status == 200:
            assert answer.is_whole, (model, fault)
            assert answer.events[-1] == b"[DONE]"


@pytest.mark.parametrize(("model", "pace_s"), [("idle", 20.0), ("total", 0.05)])
async def test_a_stream_that_exceeds_its_deadline_ends_in_an_error(timed, model, pace_s):
    began_s = time.monotonic()
    body = chat(model=model, stream=True, mock={"interval_s": pace_s, "events": 1000})
    answer = await exchange(timed.port, post(body))
    assert time.monotonic() - began_s < 10
    assert json.loads(answer.events[-1])["error"]["code"] == "upstream_timeout"
    assert not answer.is_whole


async def test_a_stream_may_last_longer_than_its_requests_body_may_take(timed):
    """The general lane watches the body; when that is here, the watch is over."""
    body = chat("nonce-beef", model="up", stream=True, mock={"interval_s": 0.1, "events": 4})
    async with wire_to(timed.port) as wire:
        for _ in range(2):
            wire.send(post_chunked(body))
            answer = await wire.answer()
            assert answer.text.startswith("nonce-beef ")
            assert answer.is_whole


async def test_an_answer_may_take_longer_than_a_connection_may_rest(timed):
    body = chat(model="up", mock={"delay_s": 0.8})
    for answer in await asyncio.gather(
        *(exchange(timed.port, build(body)) for build in (post, post_chunked))
    ):
        assert answer.status == 200


@pytest.mark.parametrize("request_", [post(chat(model="up")), get("/v1/models")], ids=["fast", "general"])
async def test_a_connection_at_rest_is_ended_in_time(timed, request_):
    async with wire_to(timed.port) as wire:
        began_s = time.monotonic()
        wire.send(request_)
        await wire.answer()
        assert await wire.end() == "eof"
        assert 0.45 < time.monotonic() - began_s < 10  # 75 s if nobody had said 500 ms


async def test_the_sdks_own_timeout_ends_the_request_everywhere(timed, far):
    async with AsyncOpenAI(base_url=timed.base_url, api_key=CLIENT_KEY, max_retries=0, timeout=1.0) as sdk:
        with pytest.raises(openai.APITimeoutError):
            await sdk.chat.completions.create(model="up", messages=ASK, extra_body={"mock": {"delay_s": 20}})
    await far.wait(lambda mock: mock.seen.client_gone == 1)
    assert (await timed.log_line())["client_gone"]


async def test_a_cancelled_task_of_the_sdk_ends_the_request_everywhere(timed, far):
    async with AsyncOpenAI(base_url=timed.base_url, api_key=CLIENT_KEY) as sdk:
        asking = asyncio.create_task(
            sdk.chat.completions.create(model="up", messages=ASK, extra_body={"mock": {"delay_s": 20}})
        )
        await far.wait(lambda mock: mock.in_flight == 1)
        asking.cancel()
        await far.wait(lambda mock: mock.seen.client_gone == 1)
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert (await timed.log_line())["client_gone"]


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_a_client_that_drips_its_body_can_read_why_it_was_refused(timed, build):
    """Closing at once would reset the connection under what it still sends, and it might lose the answer."""
    request = build(b" " * 5000)
    drip = b" " if build is post else b"1\r\n \r\n"
    async with wire_to(timed.port) as wire:
        wire.send(request[:1000] if build is post else request.removesuffix(b"0\r\n\r\n"))
        answering = asyncio.create_task(wire.answer())
        while not answering.done():
            wire.send(drip)
            await asyncio.sleep(POLL_S)
        for _ in range(20):
            assert not wire.is_lost
            wire.send(drip)
            await asyncio.sleep(POLL_S)
        answer = await answering
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert answer.header("connection") == "close"
    assert answer.header("x-should-retry") == "false"
