"""Each fault does on the socket what its name says."""

import asyncio
import json
import time

import pytest
from mock_raw import chat_request, events, exchange, post

from llmgw.mock import Fault, FaultError, Point, parse_fault
from llmgw.mock.fault import lay_over

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
TEXT_BYTES = 1000
TIMER_S = 0.001  # how much early a timer may fire


async def test_a_status_comes_with_openais_error_and_the_hints_asked_for(mock):
    seen = await exchange(
        mock.port,
        chat_request(
            status=429, message="slow down", code="rate_limit_exceeded", retry_after=7, retry_after_ms=6500
        ),
    )
    assert seen.status == 429
    assert b"retry-after: 7\r\n" in seen.head + b"\r\n" and b"retry-after-ms: 6500" in seen.head
    error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    assert json.loads(seen.body) == {"error": error}


@pytest.mark.parametrize(
    ("body", "point"),
    [
        (None, "before-head"),
        (None, "after-head"),
        (None, "bytes:5"),
        (STREAM, "before-head"),
        (STREAM, "after-head"),
        (STREAM, "bytes:5"),
        (STREAM, "events:2"),
    ],
)
async def test_a_stall_is_silent_from_its_point_on_and_keeps_the_connection_open(mock, body, point):
    seen = await exchange(mock.port, chat_request(body, stall=point))
    assert seen.ended == "open"
    assert _content_before(seen) == _expected_before(point)
    await mock.wait(lambda m: m.in_flight == 0)
    assert mock.seen[0].ended == "client_gone"


@pytest.mark.parametrize("point", ["before-head", "after-head", "bytes:5", "events:2"])
async def test_a_reset_is_a_rst_after_exactly_what_was_to_come_before_it(mock, point):
    seen = await exchange(mock.port, chat_request(STREAM, reset=point))
    assert seen.ended == "reset"
    assert _content_before(seen) == _expected_before(point)
    assert mock.seen[0].ended == "fault"


@pytest.mark.parametrize("point", ["before-head", "after-head", "bytes:5", "events:2"])
async def test_a_close_is_a_fin_without_the_chunk_terminator(mock, point):
    seen = await exchange(mock.port, chat_request(STREAM, close=point))
    assert seen.ended == "eof"
    assert _content_before(seen) == _expected_before(point)
    assert not seen.raw.endswith(b"0\r\n\r\n")


async def test_a_close_leaves_a_whole_answer_short_of_its_content_length(mock):
    seen = await exchange(mock.port, chat_request(close="bytes:100", text_bytes=TEXT_BYTES))
    length = int(seen.head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert (seen.ended, len(seen.body)) == ("eof", 100)
    assert length > TEXT_BYTES


async def test_no_done_ends_the_stream_cleanly_without_its_last_event(mock):
    seen = await exchange(mock.port, chat_request(STREAM, no_done=True, events=3))
    assert seen.raw.endswith(b"0\r\n\r\n")
    assert len(events(seen.body)) == 5
    assert b"[DONE]" not in seen.body


async def test_an_error_event_comes_after_k_events_and_ends_the_stream(mock):
    seen = await exchange(mock.port, chat_request(STREAM, error_event=2))
    data = events(seen.body)
    assert len(data) == 3
    assert json.loads(data[2])["error"]["type"] == "server_error"
    assert seen.raw.endswith(b"0\r\n\r\n")


async def test_an_error_event_may_be_the_first_one(mock):
    seen = await exchange(mock.port, chat_request(STREAM, error_event=0))
    assert ["error"] == [*json.loads(events(seen.body)[0])]


async def test_garbage_http_is_no_http_answer(mock):
    seen = await exchange(mock.port, chat_request(garbage="http"))
    assert not seen.raw.startswith(b"HTTP/")
    assert seen.ended == "eof"


async def test_garbage_json_is_a_sound_answer_with_a_broken_body(mock):
    whole = await exchange(mock.port, chat_request(garbage="json"))
    stream = await exchange(mock.port, chat_request(STREAM, garbage="json"))
    assert whole.status == 200
    for broken in (whole.body, events(stream.body)[1]):
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)
    assert json.loads(events(stream.body)[0])


async def test_garbage_chunk_breaks_the_chunk_framing(mock):
    seen = await exchange(mock.port, chat_request(STREAM, garbage="chunk"))
    assert b"transfer-encoding: chunked" in seen.head
    with pytest.raises(ValueError, match="invalid literal for int"):
        int(seen.payload.partition(b"\r\n")[0], 16)


async def test_a_drip_sends_small_pieces_with_pauses(mock, writes):
    begun_s = time.monotonic()
    seen = await exchange(mock.port, chat_request(drip_bytes=200, drip_s="20ms", text_bytes=TEXT_BYTES))
    _, *pieces = writes
    assert b"".join(pieces) == seen.body
    assert {len(piece) for piece in pieces[:-1]} == {200}
    assert len(json.loads(seen.body)["choices"][0]["message"]["content"]) == TEXT_BYTES
    assert time.monotonic() - begun_s >= (0.02 - TIMER_S) * (len(pieces) - 1)


async def test_split_bytes_cuts_every_write_head_included(mock, writes):
    seen = await exchange(mock.port, chat_request(STREAM, split_bytes=1, events=1))
    assert b"".join(writes) == seen.raw
    assert {len(data) for data in writes} == {1}
    assert events(seen.body)[-1] == b"[DONE]"


async def test_split_at_begins_a_new_write_at_each_offset_of_the_body(mock, writes):
    seen = await exchange(mock.port, chat_request(split_at=[3, 10], text_bytes=TEXT_BYTES))
    assert b"".join(writes) == seen.raw
    assert [len(data) for data in writes[1:]] == [3, 7, len(seen.body) - 10]


async def test_delays_stand_before_the_head_the_first_event_and_every_other(mock):
    begun_s = time.monotonic()
    await exchange(
        mock.port, chat_request(STREAM, delay_s="50ms", first_token_s=0.05, interval_s="20ms", events=3)
    )
    assert 0.2 - 8 * TIMER_S <= time.monotonic() - begun_s < 10.0  # 50 + 50 + 5 × 20 ms


async def test_text_bytes_and_events_set_the_size_of_the_answer(mock):
    whole = await exchange(mock.port, chat_request(text_bytes=123_456))
    assert len(json.loads(whole.body)["choices"][0]["message"]["content"]) == 123_456
    stream = await exchange(mock.port, chat_request(STREAM, text_bytes=1000, events=7))
    deltas = [json.loads(data)["choices"][0]["delta"].get("content") for data in events(stream.body)[1:-2]]
    assert (len(deltas), sum(map(len, deltas))) == (7, 1000)


async def test_headers_bytes_adds_that_many_bytes_of_headers(mock):
    plain = await exchange(mock.port, chat_request())
    huge = await exchange(mock.port, chat_request(headers_bytes=100_000))
    assert len(huge.head) - len(plain.head) == pytest.approx(100_000, abs=16)


@pytest.mark.parametrize(("kind", "distinct"), [("same", 1), ("different", 2)])
async def test_duplicate_length_sends_content_length_twice(mock, kind, distinct):
    seen = await exchange(mock.port, chat_request(duplicate_length=kind))
    lengths = [line for line in seen.head.split(b"\r\n") if line.startswith(b"content-length")]
    assert (len(lengths), len(set(lengths))) == (2, distinct)


async def test_no_usage_leaves_usage_out(mock):
    body = {**STREAM, "stream_options": {"include_usage": True}}
    stream = await exchange(mock.port, chat_request(body, no_usage=True))
    whole = await exchange(mock.port, chat_request(no_usage=True))
    assert "usage" not in json.loads(whole.body)
    assert all(not json.loads(data)["usage"] for data in events(stream.body)[:-1])


async def test_headers_may_be_added(mock):
    seen = await exchange(mock.port, chat_request(headers={"x-ratelimit-remaining-requests": "3"}))
    assert b"x-ratelimit-remaining-requests: 3" in seen.head


async def test_connection_close_is_said_and_done(mock):
    seen = await exchange(mock.port, chat_request(connection_close=True))
    assert b"connection: close" in seen.head
    assert seen.ended == "eof"


@pytest.mark.parametrize("body", [None, STREAM])
async def test_a_connection_may_be_hung_up_behind_an_answer_that_promised_more(mock, body):
    seen = await exchange(mock.port, chat_request(body, hang_up=True), answers=2)
    assert b"connection: close" not in seen.head
    assert seen.ended == "eof"
    assert mock.seen[0].ended == "complete"


@pytest.mark.parametrize("body", [None, STREAM])
async def test_interim_answers_come_before_the_answer(mock, body):
    seen = await exchange(mock.port, chat_request(body, interim=[103, 100]), answers=3)
    first, second, third = [part.split(b" ")[1] for part in seen.raw.split(b"HTTP/1.1")[1:]]
    assert (first, second, third) == (b"103", b"100", b"200")


@pytest.mark.parametrize("body", [None, STREAM])
@pytest.mark.parametrize("text", ["", "<html>", '{"error": {"message": "no"}}'])
async def test_a_body_may_be_said_and_so_may_its_kind(mock, body, text):
    mock.script({"body": text, "content_type": "text/html"})
    seen = await exchange(mock.port, chat_request(body))
    assert (seen.status, seen.body) == (200, text.encode())
    assert b"content-type: text/html" in seen.head


async def test_a_body_that_is_said_replaces_that_of_an_error(mock):
    mock.script({"status": 503, "body": "<html>"})
    seen = await exchange(mock.port, chat_request())
    assert (seen.status, seen.body) == (503, b"<html>")


async def test_an_early_answer_does_not_wait_for_the_body(mock):
    mock.script({"early": True, "status": 413})
    head = post("/v1/chat/completions", b"").replace(b"content-length: 0", b"content-length: 1000")
    seen = await exchange(mock.port, head)
    assert (seen.status, seen.ended) == (413, "open")


async def test_after_an_early_answer_the_rest_of_the_body_is_swallowed_and_the_connection_serves_on(mock):
    mock.script({"early": True})
    big = post("/v1/chat/completions", b"x" * 100_000)
    seen = await exchange(mock.port, big + chat_request(), answers=2)
    assert seen.raw.count(b"HTTP/1.1 200 OK") == 2
    assert [arrival.ended for arrival in mock.seen] == ["complete", "complete"]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("crlf", b'"}]}\r\n\r\ndata: [DONE]\r\n\r\n'),
        ("cr", b'"}]}\r\rdata: [DONE]\r\r'),
        ("comments", b'"}]}\n\n: keep-alive\n\ndata: [DONE]\n\n'),
        ("nospace", b'"}]}\n\ndata:[DONE]\n\n'),
        ("bom", b'"}]}\n\ndata: [DONE]\n\n'),
    ],
)
async def test_the_spelling_of_a_stream_can_be_chosen(mock, style, expected):
    seen = await exchange(mock.port, chat_request(STREAM, sse=style))
    assert seen.body.endswith(expected)
    assert seen.body.startswith(b"\xef\xbb\xbf") == (style == "bom")


async def test_a_slow_reader_holds_the_answer_back(mock):
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(chat_request(STREAM, text_bytes=50_000_000, events=50_000))
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.1)
    assert mock.in_flight == 1
    writer.close()
    await mock.wait(lambda m: m.in_flight == 0)
    assert mock.seen[0].ended == "client_gone"


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"stal": "after-head"}, "unknown fault 'stal'"),
        ({"stall": "events"}, "stall: not a point"),
        ({"delay_s": "soon"}, "delay_s: not a duration"),
        ({"status": "500"}, "status: expected int"),
        ({"events": -1}, "events: expected int"),
        ({"sse": ["lf"]}, "sse: 'lf' is none of"),
        ({"headers": {"a": "b\r\nc: d"}}, "line break"),
        ({"content_type": "a\r\nb: c"}, "line break"),
        ({"interim": [200]}, "interim: expected a status"),
        ({"interim": [101]}, "interim: expected a status"),
        ({"content_type": 1}, "content_type: expected str"),
        ({"stall": "after-head", "reset": "after-head"}, "only one of"),
        ({"drip_s": 1}, "drip_s needs drip_bytes"),
    ],
)
async def test_a_fault_in_unknown_words_is_refused_by_name(mock, members, complaint):
    with pytest.raises(FaultError, match=complaint):
        parse_fault(members)
    seen = await exchange(mock.port, chat_request(**members))
    assert seen.status == 400
    assert complaint.split(":")[0].encode() in seen.body


def test_points_and_durations_are_read_as_written():
    fault = parse_fault({"stall": "bytes:12", "interval_s": "250ms", "delay_s": 2})
    assert fault == Fault(stall=Point("bytes", 12), interval_s=0.25, delay_s=2.0)


async def test_a_body_cannot_ask_to_be_answered_before_it_is_read(mock):
    assert (await exchange(mock.port, chat_request(early=True))).status == 400


def test_the_end_that_is_asked_for_last_replaces_the_one_below():
    below, above = parse_fault({"stall": "after-head", "delay_s": 1}), parse_fault({"reset": "bytes:1"})
    assert lay_over(below, above) == Fault(reset=Point("bytes", 1), delay_s=1.0)


def _content_before(seen) -> object:
    if not seen.raw:
        return None
    return len(events(seen.body)) if seen.body.endswith(b"\n\n") else len(seen.body)


def _expected_before(point: str) -> object:
    return {"before-head": None, "after-head": 0, "bytes:5": 5, "events:2": 2}[point]
