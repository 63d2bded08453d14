"""Whichever lane serves a request, the answer is the same: status, body and headers."""

import gzip
import json
from collections.abc import Callable

import pytest
from gatewayrig import CLIENT_KEY, ONCE, OTHER_KEY, Gateway, up
from wireclient import Answer, chat, exchange, get, post, post_chunked, wire_to

PATH = "/v1/chat/completions"


def in_two_chunks(body: bytes, key: str | None) -> bytes:
    return post_chunked(body, key=key)


def with_a_query(body: bytes, key: str | None) -> bytes:
    return post(body, PATH + "?trace=1", key=key)


def with_a_tab(body: bytes, key: str | None) -> bytes:
    return post(body, PATH, "X-Note: one\ttwo", key=key)


def with_a_space_behind(body: bytes, key: str | None) -> bytes:
    return post(body, PATH, "X-Note: one ", key=key)


def with_bytes_above_ascii(body: bytes, key: str | None) -> bytes:
    return post(body, PATH, "X-Note: caf\u00e9", key=key)


def gzipped(body: bytes, key: str | None) -> bytes:
    return post(gzip.compress(body), PATH, "Content-Encoding: gzip", key=key)


def with_a_connection_close(body: bytes, key: str | None) -> bytes:
    return post(body, PATH, "Connection: close", key=key)


# Ways of asking the same that the fast lane leaves to the general one.
UNUSUAL = [
    in_two_chunks,
    with_a_query,
    with_a_tab,
    with_a_space_behind,
    with_bytes_above_ascii,
    gzipped,
    with_a_connection_close,
]

PACED = {"interval_s": 0.02}  # so that each event arrives by itself
HASTY = {"first_token": "250ms", "idle": "250ms"}


@pytest.fixture(scope="module")
def laned(shared_far, tmp_path_factory):
    """Two listeners cannot be told apart by a client, so it is enough that requests differ."""
    config = {
        "server": {"max_body": "64KB"},
        "providers": {"up": up(shared_far.port), "hasty": up(shared_far.port, timeouts=HASTY)},
        "models": {
            "mock": ONCE
            | {
                "targets": [{"provider": "up"}],
                "price": {"input": "1.00", "output": "2.00"},
            },
            "hasty": ONCE | {"targets": [{"provider": "hasty"}]},
        },
        "tenants": {
            "acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]},
            "narrow": {"models": ["hasty"], "keys": [{"name": "one", "key": OTHER_KEY}]},
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("laned"), config).start()
    yield gateway
    gateway.kill()


# name -> (body, key, status)
CASES = {
    "whole": (chat("nonce-beef"), CLIENT_KEY, 200),
    "stream": (chat("nonce-beef", stream=True), CLIENT_KEY, 200),
    "stream-with-usage": (chat(stream=True, stream_options={"include_usage": True}), CLIENT_KEY, 200),
    "not-json": (b'{"model": "mock", "messages": [}', CLIENT_KEY, 400),
    "a-key-twice": (b'{"model": "mock", "model": "hasty", "messages": []}', CLIENT_KEY, 400),
    "no-model": (b'{"messages": []}', CLIENT_KEY, 400),
    "wrong-stream": (chat().replace(b'"model"', b'"stream": 1, "model"'), CLIENT_KEY, 400),
    "no-key": (chat(), None, 401),
    "wrong-key": (chat(), "sk-wrong-0123456789", 401),
    "wrong-key-and-no-json": (b"{", "sk-wrong-0123456789", 401),
    "model-off-the-list": (chat(), OTHER_KEY, 403),
    "unknown-model": (chat(model="nobody"), CLIENT_KEY, 404),
    "too-large": (chat("x" * 70_000), CLIENT_KEY, 413),
    "too-large-and-wrong-key": (chat("x" * 70_000), "sk-wrong-0123456789", 401),
    "providers-400": (chat(mock={"status": 400, "message": "Nein.", "code": "odd"}), CLIENT_KEY, 400),
    "providers-404-streamed": (chat(mock={"status": 404}, stream=True), CLIENT_KEY, 404),
    "providers-500": (chat(mock={"status": 500}), CLIENT_KEY, 502),
    "garbage": (chat(mock={"garbage": "http"}), CLIENT_KEY, 502),
    "too-slow": (chat(mock={"delay_s": 30}, model="hasty"), CLIENT_KEY, 504),
    "broken-stream": (chat("nonce-aa", mock=PACED | {"error_event": 3}, stream=True), CLIENT_KEY, 200),
    "unended-stream": (
        chat("nonce-aa", mock=PACED | {"no_done": True, "events": 3}, stream=True),
        CLIENT_KEY,
        200,
    ),
}


@pytest.mark.parametrize("spell", UNUSUAL, ids=lambda spell: spell.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_both_lanes_answer_the_same(laned, case, spell):
    body, key, status = CASES[case]
    if spell is gzipped and case.startswith("too-large"):
        pytest.skip("compressed, it is not too large")
    plain = await exchange(laned.port, post(body, key=key))
    other = await exchange(laned.port, spell(body, key))
    assert plain.status == status
    assert alike(other) == alike(plain)
    assert other.is_whole == plain.is_whole


def alike(answer: Answer) -> tuple[object, ...]:
    """The mock derives its ids from the body, which is the same; so all of the answer is compared."""
    return answer.facts()


@pytest.mark.parametrize(
    "case", ["whole", "no-model", "unknown-model", "too-large", "wrong-key", "providers-400"]
)
async def test_both_lanes_log_the_same(laned, case):
    body, key, _ = CASES[case]
    lines = []
    for request in (post(body, key=key), in_two_chunks(body, key)):
        answer = await exchange(laned.port, request)
        lines.append(await laned.log_line(answer.header("x-request-id")))
    volatile = {"ts", "request_id", "latency_ms", "ttft_ms", "upstream_ms"}
    first, second = [{name: line[name] for name in line.keys() - volatile} for line in lines]
    assert first == second


async def test_a_body_that_is_announced_by_expect_is_called_for(laned):
    body = chat("nonce-beef")
    plain = await exchange(laned.port, post(body))
    request = post(body, PATH, "Expect: 100-continue")
    async with wire_to(laned.port) as wire:
        wire.send(request[: -len(body)])
        assert await wire.interim_status() == 100
        wire.send(body)
        answer = await wire.answer()
    assert answer.facts() == plain.facts()


@pytest.mark.parametrize(("key", "size", "status"), [("sk-wrong-0123", 50, 401), (CLIENT_KEY, 10**6, 413)])
async def test_a_body_that_would_be_refused_is_not_called_for(laned, key, size, status):
    head = post(b"", PATH, "Expect: 100-continue", key=key).replace(b"Length: 0", b"Length: %d" % size)
    async with wire_to(laned.port) as wire:
        wire.send(head)
        answer = await wire.answer()
    assert (answer.status, wire.interim) == (status, [])


async def test_http_1_0_gets_the_same_answer_and_then_the_end(laned):
    body = chat("nonce-beef")
    plain = await exchange(laned.port, post(body))
    async with wire_to(laned.port) as wire:
        wire.send(post(body, version="1.0"))
        answer = await wire.answer()
        assert await wire.end() == "eof"
    assert answer.facts() == plain.facts()
    assert not answer.keeps_alive


async def test_an_http_1_0_client_that_asks_to_keep_the_connection_may_use_it_again(laned):
    async with wire_to(laned.port) as wire:
        for _ in range(2):
            wire.send(post(chat(), PATH, "Connection: keep-alive", version="1.0"))
            answer = await wire.answer()
            assert answer.status == 200
            assert answer.header("connection") == "keep-alive"


async def test_an_http_1_0_stream_has_no_chunks_and_ends_with_the_connection(laned):
    body = chat("nonce-beef", stream=True)
    plain = await exchange(laned.port, post(body))
    async with wire_to(laned.port) as wire:
        wire.send(post(body, version="1.0"))
        assert await wire.end() == "eof"
        answer = await wire.answer()
    assert answer.header("transfer-encoding") is None
    assert answer.facts() == plain.facts()


@pytest.mark.parametrize(
    "credential",
    [
        "authorization: bearer {}",
        "AUTHORIZATION: Bearer  {}",
        "x-api-key: {}",
        "Api-Key: {}",
        "X-GOOG-API-KEY: {}",
    ],
)
@pytest.mark.parametrize("spell", [post, with_a_tab], ids=["fast", "general"])
async def test_every_header_that_may_carry_the_key_carries_it(laned, spell, credential):
    line = credential.format(CLIENT_KEY).encode() + b"\r\n"
    request = spell(chat(), key=None).replace(b"Host:", line + b"Host:")
    assert (await exchange(laned.port, request)).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_bearer_token_wins_over_another_key(laned, chunked):
    build: Callable[..., bytes] = post_chunked if chunked else post
    good = build(chat(), PATH, "x-api-key: sk-wrong-0123456789")
    bad = build(chat(), PATH, f"x-api-key: {CLIENT_KEY}", key="sk-wrong-0123456789")
    assert (await exchange(laned.port, good)).status == 200
    assert (await exchange(laned.port, bad)).status == 401


async def test_a_models_list_and_an_unknown_url_have_the_gateways_headers(laned):
    listed = await exchange(laned.port, get("/v1/models"))
    assert [entry["id"] for entry in json.loads(listed.body)["data"]] == ["mock", "hasty"]
    unknown = await exchange(laned.port, get("/nothing"))
    assert (unknown.status, unknown.error["code"]) == (404, "unknown_url")
    assert {"x-request-id", "server", "content-type"} <= {name for name, _ in listed.headers}
    assert unknown.header("x-should-retry") == "false"
    assert unknown.header("server") == listed.header("server") == "llmgw"


async def test_an_http_1_0_stream_keeps_no_connection_whatever_was_asked(laned):
    async with wire_to(laned.port) as wire:
        wire.send(post(chat(stream=True), PATH, "Connection: keep-alive", version="1.0"))
        assert await wire.end() == "eof"
        answer = await wire.answer()
    assert answer.is_whole
    assert answer.header("connection") != "keep-alive"


async def test_an_http_1_0_client_is_sent_no_interim_answer(laned):
    async with wire_to(laned.port) as wire:
        wire.send(post(chat(), PATH, "Expect: 100-continue", version="1.0"))
        answer = await wire.answer()
    assert (answer.status, wire.interim) == (200, [])
