"""A relayed answer: every byte once, at the client's pace, to an end that is told once."""

from __future__ import annotations

import asyncio
import ctypes

import pytest
from upstreamlink import Link, answer, chunk, chunked, events, json_answer

from llmgw._wire.sse import EventScanner
from llmgw.errors import UpstreamBroken

AUDIO = b"content-type: audio/mpeg"


def begun(size: int = 100_000) -> tuple[Link, bytes]:
    """An answer of that many bytes, begun with the first 20,000, and the rest that is still to come."""
    body = bytes(range(256)) * (size // 256)
    data = answer(body, AUDIO)
    cut = len(data) - len(body) + 20_000
    return Link().ask().feed(data[:cut]), data[cut:]


def test_what_was_held_and_what_follows_arrive_once_and_in_order() -> None:
    link, rest = begun()
    link.relay()
    assert link.transport.is_reading
    for at in range(0, len(rest), 1_000):
        assert not link.is_over
        link.feed(rest[at : at + 1_000])
    assert (link.is_over, link.error) == (True, None)
    assert link.out.data == bytes(range(256)) * (100_000 // 256)
    assert link.connection.relayed_bytes == len(link.out.data)
    assert link.connection.relayed_tail == link.out.data[-4096:]
    assert link.connection.rest()


def test_what_comes_in_the_same_read_as_the_beginning_is_not_lost() -> None:
    body = b"x" * 50_000
    link = Link().ask().feed(answer(body, AUDIO))
    assert (link.is_begun, link.connection.is_complete) == (True, True)
    link.relay()
    assert (link.is_over, link.out.data) == (True, body)


def test_a_stream_is_relayed_event_by_event() -> None:
    link = Link().ask_stream().feed(events(b'{"n":0}', end=b"")).relay()
    for number in range(1, 5):
        link.feed(chunk(b'data: {"n":%d}\n\n' % number))
        assert link.out.data.count(b"data:") == number + 1
    link.feed(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    assert (link.is_over, link.out.data.endswith(b"data: [DONE]\n\n")) == (True, True)
    assert link.connection.events is not None
    assert link.connection.events.is_terminal
    assert link.connection.rest()


def test_a_stream_in_one_read_is_whole_when_it_begins() -> None:
    link = Link().ask_stream().feed(events(b'{"n":0}', b"[DONE]"))
    assert (link.is_begun, link.connection.is_complete) == (True, True)
    link.relay()
    assert (link.is_over, link.out.data) == (True, b'data: {"n":0}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize("status", [b"201 Created", b"206 Partial Content"])
def test_a_stream_is_read_whatever_its_2xx(status: bytes) -> None:
    stream = events(b'{"choices":[],"usage":{"prompt_tokens":1}}', b'{"n":0}', b"[DONE]")
    link = Link().ask(EventScanner(b"[DONE]", True)).feed(stream.replace(b"200 OK", status)).relay()
    assert (link.is_over, link.out.data) == (True, b'data: {"n":0}\n\ndata: [DONE]\n\n')


def test_an_error_event_ends_a_stream_and_what_follows_stays_here() -> None:
    link = Link().ask_stream().feed(events(b'{"n":0}', end=b"")).relay()
    link.feed(chunk(b'data: {"error":{"code":null}}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    assert (link.is_over, link.out.data) == (True, b'data: {"n":0}\n\ndata: {"error":{"code":null}}\n\n')


def test_the_progress_of_a_relay_counts_what_was_held() -> None:
    link, rest = begun()
    told = ctypes.c_longlong()
    link.connection.tell_progress(ctypes.addressof(told))
    link.relay()
    assert told.value == 20_000
    link.feed(rest)
    assert told.value == len(link.out.data)


def test_nothing_is_read_between_the_beginning_and_the_relay() -> None:
    link, _ = begun()
    assert not link.transport.is_reading
    link.relay()
    assert link.transport.is_reading


def test_a_slow_client_slows_the_provider_and_a_quick_one_speeds_it_up() -> None:
    link, rest = begun()
    link.relay()
    for _ in range(3):
        link.out.slow_down()
        link.out.slow_down()
        assert not link.transport.is_reading
        link.out.speed_up()
        assert link.transport.is_reading
    link.feed(rest)
    assert link.is_over


def test_a_client_that_was_slow_before_the_relay_began_slows_it_too() -> None:
    link, rest = begun()
    link.out.slow_down()
    link.relay()
    assert not link.transport.is_reading
    link.out.speed_up()
    assert link.transport.is_reading
    link.feed(rest)
    assert (link.is_over, len(link.out.data)) == (True, 100_000 // 256 * 256)


def test_a_client_that_was_slow_before_a_stream_began_slows_it_too() -> None:
    link = Link().ask_stream()
    link.out.slow_down()
    link.feed(events(b"{}", end=b"")).relay()
    assert not link.transport.is_reading


def test_an_answer_that_ends_while_the_client_is_slow_leaves_the_connection_ready_for_the_next() -> None:
    link, rest = begun()
    link.relay()
    link.out.slow_down()
    link.feed(rest)  # it was in the loop's hands already
    assert link.is_over
    assert link.transport.is_reading
    assert link.connection.rest()
    link.out.speed_up()
    link.out.slow_down()  # of the next request's answer: not this connection's
    assert link.transport.is_reading


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_relay_that_the_provider_cuts_is_broken(error: Exception | None) -> None:
    link, rest = begun()
    link.relay().feed(rest[:-1]).lose(error)
    assert isinstance(link.error, UpstreamBroken)
    assert (link.is_over, len(link.out.data)) == (False, 100_000 // 256 * 256 - 1)


def test_garbage_in_the_middle_of_a_relay_breaks_it_and_none_of_it_reaches_the_client() -> None:
    link = Link().ask().feed(chunked(b"x" * 20_000, kind=b"audio/mpeg", end=b"")).relay()
    link.feed(b"5z\r\nhello\r\n")
    assert isinstance(link.error, UpstreamBroken)
    assert (link.out.data, link.is_closed) == (b"x" * 20_000, True)


def test_what_broke_before_the_relay_is_told_by_the_relay() -> None:
    link, _ = begun()
    link.lose()
    link.relay()
    assert isinstance(link.error, UpstreamBroken)
    assert len(link.out.data) == 20_000


def test_a_stream_without_a_length_ends_with_its_connection() -> None:
    head = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    link = Link().ask_stream().feed(head + b"data: 1\n\n").relay().feed(b"data: [DONE]\n\n")
    link.lose()
    assert (link.is_over, link.error) == (True, None)


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_stream_whose_end_was_marked_is_whole_however_the_connection_ends(error: Exception | None) -> None:
    link = Link().ask_stream().feed(events(b"{}", b"[DONE]", end=b"")).relay()
    assert not link.is_over
    link.lose(error)
    assert (link.is_over, link.error) == (True, None)
    assert link.out.data.endswith(b"[DONE]\n\n")
    assert not link.connection.rest()


def test_an_event_larger_than_any_provider_sends_breaks_the_stream() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b"")).relay()
    for _ in range(300):
        if link.error is None:
            link.feed(chunk(b"data: " + b"x" * 10_000 if not link.out.data.endswith(b"x") else b"x" * 10_000))
    assert isinstance(link.error, UpstreamBroken)
    assert link.is_closed


@pytest.mark.parametrize(("unsent", "rests"), [(0, True), (1, False)])
def test_a_connection_with_a_part_of_its_request_unsent_does_not_rest(unsent: int, rests: bool) -> None:
    link = Link().ask(body=(b"x" * 6_000_000,))
    link.transport.unsent_bytes = unsent
    link.feed(json_answer(b"{}"))
    assert link.is_begun
    assert link.connection.rest() is rests


def test_who_leaves_a_relay_takes_the_connection_with_it() -> None:
    link, rest = begun()
    link.relay()
    link.connection.close()
    assert link.transport.is_aborted
    link.connection.data_received(rest)
    assert len(link.out.data) == 20_000
    link.lose()
    assert (link.is_over, link.error, link.lost) == (False, None, [link.connection])


# -- HTTP that somebody else reads


def test_an_answer_that_is_told_piece_by_piece_is_like_one_that_is_read() -> None:
    link = Link().ask()
    link.connection.take_head(200, [(b"Content-Type", b"application/json"), (b"Content-Length", b"8")])
    link.connection.take_piece(b'{"a"')
    assert not link.is_begun
    link.connection.take_piece(b": 1}")
    link.connection.take_end()
    assert (link.is_begun, link.connection.take_held(), link.connection.status) == (True, b'{"a": 1}', 200)


def test_an_answer_that_is_told_to_fail_is_broken_once() -> None:
    link = Link().ask()
    link.connection.take_head(200, [(b"Content-Type", b"application/json")])
    link.connection.fail(UpstreamBroken("told"))
    link.connection.fail(UpstreamBroken("told again"))
    assert str(link.error) == "told"


# -- a request's body that is streamed


async def test_a_writer_waits_while_the_provider_is_slow_and_goes_on_when_it_is_not() -> None:
    link = uploading()
    writing = asyncio.ensure_future(link.connection.write_more(b"one"))
    await asyncio.sleep(0)
    assert writing.done()
    link.connection.pause_writing()
    writing = asyncio.ensure_future(link.connection.write_more(b"two"))
    await asyncio.sleep(0)
    assert (writing.done(), link.transport.out.endswith(b"onetwo")) == (False, True)
    link.connection.resume_writing()
    await writing


@pytest.mark.parametrize("end", ["lost", "closed", "answered", "refused"])
async def test_a_writer_does_not_wait_for_a_provider_that_will_never_read(end: str) -> None:
    link = uploading()
    link.connection.pause_writing()
    writing = asyncio.ensure_future(link.connection.write_more(b"one"))
    await asyncio.sleep(0)
    if end == "lost":
        link.lose(ConnectionResetError())
    elif end == "closed":
        link.connection.close()
        link.lose()
    else:
        link.feed(json_answer(b"{}") if end == "answered" else b"garbage\r\n\r\n")
    await asyncio.wait_for(writing, 10.0)
    assert writing.exception() is None


async def test_nothing_is_written_to_a_connection_that_has_ended() -> None:
    link = uploading()
    link.connection.close()
    before = link.transport.out
    await link.connection.write_more(b"late")
    assert link.transport.out == before


@pytest.mark.parametrize("is_answered_first", [True, False])
def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again(is_answered_first: bool) -> None:
    link = Link().ask()
    if is_answered_first:
        link.feed(json_answer(b"{}"))
        link.connection.must_close()
    else:
        link.connection.must_close()
        link.feed(json_answer(b"{}"))
    assert (link.is_begun, link.connection.take_held()) == (True, b"{}")
    assert not link.connection.rest()
    assert link.is_closed


def uploading() -> Link:
    from llmgw._wire.upstream import Connection

    link = Link()
    link.connection = Connection(asyncio.get_running_loop(), link.wheel, link.lost.append)
    link.transport = type(link.transport)(link.connection)
    return link.ask()
