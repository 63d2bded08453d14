"""A provider's answer: what of it is one, whole and reusable, and what breaks the exchange."""

from __future__ import annotations

import pytest
from upstreamlink import HEAD, Link, answer, chunk, chunked, events, json_answer

from llmgw.errors import UpstreamBroken


def test_a_request_leaves_in_one_write() -> None:
    link = Link()
    assert link.connection.is_idle
    link.ask(body=(b"{", b"}"))
    assert (link.transport.out, link.transport.writes) == (HEAD + b"{}", 1)
    assert (link.connection.is_idle, link.connection.asked) == (False, 1)


def test_a_large_body_is_written_in_one_go_too() -> None:
    link = Link()
    link.ask(body=(b"x" * 70_000, b"y"))
    assert (link.transport.out, link.transport.writes) == (HEAD + b"x" * 70_000 + b"y", 1)


def test_a_json_answer_is_held_until_it_is_whole() -> None:
    link = Link().ask()
    data = json_answer(b'{"a": 1}', b"X-Odd: Yes")
    link.feed(data[:-1])
    assert (link.is_begun, link.connection.has_begun) == (False, True)
    link.feed(data[-1:])
    assert (link.is_begun, link.connection.is_complete, link.connection.take_held()) == (
        True,
        True,
        b'{"a": 1}',
    )
    assert (link.connection.status, link.connection.content_length) == (200, 8)
    assert link.connection.headers[-1] == (b"x-odd", b"Yes")
    assert link.connection.answered_s > 0


def test_an_answer_byte_by_byte_is_the_same_answer() -> None:
    for data in (
        json_answer(b'{"a": 1}'),
        chunked(b'{"a"', b": 1}"),
        chunked(b'{"a": 1}', end=b"0\r\nT: x\r\n\r\n"),
    ):
        link = Link().ask()
        for byte in data[:-1]:
            link.feed(bytes([byte]))
            assert not link.is_begun
        link.feed(data[-1:])
        assert (link.is_begun, link.connection.take_held()) == (True, b'{"a": 1}')


def test_an_answer_in_two_reads_is_the_same_wherever_it_is_split() -> None:
    data = chunked(b'{"a"', b": 1}", end=b"0\r\nTrail: er\r\n\r\n")
    for at in range(1, len(data)):
        link = Link().ask().feed(data[:at]).feed(data[at:])
        assert (link.is_begun, link.error, link.connection.take_held()) == (True, None, b'{"a": 1}')
        assert link.connection.rest()


def test_a_connection_is_used_again_with_nothing_left_of_the_answer_before() -> None:
    link = Link()
    for number in range(3):
        body = b'{"n": %d}' % number
        link.ask().feed(json_answer(body, b"x-only: %d" % number))
        assert link.connection.take_held() == body
        assert [value for name, value in link.connection.headers if name == b"x-only"] == [b"%d" % number]
        assert link.connection.rest()
        assert link.connection.is_idle
        assert link.connection.headers == []
    assert (link.connection.asked, link.transport.is_aborted) == (3, False)


@pytest.mark.parametrize(
    ("data", "is_reusable"),
    [
        (json_answer(b"{}"), True),
        (json_answer(b"{}", b"connection: close"), False),
        (answer(b"{}", version=b"1.0"), False),
        (answer(b"{}", b"connection: keep-alive", version=b"1.0"), True),
        (chunked(b"{}"), True),
        (answer(b"", status=b"204 No Content"), True),
        (b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", True),
    ],
)
def test_a_connection_rests_exactly_when_its_answer_says_so(data: bytes, is_reusable: bool) -> None:
    link = Link().ask().feed(data)
    assert (link.is_begun, link.error) == (True, None)
    assert link.connection.rest() is is_reusable
    assert link.is_closed is not is_reusable


def test_a_connection_in_the_middle_of_an_answer_does_not_rest() -> None:
    link = Link().ask().feed(json_answer(b'{"a": 1}')[:-3])
    assert not link.connection.rest()
    assert link.is_closed


@pytest.mark.parametrize("when", ["before", "rested", "answered"])
def test_bytes_that_nobody_asked_for_end_the_connection(when: str) -> None:
    link = Link()
    if when != "before":
        link.ask().feed(json_answer(b"{}"))
    if when == "rested":
        assert link.connection.rest()
    link.feed(json_answer(b'{"not": "yours"}'))
    assert link.is_closed
    assert b"not" not in link.connection.take_held() if when == "answered" else True


@pytest.mark.parametrize(
    "data",
    [
        json_answer(b"{}") + json_answer(b'{"not": "yours"}'),
        json_answer(b"{}") + b"HTTP/1.1 200 OK\r\n",
        json_answer(b"{}") + b"x",
        chunked(b"{}") + b"0\r\n\r\n",
        json_answer(b"{}", b"connection: close") + b"x",
    ],
)
def test_more_than_one_answer_in_one_read_is_no_answer(data: bytes) -> None:
    link = Link().ask().feed(data)
    assert isinstance(link.error, UpstreamBroken)
    assert (link.is_begun, link.is_closed) == (False, True)


@pytest.mark.parametrize("more", [json_answer(b'{"not": "yours"}'), b"HTTP/1.1 503 No\r\nx: y\r\n\r\n"])
def test_a_second_answer_in_one_read_changes_nothing_of_the_first(more: bytes) -> None:
    link = Link().ask_stream().feed(events(b'{"choices":[{"delta":{"content":"12345"}}]}', end=b"")).relay()
    link.feed(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n" + more)
    assert isinstance(link.error, UpstreamBroken)
    assert link.is_closed
    assert link.connection.status == 200
    assert (b"content-type", b"text/event-stream") in link.connection.headers
    assert (b"x", b"y") not in link.connection.headers
    assert link.connection.events is not None
    assert link.connection.events.text_bytes == 5
    assert b"not" not in link.out.data


INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", INTERIM, INTERIM * 5, b"HTTP/1.1 102 P\r\n\r\n"]
)
def test_interim_answers_are_passed_over(interim: bytes) -> None:
    for pieces in (
        (interim + json_answer(b"{}"),),
        (interim, json_answer(b"{}")),
        tuple(map(bytes, zip(interim))),
    ):
        link = Link().ask()
        for piece in pieces:
            link.feed(piece)
        if len(pieces) > 2:
            link.feed(json_answer(b"{}"))
        assert (link.is_begun, link.connection.status, link.connection.take_held()) == (True, 200, b"{}")
        assert (b"link", b"x") not in link.connection.headers
        assert link.connection.rest()


def test_interim_answers_without_end_are_no_answer() -> None:
    link = Link().ask()
    for _ in range(10_000):
        if link.error is None:
            link.feed(INTERIM)
    assert isinstance(link.error, UpstreamBroken)
    assert link.is_closed


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: x\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}x\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nna me: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_valid_answer_breaks_the_exchange_whole_and_byte_by_byte(data: bytes) -> None:
    whole = Link().ask().feed(data)
    assert isinstance(whole.error, UpstreamBroken)
    assert (whole.is_closed, whole.connection.is_late) == (True, False)
    slow = Link().ask()
    for byte in data:
        slow.feed(bytes([byte]))
    assert isinstance(slow.error, UpstreamBroken)
    assert slow.is_closed


def test_a_head_that_does_not_end_breaks_the_exchange_before_it_fills_the_memory() -> None:
    for piece in (b"x-%d: y\r\n", b"y" * 100 + b"%d"):
        link = Link().ask().feed(b"HTTP/1.1 200 OK\r\nx: ")
        sent = 0
        for number in range(100_000):
            if link.error is None:
                link.feed(piece % number)
                sent += len(piece)
        assert isinstance(link.error, UpstreamBroken)
        assert sent < 100_000


def test_more_headers_than_any_provider_sends_break_the_exchange() -> None:
    most = b"".join(b"x-%d: y\r\n" % number for number in range(120))
    assert Link().ask().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + most + b"\r\n").is_begun
    link = Link().ask().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + most * 2 + b"\r\n")
    assert isinstance(link.error, UpstreamBroken)


def test_trailers_are_read_and_are_no_headers_of_the_answer() -> None:
    trailers = b"0\r\ncontent-type: text/evil\r\ncontent-length: 7\r\n\r\n"
    link = Link().ask().feed(chunked(b"{}", end=trailers))
    if link.error is None:  # llhttp may refuse a length among the trailers
        assert link.connection.content_type == b"application/json"
        assert link.connection.content_length == -1
    link = Link().ask().feed(chunked(b"{}", end=b"0\r\nx-checksum: 1\r\n\r\n"))
    assert (link.connection.take_held(), link.connection.rest()) == (b"{}", True)


# -- the end of the connection


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
@pytest.mark.parametrize(
    "sent", [b"", b"HTTP", answer()[:-9], answer()[:-1], chunked(b"{}")[:-1], events(end=b"")]
)
def test_an_answer_that_the_connection_cuts_is_broken(sent: bytes, error: Exception | None) -> None:
    link = Link().ask().feed(sent).lose(error)
    assert isinstance(link.error, UpstreamBroken)
    assert (link.connection.has_begun, link.connection.is_open) == (bool(sent), False)
    assert link.lost == [link.connection]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_without_a_length_ends_with_its_connection(version: bytes) -> None:
    link = (
        Link()
        .ask()
        .feed(b"HTTP/" + version + b" 200 OK\r\ncontent-type: application/json\r\n\r\n{")
        .feed(b"}")
    )
    assert not link.is_begun
    link.lose()
    assert (link.is_begun, link.connection.is_complete, link.connection.take_held()) == (True, True, b"{}")
    assert not link.connection.rest()


def test_an_answer_without_a_length_is_broken_by_a_reset() -> None:
    link = Link().ask().feed(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}")
    link.lose(ConnectionResetError())
    assert isinstance(link.error, UpstreamBroken)
    assert not link.connection.is_complete


def test_a_connection_that_ends_at_rest_is_only_reported() -> None:
    link = Link()
    link.lose()
    assert (link.lost, link.connection.is_open, link.connection.is_idle) == ([link.connection], False, False)


def test_a_connection_that_ends_behind_its_answer_leaves_the_answer() -> None:
    link = Link().ask().feed(json_answer(b"{}")).lose()
    assert (link.is_begun, link.error, link.connection.take_held()) == (True, None, b"{}")
    assert not link.connection.rest()


def test_who_closes_in_the_middle_hears_nothing_more() -> None:
    link = Link().ask().feed(json_answer(b"{}")[:-1])
    link.connection.close()
    link.connection.data_received(b"}")
    link.lose()
    assert (link.is_begun, link.error, link.lost) == (False, None, [link.connection])


# -- who is woken when


def test_a_json_answer_up_to_a_megabyte_is_held_and_a_larger_one_is_not() -> None:
    body = b'"' + b"x" * (1 << 20) + b'"'
    link = Link().ask().feed(json_answer(body)[:-10_000])
    assert not link.is_begun
    body = b'"' + b"x" * (3 << 20) + b'"'
    link = Link().ask()
    data = json_answer(body)
    for at in range(0, len(data), 65_536):
        if link.transport.is_reading:
            link.feed(data[at : at + 65_536])
    assert (link.is_begun, link.connection.is_complete, link.transport.is_reading) == (True, False, False)
    assert (1 << 20) <= len(link.connection.take_held()) < (1 << 20) + 2 * 65_536


def test_another_kind_of_answer_is_not_held_beyond_a_few_pieces() -> None:
    link = Link().ask()
    head, _, _ = answer(b"x" * 10_000_000, b"content-type: audio/mpeg").partition(b"\r\n\r\n")
    link.feed(head + b"\r\n\r\n")
    assert not link.is_begun
    link.feed(b"x" * 20_000)
    assert (link.is_begun, link.transport.is_reading) == (True, False)


def test_a_refusal_is_held_whatever_its_kind() -> None:
    link = Link().ask().feed(answer(b"x" * 50_000, b"content-type: text/html", status=b"503 No")[:-1])
    assert not link.is_begun
    link.feed(b"x")
    assert (link.is_begun, link.connection.status, len(link.connection.take_held())) == (True, 503, 50_000)


def test_a_stream_begins_with_its_first_whole_event_and_not_with_its_head() -> None:
    link = Link().ask_stream()
    link.feed(events(end=b""))
    assert not link.is_begun
    link.feed(chunk(b'data: {"a":'))
    assert not link.is_begun
    link.feed(chunk(b" 1}\n\n"))
    assert (link.is_begun, link.connection.is_events, link.transport.is_reading) == (True, True, False)
    assert link.connection.take_held().endswith(b'data: {"a": 1}\n\n')


def test_a_comment_does_not_begin_a_stream_so_that_a_failure_behind_it_can_still_be_another_target_s() -> (
    None
):
    link = Link().ask_stream().feed(events(end=b"")).feed(chunk(b": processing\n\n"))
    assert not link.is_begun


def test_a_stream_that_is_a_refusal_is_read_as_one() -> None:
    data = events(b'{"error": 1}').replace(b"200 OK", b"429 Slow")
    link = Link().ask_stream().feed(data)
    assert (link.is_begun, link.connection.status, link.connection.events) == (True, 429, None)
