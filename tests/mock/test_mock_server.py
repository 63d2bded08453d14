"""The mock tells the truth about what arrived, and speaks HTTP/1.1 as a provider does."""

import asyncio
import hashlib
import json
import re
import socket

import pytest
from mock_raw import chat_request, events, exchange, post

from llmgw.mock import start

CHAT = "/v1/chat/completions"
STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def authorized(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


async def test_an_arrival_shows_the_request_as_it_was_sent(mock):
    body = b'{"model": "m",  "messages": []}'
    await exchange(mock.port, post(CHAT + "?a=1&b=%20", body, "X-Odd-Case: Yes", "x-odd-case: no"))
    (arrival,) = mock.seen
    assert (arrival.method, arrival.path, arrival.query) == ("POST", CHAT, "a=1&b=%20")
    assert (arrival.body, arrival.body_bytes) == (body, len(body))
    assert ("X-Odd-Case", "Yes") in arrival.headers
    assert arrival.values("X-ODD-CASE") == ["Yes", "no"]
    assert 0 < arrival.started_s <= arrival.finished_s
    assert (arrival.ended, arrival.status) == ("complete", 200)


async def test_a_large_body_is_remembered_by_size_and_digest(start_mock):
    mock = await start_mock(keep_body_bytes=100)
    body = json.dumps({"model": "m", "messages": [], "pad": "x" * 1000}).encode()
    await exchange(mock.port, post(CHAT, body))
    arrival = mock.seen[0]
    assert arrival.body is None
    assert (arrival.body_bytes, arrival.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())


async def test_what_is_remembered_is_bounded_and_what_is_counted_is_not(start_mock):
    mock = await start_mock(keep=3)
    await exchange(mock.port, chat_request() * 5, answers=5)
    assert len(mock.seen) == 3
    assert (mock.seen.requests, mock.seen.complete, mock.seen.connections) == (5, 5, 1)


async def test_keep_zero_only_counts(start_mock):
    mock = await start_mock(keep=0)
    await exchange(mock.port, chat_request())
    assert (len(mock.seen), mock.seen.requests) == (0, 1)


async def test_pipelined_requests_are_answered_in_their_order(mock):
    names = [f"nonce-{number:04x}" for number in range(40)]
    requests = [
        chat_request({"model": name, "messages": [], "stream": i % 2 == 0}, text=name)
        for i, name in enumerate(names)
    ]
    seen = await exchange(mock.port, b"".join(requests), answers=40)
    order = re.findall(rb'"model":"(nonce-\w+)"', seen.raw)
    assert list(dict.fromkeys(order)) == [name.encode() for name in names]


async def test_many_requests_may_wait_behind_a_slow_one(mock):
    names = [f"nonce-{number:04x}" for number in range(1500)]
    mock.script({"delay_s": 0.05})
    requests = [chat_request({"model": name, "messages": []}) for name in names]
    seen = await exchange(mock.port, b"".join(requests), answers=1500)
    assert re.findall(rb'"model":"(nonce-\w+)"', seen.raw) == [name.encode() for name in names]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_chunked_request_body_is_put_together(mock, size):
    body = b'{"model": "m", "messages": [{"role": "user", "content": "nonce-0abc"}]}'
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = authorized("POST", CHAT, "authorization: Bearer k", "transfer-encoding: chunked")
    seen = await exchange(mock.port, head + framed)
    assert b"nonce-0abc" in seen.body
    assert mock.seen[0].body == body


async def test_a_request_may_arrive_byte_by_byte(mock):
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    for byte in chat_request():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_expect_100_continue_is_answered_before_the_body(mock):
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    head, _, body = post(CHAT, b'{"model":"m","messages":[]}', "expect: 100-continue").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x00\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.0\r\nauthorization: Bearer k\r\n\r\n", 505),
    ],
)
async def test_what_is_not_http_1_1_is_refused_and_the_connection_ends(mock, request_bytes, status):
    seen = await exchange(mock.port, request_bytes)
    assert (seen.status, seen.ended) == (status, "eof")
    assert mock.in_flight == 0


async def test_a_body_beyond_the_limit_is_refused_without_keeping_it(start_mock):
    mock = await start_mock(max_body_bytes=1000)
    seen = await exchange(mock.port, post(CHAT, b"x" * 50_000))
    assert (seen.status, seen.ended) == (413, "eof")


async def test_a_client_that_leaves_is_counted_as_gone_whether_asking_or_listening(mock):
    for request in (post(CHAT, b"{}")[:-1], chat_request(STREAM, stall="events:1")):
        _, writer = await asyncio.open_connection("127.0.0.1", mock.port)
        writer.write(request)
        await mock.wait(lambda m: m.in_flight == 1)
        writer.close()
        await mock.wait(lambda m: m.in_flight == 0 and m.open_connections == 0)
    assert [arrival.ended for arrival in mock.seen] == ["client_gone", "client_gone"]
    assert mock.seen.client_gone == 2


async def test_wait_gives_up_after_its_time(mock):
    with pytest.raises(TimeoutError):
        await mock.wait(lambda m: m.in_flight == 1, timeout_s=0.01)


async def test_nagle_is_off_on_accepted_connections(mock):
    _, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    await mock.wait(lambda m: m.open_connections == 1)
    (connection,) = mock._connections
    raw = connection.transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()


async def test_a_bound_socket_may_be_handed_in():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        mock = await start(sock=bound.dup())
        seen = await exchange(bound.getsockname()[1], chat_request())
        await mock.close()
    assert seen.status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHAT, [], 401),
        (CHAT, ["authorization: Bearer right"], 200),
        (CHAT, ["authorization: Bearer wrong"], 401),
        (CHAT, ["authorization: Basic right"], 401),
        (CHAT, ["api-key: right"], 401),
        (CHAT, ["authorization: Bearer right", "api-key: right"], 401),
        (CHAT, ["authorization: Bearer right", "Authorization: Bearer right"], 401),
        ("/openai/deployments/d/chat/completions?api-version=2024-10-21", ["api-key: right"], 200),
        ("/v1/messages", ["x-api-key: right"], 200),
        ("/v1beta/models/g:generateContent", ["x-goog-api-key: right"], 200),
        ("/v1beta/models/g:generateContent?key=right", [], 200),
        ("/v1beta/models/g:generateContent?key=right", ["x-goog-api-key: right"], 401),
    ],
)
async def test_exactly_one_known_credential_must_come_where_the_provider_reads_it(
    start_mock, path, headers, status
):
    mock = await start_mock(keys=frozenset({"right"}))
    body = b'{"model":"m","messages":[],"contents":[],"max_tokens":9}'
    request = authorized("POST", path, *headers, f"content-length: {len(body)}") + body
    seen = await exchange(mock.port, request)
    assert seen.status == status
    assert mock.seen.unauthorized == (status == 401)


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/v1/nothing", 404), ("GET", CHAT, 405)])
async def test_an_unknown_route_gets_openais_error(mock, method, path, status):
    seen = await exchange(mock.port, authorized(method, path, "authorization: Bearer k"))
    assert seen.status == status
    assert json.loads(seen.body)["error"]["type"] == "invalid_request_error"


async def test_a_script_is_used_up_by_the_requests_that_match_it(mock):
    mock.script({"path": "/embeddings", "status": 500}, {"contains": "nonce-1", "status": 503, "times": 2})
    statuses = []
    for content in ("nonce-1", "other", "nonce-1", "nonce-1"):
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        statuses.append((await exchange(mock.port, chat_request(body))).status)
    assert statuses == [503, 200, 503, 200]
    assert (await exchange(mock.port, post("/v1/embeddings", b'{"model":"m","input":"x"}'))).status == 500


async def test_the_three_ways_to_a_fault_lie_over_each_other(start_mock):
    mock = await start_mock()
    mock.script({"text": "from the script", "retry_after": 1})
    seen = await exchange(mock.port, chat_request(retry_after=2))
    assert b"retry-after: 2" in seen.head
    assert b"from the script" in seen.body


async def test_the_control_routes_script_show_and_forget_and_are_not_among_what_was_seen(mock):
    added = await exchange(mock.port, post("/mock/script", b'[{"status": 418}]'))
    assert json.loads(added.body) == {"added": 1}
    assert (await exchange(mock.port, chat_request())).status == 418
    shown = json.loads((await exchange(mock.port, authorized("GET", "/mock/seen"))).body)
    assert shown["requests"] == 1
    assert (shown["arrivals"][0]["path"], shown["arrivals"][0]["status"]) == (CHAT, 418)
    mock.script({"status": 500})
    await exchange(mock.port, post("/mock/reset", b""))
    assert len(mock.seen) == 0
    assert (await exchange(mock.port, chat_request())).status == 200


@pytest.mark.parametrize("script", [b"{}", b"[1]", b"[", b'[{"stall": "soon"}]', b'[{"times": 0}]'])
async def test_a_script_in_unknown_words_is_refused_whole(mock, script):
    assert (await exchange(mock.port, post("/mock/script", script))).status == 400
    assert (await exchange(mock.port, chat_request())).status == 200


async def test_the_same_request_has_the_same_answer(mock):
    first, second = [await exchange(mock.port, chat_request(STREAM)) for _ in range(2)]
    assert first.raw == second.raw


async def test_the_answer_carries_the_nonce_of_its_request(mock):
    body = {"model": "m", "messages": [{"role": "user", "content": "say nonce-zz, nonce-00ff twice"}]}
    whole = await exchange(mock.port, chat_request(body, text_bytes=100))
    stream = await exchange(mock.port, chat_request({**body, "stream": True}))
    content = json.loads(whole.body)["choices"][0]["message"]["content"]
    assert content.startswith("nonce-00ff ")
    assert len(content) == 100
    assert b'"content":"nonce-00ff ' in events(stream.body)[1]


async def test_tokens_are_a_quarter_of_the_texts_bytes_rounded_up(mock):
    messages = [
        {"role": "system", "content": "äöü"},
        {"role": "user", "content": [{"type": "text", "text": "abc"}]},
    ]
    seen = await exchange(
        mock.port, chat_request({"model": "m", "messages": messages}, text="12345", cached_tokens=2)
    )
    usage = json.loads(seen.body)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 2, 5)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_usage_chunk_comes_only_where_it_was_asked_for(mock, wanted):
    body = {**STREAM, "stream_options": {"include_usage": True}} if wanted else STREAM
    chunks = [json.loads(data) for data in events((await exchange(mock.port, chat_request(body))).body)[:-1]]
    assert [("usage" in chunk) for chunk in chunks] == [wanted] * len(chunks)
    assert (chunks[-1]["choices"] == []) == wanted
    assert sum(bool(chunk.get("usage")) for chunk in chunks) == wanted


async def test_max_tokens_cuts_the_answer_but_never_its_nonce(mock):
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "nonce-0123456789"}]}
    choice = json.loads((await exchange(mock.port, chat_request(body))).body)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].strip() == "nonce-0123456789"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages":[1],"model":"m","tools":5,"tool_choice":"required"}', None),
        (b"{", None),
        (b"[]", None),
        (b"{}", "messages"),
        (b'{"messages":[]}', "model"),
        (b'{"messages":1}', "messages"),
    ],
)
async def test_a_bad_body_gets_openais_400(mock, body, param):
    seen = await exchange(mock.port, post(CHAT, body))
    assert seen.status == 400
    assert json.loads(seen.body)["error"]["param"] == param
