"""A request is sent twice only where the first time nothing can have come of it."""

import time
from collections.abc import Iterator

import openai
import pytest
from gatewayrig import CLIENT_KEY, ONCE, Gateway, up
from openai import AsyncOpenAI
from wireclient import chat, exchange, post, post_chunked, wire_to


@pytest.fixture(scope="module")
def one_gateway(shared_far, tmp_path_factory) -> Iterator[Gateway]:
    """One provider, one worker: a second request finds the first one's connection."""
    config = {
        "providers": {
            "up": up(shared_far.port),
            "hasty": up(shared_far.port, timeouts={"first_token": "1s", "idle": "1s"}),
            "brief": up(shared_far.port, connection_age="300ms"),
        },
        "models": {
            "mock": ONCE | {"targets": [{"provider": "up"}]},
            "hasty": ONCE | {"targets": [{"provider": "hasty"}]},
            "brief": ONCE | {"targets": [{"provider": "brief"}]},
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
        "routes": {"/v1/*": "up"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("one"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def one(one_gateway, far) -> Gateway:
    """No connection is left from before."""
    far.hang_up()
    await one_gateway.forget_log()
    return one_gateway


async def ask(gateway: Gateway, text: str = "again", model: str = "mock", **fault: object):
    more = {"mock": fault} if fault else {}
    return await exchange(gateway.port, post(chat(text, model=model, **more)))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("streams", [False, True])
async def test_on_a_connection_that_had_rested_it_is_sent_once_more_when_no_byte_came(one, far, how, streams):
    assert (await ask(one, "first")).status == 200
    far.script({how: "before-head", "contains": "again"})
    answer = await exchange(one.port, post(chat("again", stream=streams)))
    assert (answer.status, answer.is_whole) == (200, True)
    first, lost, sent_again = far.seen
    assert lost.connection == first.connection != sent_again.connection
    assert lost.body == sent_again.body
    lines = await one.log_lines(2)
    assert lines[1]["status"] == 200


async def test_it_is_sent_once_more_and_not_twice(one, far):
    await ask(one, "first")
    far.script({"close": "before-head", "contains": "again", "times": 5})
    assert (await ask(one)).status == 502
    assert far.requests == 1 + 2


async def test_on_a_new_connection_it_is_sent_once(one, far):
    far.script({"close": "before-head", "times": 5})
    assert (await ask(one)).status == 502
    assert far.requests == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"close": "after-head"},
        {"reset": "after-head"},
        {"close": "bytes:10"},
        {"garbage": "http"},
        {"garbage": "json"},
        {"status": 500},
        {"stall": "before-head"},
        {"stall": "after-head"},
    ],
    ids=str,
)
async def test_once_a_byte_came_or_a_deadline_passed_it_is_not_sent_again(one, far, fault):
    model = "hasty" if "stall" in fault else "mock"
    await ask(one, "first", model)
    far.script({**fault, "contains": "again", "times": 5})
    answer = await ask(one, "again", model)
    assert answer.status == (504 if "stall" in fault else 502)
    assert far.requests == 1 + 1
    assert far.seen[1].connection == far.seen[0].connection


async def test_an_upload_that_was_begun_is_not_sent_again(one, far):
    async with AsyncOpenAI(base_url=one.base_url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        await ask(one, "first")
        far.script({"close": "before-head", "path": "/v1/files", "times": 5})
        with pytest.raises(openai.InternalServerError):
            await sdk.files.create(file=("a.bin", b"x" * 300_000), purpose="batch")
    assert [arrival.path for arrival in far.seen].count("/v1/files") == 1


async def test_a_connection_that_the_provider_ends_at_rest_is_noticed(one, far):
    await ask(one, "first")
    far.hang_up()
    await far.wait(lambda mock: mock.open_connections == 0)
    assert (await ask(one)).status == 200
    assert far.requests == 2


async def test_a_provider_that_says_close_is_believed(one, far):
    assert (await ask(one, connection_close=True)).status == 200
    assert (await ask(one)).status == 200
    assert far.seen[0].connection != far.seen[1].connection
    assert far.requests == 2


async def test_a_connection_at_rest_is_ended_at_its_age(one, far):
    began_s = time.monotonic()
    await exchange(one.port, post(chat(model="brief")))
    await far.wait(lambda mock: mock.open_connections == 0)
    assert 0.29 < time.monotonic() - began_s < 10  # 55 s if nobody had said 300 ms


async def test_a_connection_is_not_shared_by_requests_at_the_same_time(one, far):
    far.script({"delay_s": 1.5, "contains": "slow"})
    async with wire_to(one.port) as slow:
        slow.send(post(chat("slow")))
        await far.wait(lambda mock: mock.in_flight == 1)
        assert (await ask(one, "quick")).status == 200
        assert (await slow.answer()).status == 200
    assert far.seen[0].connection != far.seen[1].connection


GONE = {
    "before-the-answer": {"delay_s": 30},
    "within-the-head": {"first_token_s": 30},
    "within-a-stream": {"interval_s": 0.02, "events": 500},
}


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("name", GONE)
async def test_a_client_that_leaves_takes_its_request_at_the_provider_along(gateway, far, build, name):
    """Within 250 ms, though slow turns of this machine are forgiven."""
    took_s: list[float] = []
    while not took_s or min(took_s) >= 0.25:
        assert len(took_s) < 5, f"left after {took_s} s"
        async with wire_to(gateway.port) as wire:
            wire.send(build(chat(stream=True, mock=GONE[name])))
            if name == "within-a-stream":
                await wire.begun(1000)
            else:
                await far.wait(lambda mock: mock.in_flight == 1)
        left_s = time.monotonic()
        await far.wait(lambda mock: mock.in_flight == 0)
        took_s.append(time.monotonic() - left_s)
    assert {arrival.ended for arrival in far.seen} == {"client_gone"}
