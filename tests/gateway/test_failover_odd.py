"""Answers that no sound provider gives: none of them may spoil, mix up or leak anything."""

import gzip
import json

import pytest
from wireclient import chat, exchange, get, post, post_chunked, wire_to


def reply(body: bytes, *lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", *lines, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


OK = b'{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
OTHER = b'{"secret":"of somebody else"}'


async def test_an_answer_that_nobody_asked_for_is_nobodys(odd_gateway, odd):
    """Two answers to one request: the second must never meet the next request."""
    odd.replies = [reply(OK) + reply(OTHER), reply(OK), reply(OK)]
    for _ in range(3):
        answer = await exchange(odd_gateway.port, post(chat()))
        assert answer.status in (200, 502)
        assert b"somebody else" not in answer.body
    numbers = [number for number, _ in odd.requests]
    assert numbers[1] != numbers[0]


async def test_an_interim_answer_is_no_answer(odd_gateway, odd):
    odd.replies = [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + reply(OK)]
    async with wire_to(odd_gateway.port) as wire:
        wire.send(post(chat()))
        answer = await wire.answer()
    assert (answer.status, answer.body, wire.interim) == (200, OK, [])
    assert answer.header("link") is None


async def test_an_answer_without_length_is_whole_when_the_connection_ends(odd_gateway, odd):
    bare = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + OK
    odd.replies = [bare + odd.END]
    answer = await exchange(odd_gateway.port, post(chat()))
    assert (answer.status, answer.body, answer.is_whole) == (200, OK, True)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "304 Not Modified"])
async def test_a_redirect_is_never_followed_nor_passed_on(odd_gateway, odd, status):
    odd.replies = [reply(b"", "location: http://169.254.169.254/latest", status=status)] * 3
    answer = await exchange(odd_gateway.port, post(chat()))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert len(odd.requests) == 1
    assert b"169.254" not in answer.body + str(answer.headers).encode()


async def test_a_providers_headers_are_not_the_clients_unless_listed(odd_gateway, odd):
    lines = [
        "set-cookie: session=1",
        "openai-processing-ms: 12",
        "openai-organization: org-of-ours",
        "x-ratelimit-remaining-requests: 7",
        "connection: keep-alive, x-hop",
        "server: secret/1.0",
        "x-request-id: req_theirs",
    ]
    odd.replies = [reply(OK, *lines)]
    answer = await exchange(odd_gateway.port, post(chat()))
    names = {name for name, _ in answer.headers}
    assert answer.header("openai-processing-ms") == "12"
    assert answer.header("server") == "llmgw"
    assert (answer.header("x-request-id") or "").startswith("req_")
    assert answer.header("x-request-id") != "req_theirs"
    assert not names & {"set-cookie", "openai-organization", "x-ratelimit-remaining-requests", "x-hop"}


@pytest.mark.parametrize("kind", ["text/html\tx", "caf\u00e9/x", ""])
async def test_an_unprintable_content_type_ends_no_header_line(odd_gateway, odd, kind):
    odd.replies = [reply(b"plain words", kind=kind)]
    answer = await exchange(odd_gateway.port, get("/v1/files/f/content"))
    assert (answer.status, answer.body) == (200, b"plain words")
    assert answer.header("content-type") == "application/octet-stream"


async def test_a_stream_that_was_asked_for_may_be_answered_whole(odd_gateway, odd):
    odd.replies = [reply(OK)]
    answer = await exchange(odd_gateway.port, post(chat(stream=True)))
    assert (answer.status, answer.body, answer.is_whole) == (200, OK, True)


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_no_error_event_is_written_into_an_answer_that_is_no_event_stream(odd_gateway, odd, build):
    large = b'{"choices":["' + b"x" * 1_500_000
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2000000\r\n\r\n"
    odd.replies = [head + large + odd.END]
    async with wire_to(odd_gateway.port) as wire:
        wire.send(build(chat(stream=True)))
        answer = await wire.answer()
    assert not answer.is_whole
    assert large.startswith(answer.body)


async def test_an_answer_that_needs_no_body_has_none(odd_gateway, odd):
    odd.replies = [b"HTTP/1.1 204 No Content\r\n\r\n", reply(OK)]
    async with wire_to(odd_gateway.port) as wire:
        wire.send(get("/v1/files/f", method="DELETE") + get("/v1/files/f"))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert answer.header("transfer-encoding") is None
        assert (await wire.answer()).body == OK


async def test_a_compressed_answer_stays_readable(odd_gateway, odd):
    """We ask for none; who sends one nevertheless says so in a header that must not be lost."""
    packed = gzip.compress(b"plain words")
    odd.replies = [reply(packed, "content-encoding: gzip", kind="text/plain")]
    answer = await exchange(odd_gateway.port, get("/v1/files/f/content"))
    if answer.status == 200:
        assert (answer.header("content-encoding"), answer.body) == ("gzip", packed)
    else:
        assert answer.status == 502


async def test_the_request_upstream_is_regenerated_and_unambiguous(odd_gateway, odd):
    odd.replies = [reply(OK), reply(OK)]
    hops = [
        "Connection: keep-alive",
        "Keep-Alive: 5",
        "TE: trailers",
        "X-Forwarded-Host: evil.test",
        "Via: x",
    ]
    await exchange(odd_gateway.port, post_chunked(chat(), "/v1/chat/completions", *hops, "Trailer: X-T"))
    await exchange(odd_gateway.port, post(chat(), "/v1/chat/completions", *hops))
    for _, request in odd.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line.lower() for line in head.split(b"\r\n")]
        assert lines[0] == b"post /v1/chat/completions http/1.1"
        names = [line.partition(b":")[0] for line in lines[1:]]
        assert len(names) == len(set(names))
        assert set(names) == {
            b"host",
            b"user-agent",
            b"accept-encoding",
            b"authorization",
            b"content-type",
            b"content-length",
        }
        assert json.loads(body) == json.loads(chat())
    assert odd.requests[0][1] == odd.requests[1][1]


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_an_answer_that_comes_before_the_upload_is_whole_is_relayed_to_its_end(odd_gateway, odd, size):
    page = b"x" * size
    odd.is_early = True
    odd.replies = [reply(page, kind="text/plain")]
    head = post(b"", "/v1/files").replace(b"Content-Length: 0", b"Content-Length: 8000000")
    async with wire_to(odd_gateway.port) as wire:
        wire.send(head.replace(b"application/json", b"application/octet-stream") + b"y" * 100_000)
        answer = await wire.answer()
    assert (answer.status, len(answer.body), answer.is_whole) == (200, size, True)
    assert answer.header("connection") == "close"
    line = await odd_gateway.log_line()
    assert (line["error_code"], line["client_gone"]) == (None, False)
