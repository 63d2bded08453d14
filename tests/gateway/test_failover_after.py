"""After the first byte nobody else is asked: what the client got is a prefix of one provider's answer."""

import asyncio
import json
from collections.abc import Collection, Iterator

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, Gateway, up
from wireclient import Answer, chat, exchange, post, post_chunked, wire_to

EVENTS = 6
PACED = {"interval_s": 0.01, "events": EVENTS}
HASTY = {"first_token": "20s", "idle": "1s"}  # longer than a busy machine's pauses


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[tuple[FarEnd, FarEnd]]:
    pair = FarEnd(), FarEnd()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture(scope="module")
def pair_gateway(shared_pair, tmp_path_factory) -> Iterator[Gateway]:
    a, b = (end.port for end in shared_pair)
    config = {
        "providers": {"a": up(a), "hasty-a": up(a, timeouts=HASTY), "b": up(b)},
        "models": {
            "mock": {"strategy": "ordered", "targets": [{"provider": "a"}, {"provider": "b"}]},
            "hasty": {"strategy": "ordered", "targets": [{"provider": "hasty-a"}, {"provider": "b"}]},
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }
    gateway = Gateway(tmp_path_factory.mktemp("pair"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def a(shared_pair) -> FarEnd:
    shared_pair[0].reset()
    return shared_pair[0]


@pytest.fixture
async def b(shared_pair) -> FarEnd:
    shared_pair[1].reset()
    return shared_pair[1]


@pytest.fixture
async def pair(pair_gateway, a, b) -> Gateway:
    await pair_gateway.forget_log()
    return pair_gateway


async def broken(gateway: Gateway, request: bytes) -> Answer:
    """The answer, and the connection has ended behind it."""
    async with wire_to(gateway.port) as wire:
        wire.send(request)
        answer = await wire.answer()
        assert await wire.end() in ("eof", "reset")
    return answer


def model_for(fault: Collection[str]) -> str:
    """Silence alone is waited for by who waits not long."""
    return "hasty" if "stall" in fault else "mock"


def body_of(path: str, **fault: object) -> bytes:
    asked = {"model": model_for(fault), "stream": True, "mock": PACED | fault}
    asked |= (
        {"messages": [{"role": "user", "content": "nonce-beef"}]}
        if "chat" in path
        else {"input": "nonce-beef"}
    )
    return json.dumps(asked).encode()


async def whole_stream(far: FarEnd, path: str) -> list[bytes]:
    """What the provider sends to whoever asks it alone; its ids hold a digest of the body, ours another."""
    answer = await exchange(far.port, post(body_of(path), path))
    far.reset()
    return [without_ids(event) for event in answer.events]


def without_ids(event: bytes) -> bytes:
    if not event.startswith(b"{"):
        return event
    value = json.loads(event)
    for name in ("id", "model"):
        value.pop(name, None)
    for name in ("response", "item"):
        if isinstance(value.get(name), dict):
            value[name] = {key: inner for key, inner in value[name].items() if key not in ("id", "model")}
    value.pop("item_id", None)
    return json.dumps(value).encode()


PATHS = ["/v1/chat/completions", "/v1/responses"]
ENDS = [
    ("close", "closed the connection"),
    ("reset", "closed the connection"),
    ("stall", "did not answer in time"),
]


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("how", "words"), ENDS)
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_a_stream_that_is_cut_ends_in_one_error_event_and_no_done(
    pair, a, b, path, how, words, count, build
):
    whole = await whole_stream(a, path)
    answer = await broken(pair, build(body_of(path, **{how: f"events:{count}"}), path))
    *got, last = answer.events
    assert [without_ids(event) for event in got] == whole[: len(got)]
    assert len(got) == count or (how == "reset" and len(got) < count)  # a reset may overtake what it follows
    error = json.loads(last)["error"]
    assert words in error["message"]
    assert error["code"] == ("upstream_timeout" if how == "stall" else "upstream_error")
    assert b"[DONE]" not in answer.body
    assert not answer.is_whole
    provider = "hasty-a" if how == "stall" else "a"
    assert (answer.status, answer.header("x-llmgw-provider")) == (200, provider)
    assert (a.requests, b.requests) == (1, 0)
    line = await pair.log_line()
    assert (line["attempts"], line["status"], line["error_code"]) == (1, 200, error["code"])
    assert (line["fallback_used"], line["usage_source"]) == (False, "estimated")


@pytest.mark.parametrize("offset", range(300, 1700, 97))
async def test_a_stream_cut_at_any_byte_brings_whole_events_only(pair, a, b, offset):
    whole = await whole_stream(a, PATHS[0])
    answer = await broken(pair, post(body_of(PATHS[0], close=f"bytes:{offset}")))
    *got, last = answer.events
    assert [without_ids(event) for event in got] == whole[: len(got)]
    assert json.loads(last)["error"]["code"] == "upstream_error"
    assert 0 < len(got) < len(whole)
    assert b.requests == 0


@pytest.mark.parametrize(
    "fault", [{"no_done": True}, {"error_event": 3}, {"garbage": "json", "close": "events:4"}]
)
async def test_a_stream_without_its_end_is_never_given_one(pair, a, b, fault):
    answer = await broken(pair, post(body_of(PATHS[0], **fault)))
    assert b"[DONE]" not in answer.body
    assert [b'"error"' in event for event in answer.events[-2:]] == [False, True]
    assert not answer.is_whole
    assert b.requests == 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_providers_own_error_event_reaches_the_client_as_it_is_and_is_the_last(pair, a, b, path):
    answer = await broken(pair, post(body_of(path, error_event=3), path))
    assert len(answer.events) == 4
    assert b"The server had an error while processing your request." in answer.events[-1]
    assert b.requests == 0


async def test_a_stream_that_breaks_behind_its_end_was_whole(pair, a, b):
    """[DONE] is out: nothing is missing, whatever the connection does then."""
    whole = await whole_stream(a, PATHS[0])
    with_usage = len(whole) + 1  # which we ask for
    answer = await exchange(pair.port, post(body_of(PATHS[0], close=f"events:{with_usage}")))
    assert answer.is_whole
    assert answer.events[-1] == b"[DONE]"
    line = await pair.log_line()
    assert (line["error_code"], line["usage_source"]) == (None, "reported")


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_a_large_answer_that_is_cut_stays_short_and_says_nothing_else(pair, a, b, how, build):
    """Its length was promised, so the missing bytes are the sign; no JSON error stands within."""
    asked = {"model": "mock", "input": ["x"] * 40, "dimensions": 8192, "encoding_format": "float"}
    direct = await exchange(a.port, post(json.dumps(asked).encode(), "/v1/embeddings"))
    a.reset()
    body = json.dumps(asked | {"model": model_for([how]), "mock": {how: "bytes:1500000"}}).encode()
    answer = await broken(pair, build(body, "/v1/embeddings"))
    assert answer.status == 200
    assert not answer.is_whole
    assert direct.body.startswith(answer.body)
    assert len(answer.body) <= 1_500_000
    assert b.requests == 0
    line = await pair.log_line()
    assert (line["status"], line["attempts"]) == (200, 1)
    assert line["error_code"] == ("upstream_timeout" if how == "stall" else "upstream_error")


@pytest.mark.parametrize("how", ["close", "stall"])
async def test_binary_that_is_cut_is_cut_for_the_client_too(pair, a, b, how):
    asked = {"model": model_for([how]), "input": "x", "voice": "y"}
    body = json.dumps(asked | {"mock": {"text_bytes": 400_000, how: "bytes:300000"}})
    answer = await broken(pair, post(body.encode(), "/v1/audio/speech"))
    assert (answer.status, len(answer.body), answer.is_whole) == (200, 300_000, False)
    assert b.requests == 0


async def test_the_connection_of_a_broken_answer_is_never_used_again(pair, a, b):
    await broken(pair, post(body_of(PATHS[0], stall="events:2")))
    await a.wait(lambda mock: mock.seen.client_gone == 1)
    answers = await asyncio.gather(*(exchange(pair.port, post(chat(f"nonce-{n:04x}"))) for n in range(5)))
    for number, answer in enumerate(answers):
        assert f"nonce-{number:04x} ".encode() in answer.body
    stalled = a.seen[0].connection
    assert stalled not in {arrival.connection for arrival in a.seen[1:]}
