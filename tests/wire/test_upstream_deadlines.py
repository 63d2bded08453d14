"""The deadlines of one exchange: first byte, silence, total; and what a slow client does to them."""

from __future__ import annotations

import pytest
from upstreamlink import FIRST_S, IDLE_S, TOTAL_S, Link, answer, chunk, events, json_answer

from llmgw.errors import UpstreamTimeout

LATE_S = 2.0  # a process may stand still between what it does and what it says of it


def is_late(link: Link) -> bool:
    assert (link.error is None) != isinstance(link.error, UpstreamTimeout)
    assert link.connection.is_late is (link.error is not None)
    return link.connection.is_late


def test_a_provider_that_stays_silent_is_left_at_the_first_byte_s_deadline() -> None:
    link = Link().ask()
    assert not is_late(link.pass_s(FIRST_S - LATE_S))
    assert is_late(link.pass_s(FIRST_S + LATE_S))
    assert link.is_closed


@pytest.mark.parametrize(
    "sent", [b"HTTP/1.1 200", json_answer(b"{}")[:-2], b"HTTP/1.1 100 Continue\r\n\r\n", events(end=b"")]
)
def test_a_head_alone_does_not_move_the_first_byte_s_deadline(sent: bytes) -> None:
    link = Link().ask_stream().feed(sent)
    assert is_late(link.pass_s(FIRST_S + LATE_S))
    assert not link.is_begun


def test_heads_that_drip_do_not_move_it_either() -> None:
    link = Link().ask()
    for second in range(int(FIRST_S)):
        link.feed(b"HTTP/1.1 200 OK"[second : second + 1])
        assert not is_late(link.pass_s(second + 0.5))
    assert is_late(link.pass_s(FIRST_S + LATE_S))


def test_each_piece_of_an_answer_moves_the_deadline_by_the_allowed_silence() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b"")).relay()
    assert not is_late(link.pass_s(IDLE_S - LATE_S))
    link.feed(chunk(b"data: {}\n\n"))
    assert is_late(link.pass_s(IDLE_S + LATE_S))  # by the real clock all pieces came now
    assert link.is_closed


def test_no_piece_moves_the_deadline_beyond_the_total() -> None:
    link = Link()
    link.connection.ask(b"", [], None, 10.0, 20.0, 0.001)  # its total passed long ago
    link.wheel.turn(link.wheel.now_s + LATE_S)
    assert link.connection.is_late


def test_a_paused_answer_has_no_deadline_but_the_total() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b"")).relay()
    link.out.slow_down()
    assert not is_late(link.pass_s(TOTAL_S - LATE_S))
    assert is_late(link.pass_s(TOTAL_S + LATE_S))


def test_silence_counts_anew_when_the_client_reads_again() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b"")).relay()
    link.out.slow_down()
    assert not is_late(link.pass_s(IDLE_S * 2))
    link.out.speed_up()
    assert is_late(link.pass_s(IDLE_S * 2 + LATE_S))


def test_a_beginning_that_nobody_relays_has_no_deadline_but_the_total() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b""))
    assert link.is_begun
    assert not is_late(link.pass_s(TOTAL_S - LATE_S))
    link.pass_s(TOTAL_S + LATE_S)
    assert link.connection.is_late
    link.relay()
    assert isinstance(link.error, UpstreamTimeout)


def test_a_whole_answer_has_no_deadline() -> None:
    link = Link().ask().feed(json_answer(b"{}")).pass_s(1e6)
    assert (link.connection.is_late, link.is_closed, link.connection.rest()) == (False, False, True)


def test_a_marked_end_waits_a_second_for_the_connection_s_and_is_whole_without_it() -> None:
    link = Link().ask_stream().feed(events(b"{}", end=b"")).relay().feed(chunk(b"data: [DONE]\n\n"))
    link.pass_s(0.9)
    assert not link.is_over
    link.pass_s(1.0 + LATE_S)
    assert (link.is_over, link.error, link.is_closed) == (True, None, True)


def test_a_marked_end_waits_no_longer_for_a_client_that_was_slow() -> None:
    link = Link().ask_stream().feed(events(b"{}", b"[DONE]", end=b""))
    link.out.slow_down()
    link.relay()
    link.out.speed_up()
    link.pass_s(1.0 + LATE_S)
    assert (link.is_over, link.error, link.is_closed) == (True, None, True)


def test_a_connection_at_rest_is_closed_at_its_age_and_not_while_it_is_used_again() -> None:
    link = Link()
    link.connection.rest_until(link.wheel.now_s + 55.0)
    link.ask().pass_s(FIRST_S - LATE_S)
    link.feed(json_answer(b"{}"))
    assert link.connection.rest()
    link.connection.rest_until(link.asked_s + 155.0)
    link.pass_s(150.0)
    assert link.connection.is_idle
    link.pass_s(155.0 + LATE_S)
    assert link.is_closed


async def test_an_upload_that_goes_on_moves_the_first_byte_s_deadline() -> None:
    link = Link().ask()
    link.pass_s(FIRST_S - LATE_S)
    await link.connection.write_more(b"x")
    assert is_late(link.pass_s(FIRST_S + LATE_S))  # by the real clock it was sent now


def test_a_deadline_that_has_passed_is_told_once_whatever_still_comes() -> None:
    link = Link().ask().pass_s(FIRST_S + LATE_S)
    first = link.error
    link.connection.data_received(answer(b"{}"))
    link.lose()
    assert link.error is first
    assert link.lost == [link.connection]
