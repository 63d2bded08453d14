"""Requests in every cut: split at each byte, several at once, plain and unusual ones in turn."""

import asyncio
import gzip
import json

import pytest
from gatewayrig import CLIENT_KEY
from wireclient import Answer, chat, each_split, exchange, get, post, post_chunked, wire_to

PATH = "/v1/chat/completions"


def asked(number: int, **more: object) -> bytes:
    return chat(f"nonce-{number:04x}", **more)


def is_answer_to(answer: Answer, number: int) -> bool:
    return answer.status == 200 and f"nonce-{number:04x} This is" in answer.body.decode()


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_a_request_in_single_bytes_is_one_request(gateway, far, build):
    async with wire_to(gateway.port) as wire:
        await wire.send_split(build(asked(7)))
        assert is_answer_to(await wire.answer(), 7)
    assert far.requests == 1
    assert json.loads(far.seen[0].body)["messages"][0]["content"] == "nonce-0007"


async def test_a_request_cut_in_two_at_any_byte_is_the_same_request(gateway, far):
    """On one connection, so that what one cut leaves behind would spoil the next."""
    request = post(asked(7))
    cuts = 0
    async with wire_to(gateway.port) as wire:
        for first, second in each_split(request):
            wire.send(first)
            await asyncio.sleep(0)
            wire.send(second)
            assert is_answer_to(await wire.answer(), 7)
            cuts += 1
    assert far.requests == cuts == len(request) - 1


async def test_two_requests_in_one_write_cut_at_any_byte_are_answered_in_order(gateway, far):
    pair = post(asked(1)) + post(asked(2))
    async with wire_to(gateway.port) as wire:
        for first, second in list(each_split(pair))[::3]:
            wire.send(first)
            await asyncio.sleep(0)
            wire.send(second)
            assert is_answer_to(await wire.answer(), 1)
            assert is_answer_to(await wire.answer(), 2)


async def test_many_requests_in_one_write_are_answered_in_order(gateway):
    async with wire_to(gateway.port) as wire:
        wire.send(b"".join(post(asked(number)) for number in range(50)))
        for number in range(50):
            assert is_answer_to(await wire.answer(), number)


async def test_a_slow_answer_is_not_overtaken_by_the_next_one(gateway):
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1, mock={"delay_s": 0.1})) + post(asked(2)))
        assert is_answer_to(await wire.answer(), 1)
        assert is_answer_to(await wire.answer(), 2)


async def test_a_stream_is_not_mixed_with_the_request_behind_it(gateway):
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1, stream=True, mock={"interval_s": 0.005, "events": 10})) + post(asked(2)))
        first = await wire.answer()
        assert first.text.startswith("nonce-0001 ")
        assert first.events[-1] == b"[DONE]"
        assert is_answer_to(await wire.answer(), 2)


@pytest.mark.parametrize("together", [True, False], ids=["in-one-write", "one-by-one"])
async def test_plain_and_unusual_requests_may_follow_each_other(gateway, together):
    """The connection changes hands at the first unusual one, and stays."""
    requests = [
        post(asked(0)),
        post(asked(1)),
        post_chunked(asked(2)),
        post(asked(3)),
        get("/v1/models"),
        post(asked(5), PATH + "?a=b"),
        post(asked(6)),
    ]
    async with wire_to(gateway.port) as wire:
        if together:
            wire.send(b"".join(requests))
        for number, request in enumerate(requests):
            if not together:
                wire.send(request)
            answer = await wire.answer()
            assert b'"list"' in answer.body if number == 4 else is_answer_to(answer, number)


async def test_a_refused_request_leaves_the_connection_to_the_next_one(gateway):
    async with wire_to(gateway.port) as wire:
        wire.send(post(b"{") + post(asked(1), key="sk-wrong-0123456789") + post(asked(2)))
        assert [(await wire.answer()).status for _ in range(2)] == [400, 401]
        assert is_answer_to(await wire.answer(), 2)


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_connection_close_is_obeyed_and_said(gateway, build):
    async with wire_to(gateway.port) as wire:
        wire.send(build(asked(1), PATH, "Connection: close"))
        answer = await wire.answer()
        assert is_answer_to(answer, 1)
        assert await wire.end() == "eof"
    assert answer.header("connection") == "close"


async def test_a_request_behind_connection_close_is_not_served(gateway, far):
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1), PATH, "Connection: close"))
        wire.send(post(asked(2)))
        await wire.end()
    assert [b"nonce-0001" in arrival.body for arrival in far.seen] in ([], [True])


async def test_an_unknown_key_with_a_body_to_come_is_answered_at_once_and_the_connection_ends(gateway, far):
    """Whoever is not known need not send the rest, and the rest is never taken for a request."""
    inner = post(asked(9))
    head = post(b"", key="sk-wrong-0123456789").replace(b"Content-Length: 0", b"Content-Length: 100000")
    async with wire_to(gateway.port) as wire:
        wire.send(head + inner)
        answer = await wire.answer()
        assert (answer.status, answer.header("connection")) == (401, "close")
        assert await wire.end() == "eof"
    assert far.requests == 0


async def test_a_client_that_sends_far_more_than_it_reads_is_not_read_from(gateway):
    """What waits behind a request under way is bounded; all of it is answered in the end."""
    filler = post(asked(2, filler="x" * 30_000))
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1, mock={"delay_s": 0.2})) + filler * 40)
        assert is_answer_to(await wire.answer(), 1)
        for _ in range(40):
            assert is_answer_to(await wire.answer(), 2)


async def test_the_fast_lane_serves_no_other_path_than_it_knows(gateway):
    for path in ("/v1/chat/completion", "/v1/chat/completionss", "/v1/chat", "/v1/CHAT/completions"):
        answer = await exchange(gateway.port, post(asked(1), path))
        assert answer.status == 404, path


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/complet%69ons",  # another spelling of a route that is accounted otherwise
        "/v1/%63hat/completions",
        "/v1/files/%2e%2e/chat/completions",
        "/v1/files/../chat/completions",
        "/v1/files%2f..%2fchat/completions",
        "/v1//chat/completions",
        "/v1/files/a\\b",
        "http://elsewhere.test/v1/chat/completions",
        "//elsewhere.test/v1/chat/completions",
        "/v1/files/%zz",
        "/v1/files/a%00",
        "*",
    ],
)
async def test_a_path_with_two_readings_is_refused_and_goes_nowhere(gateway, far, path):
    answer = await exchange(gateway.port, post(asked(1), path))
    assert answer.status in (400, 404)
    assert answer.header("x-llmgw-provider") is None
    assert far.requests == 0


async def test_a_trailing_slash_is_another_url(gateway, far):
    answer = await exchange(gateway.port, post(asked(1), PATH + "/"))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: chunked"],
        ["Content-Length: 5"],
        ["Content-Length: +2"],
        ["Host: other.test"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding : chunked"],
        ["X-Fold: a", " b"],
        ["X-Nul: a\0b"],
        [": empty"],
    ],
    ids=str,
)
async def test_ambiguous_framing_is_400_and_nothing_goes_upstream(gateway, far, lines):
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1), PATH, *lines))
        answer = await wire.answer()
        assert answer.status == 400
        assert await wire.end()
    assert answer.error["type"] == "invalid_request_error"
    assert far.requests == 0


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {CLIENT_KEY}x",
        "Content-Type: text/plain",
        "Content-Encoding: x\r\nContent-Encoding: y",
    ],
)
async def test_a_header_that_decides_something_and_comes_twice_is_400(gateway, far, line):
    answer = await exchange(gateway.port, post(asked(1), PATH, line))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert far.requests == 0


async def test_of_two_traceparents_neither_counts(gateway, far):
    trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await exchange(gateway.port, post(chat(), "/v1/chat/completions", trace, trace))
    assert answer.status == 200
    (arrival,) = far.seen
    assert arrival.values("traceparent") == []
    assert (await gateway.log_line())["trace_id"] is None


ONCE_ONLY = {
    "idempotency-key": "a",
    "x-llmgw-max-wait": "2s",
    "x-llmgw-priority": "batch",
    "x-llmgw-tags": "a",
    "x-llmgw-timeout": "20s",
}


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("name", ONCE_ONLY)
async def test_an_option_that_comes_twice_is_400_and_named(gateway, far, name, build):
    line = f"{name}: {ONCE_ONLY[name]}"
    answer = await exchange(gateway.port, build(asked(1), PATH, line, line.upper()))
    assert (answer.status, answer.error["param"]) == (400, name)
    assert far.requests == 0


@pytest.mark.parametrize("name", ["x-llmgw-timeout", "x-llmgw-tags", "idempotency-key"])
async def test_a_header_that_is_no_ascii_is_400_and_named(gateway, far, name):
    answer = await exchange(gateway.port, post(asked(1), PATH, f"{name}: \u0663s"))
    assert (answer.status, answer.error["param"]) == (400, name)
    assert far.requests == 0


@pytest.mark.parametrize("ending", [b"\n", b"\r"])
async def test_bare_line_ends_are_400(gateway, far, ending):
    async with wire_to(gateway.port) as wire:
        wire.send(post(b"{}").replace(b"\r\n", ending))
        assert (await wire.answer()).status == 400
    assert far.requests == 0


async def test_large_headers_are_431_on_both_lanes(gateway, far):
    padding = "X-Padding: " + "x" * 40_000
    fast = await exchange(gateway.port, post(asked(1), PATH, padding))
    many = [f"X-Padding-{number}: {'x' * 2000}" for number in range(20)]
    general = await exchange(gateway.port, get("/v1/models", *many))
    assert (fast.status, general.status) == (431, 431)
    assert fast.error["code"] == general.error["code"] == "request_too_large"
    assert fast.facts() == general.facts()
    assert far.requests == 0


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.2", "9.9"])
async def test_other_versions_of_http_are_not_spoken(gateway, far, version):
    answer = await exchange(gateway.port, post(asked(1), version=version))
    assert answer.status in (400, 505)
    assert far.requests == 0


@pytest.mark.parametrize("path", [PATH, "/v1/files"])
@pytest.mark.parametrize("packed", [b"this is no gzip", b"\x1f\x8b\x08" + b"\0" * 40], ids=["none", "broken"])
async def test_a_body_that_cannot_be_unpacked_is_400(gateway, far, path, packed):
    request = post(packed, path, "Content-Encoding: gzip")
    answer = await exchange(gateway.port, request)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert far.requests == 0


async def test_a_body_that_unpacks_to_more_than_is_allowed_is_413(gateway, far):
    """Of 33 MB of blanks gzip makes 32 KB."""
    packed = gzip.compress(b" " * (33 << 20), 6)
    answer = await exchange(gateway.port, post(packed, PATH, "Content-Encoding: gzip"))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert far.requests == 0


@pytest.mark.parametrize("coding", ["br2", "compress", "gzip, gzip", "identity, gzip"])
async def test_a_coding_that_is_not_undone_here_goes_nowhere(gateway, far, coding):
    """Its bytes are no JSON for us, and would be some for a provider that was told nothing of the coding."""
    answer = await exchange(gateway.port, post(asked(1), PATH, f"Content-Encoding: {coding}"))
    assert answer.status in (400, 415)
    assert far.requests == 0


@pytest.mark.parametrize("path", [PATH, "/v1/files"])
@pytest.mark.parametrize(
    "chunks", [b"5\r\nab\r\n0\r\n\r\n", b"zz\r\nab\r\n", b"-1\r\nab\r\n", b"5\nhello\n0\n\n"]
)
async def test_broken_chunks_are_400_and_nothing_goes_upstream(gateway, far, path, chunks):
    head = post(b"", path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with wire_to(gateway.port) as wire:
        wire.send(head + chunks)
        answer = await wire.answer()
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert await wire.end()
    assert far.requests == 0


@pytest.mark.parametrize("head", [b"", b"PO", post(b"{}")[:-10], b"GET /v1/models HTTP/1.1\r\nHos"])
async def test_a_client_that_leaves_within_its_head_disturbs_nobody(gateway, far, head):
    async with wire_to(gateway.port) as wire:
        wire.send(head)
        await exchange(gateway.port, get("/health/live"))
    assert is_answer_to(await exchange(gateway.port, post(asked(1))), 1)
    assert far.requests == 1


async def test_a_client_that_closes_its_half_within_a_stream_is_gone(gateway, far):
    async with wire_to(gateway.port) as wire:
        wire.send(post(asked(1, stream=True, mock={"interval_s": 0.02, "events": 500})))
        await wire.begun(500)
        wire.transport.write_eof()
        await far.wait(lambda mock: mock.seen.client_gone == 1)
    assert (await gateway.log_line())["client_gone"]


async def test_no_bug_of_ours_was_met(gateway):
    """Runs last in this file: what is unexpected is logged with a traceback."""
    assert not [line for line in gateway.own_lines if "Traceback" in line or '"level": "error"' in line]


def post_expecting(body: bytes, *, key: str) -> bytes:
    """With its length, for the general lane."""
    return post(body, "/v1/chat/completions", "Expect: 100-continue", key=key)


@pytest.mark.parametrize("make", [post, post_expecting, post_chunked])
async def test_who_is_refused_unread_learns_at_once_that_the_rest_is_not_wanted(gateway, far, make):
    """And may go on sending meanwhile: a reset could take the answer away from it."""
    data = make(chat("x" * 8_000_000), key="sk-nobody-knows-0123456789")
    async with wire_to(gateway.port) as wire:
        wire.send(data[:1_000_000])
        answer = await wire.answer()
        assert (answer.status, answer.is_whole, answer.header("connection")) == (401, True, "close")
        assert await wire.end(2.0) == "eof"
        wire.send(data[1_000_000:])
        await asyncio.sleep(0.2)
        assert wire.transport.get_write_buffer_size() == 0
        assert not wire.is_lost
    assert far.requests == 0
