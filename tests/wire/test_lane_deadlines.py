"""The fast lane's deadlines: for heads, bodies, silence, and for clients that do not take their answer."""

from __future__ import annotations

import asyncio

import pytest
from wirefakes import HEAD, Client, Timeouts, echo, request

from llmgw._wire.call import Call
from llmgw._wire.outlet import Outlet
from llmgw.errors import BodyTimeout

LATE_S = 2.0  # a process may stand still between what it does and what it says of it
LINGER_S = 5.0


async def hang(call: Call, out: Outlet) -> None:
    await asyncio.get_running_loop().create_future()


def test_a_client_that_says_nothing_is_left_without_a_word() -> None:
    client = Client()
    client.pass_s(Timeouts.header - LATE_S)
    assert not client.transport.is_aborted
    client.pass_s(Timeouts.header + LATE_S)
    assert (client.transport.is_aborted, client.transport.out) == (True, b"")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_head_that_does_not_become_whole_is_refused_in_time_however_it_drips(is_first: bool) -> None:
    client = Client()
    if not is_first:
        client.send(request(b"before"))
    data = request()
    for second in range(int(Timeouts.header)):
        client.send(data[second : second + 1])
        client.pass_s(second)
        assert not client.failures
    client.pass_s(Timeouts.header + LATE_S)
    (failure,) = client.failures
    assert isinstance(failure, BodyTimeout)
    assert (client.got[-1].status, client.transport.has_eof) == (408, True)
    client.send(data)
    assert len(client.calls) == (1 if is_first else 2)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_body_that_does_not_become_whole_is_refused_in_time_however_it_drips(is_first: bool) -> None:
    client = Client()
    if not is_first:
        client.send(request(b"before"))
    client.send(request(b"x" * 100)[:-100])
    for second in range(int(Timeouts.body)):
        client.send(b"x")
        client.pass_s(second)
        assert not client.failures
    client.pass_s(Timeouts.body + LATE_S)
    assert (client.got[-1].status, client.got[-1].headers["connection"]) == (408, "close")
    client.send(b"x" * 100 + request(b"smuggled"))
    assert b"smuggled" not in client.bodies
    client.pass_s(Timeouts.body + LATE_S + LINGER_S + LATE_S)
    assert client.transport.is_aborted


async def test_a_request_under_way_has_no_deadline_of_the_lane_s() -> None:
    client = Client(hang)
    client.send(request() + request()[:9])
    client.pass_s(1e6)
    assert not client.transport.is_closing()
    assert client.failures == []


def test_a_connection_at_rest_is_left_without_a_word_after_its_keep_alive() -> None:
    client = Client()
    client.send(request())
    before = client.transport.out
    client.pass_s(Timeouts.keep_alive - LATE_S)
    assert not client.transport.is_aborted
    client.pass_s(Timeouts.keep_alive + LATE_S)
    assert (client.transport.is_aborted, client.transport.out) == (True, before)


def test_a_request_that_begins_in_a_connection_s_rest_gets_the_time_of_a_head() -> None:
    client = Client()
    client.send(request())
    client.send(request()[:9])
    client.pass_s(Timeouts.header - LATE_S)
    assert not client.failures
    client.pass_s(Timeouts.header + LATE_S)
    assert isinstance(client.failures[0], BodyTimeout)


def test_a_client_that_lingers_behind_its_last_answer_is_left() -> None:
    client = Client()
    client.send(request(b"x" * 100, key=b"wrong")[:-10])
    client.pass_s(LINGER_S - LATE_S)
    assert not client.transport.is_closing()
    client.pass_s(LINGER_S + LATE_S)
    assert client.transport.is_aborted


# -- clients that do not take what is theirs


def half(call: Call, out: Outlet) -> None:
    out.begin(200, HEAD, -1)
    out.write(b"half")
    out.cut()


async def cut(call: Call, out: Outlet) -> None:
    half(call, out)


@pytest.mark.parametrize("serve", [echo, hang, cut])
async def test_a_client_that_takes_nothing_for_too_long_is_left(serve: object) -> None:
    client = Client(serve)  # type: ignore[arg-type]
    client.send(request())
    client.lane.pause_writing()
    client.pass_s(Timeouts.send - LATE_S)
    assert not client.transport.is_aborted
    client.pass_s(Timeouts.send + LATE_S)
    assert client.transport.is_aborted


@pytest.mark.parametrize("is_slow_before", [True, False])
async def test_a_connection_that_is_to_close_is_left_when_its_client_does_not_take_the_rest(
    is_slow_before: bool,
) -> None:
    async def serve(call: Call, out: Outlet) -> None:
        if is_slow_before:
            client.lane.pause_writing()
        half(call, out)

    client = Client(serve)
    client.send(request())
    assert (client.transport.is_closed, client.transport.is_aborted) == (True, False)
    client.pass_s(Timeouts.send + LATE_S)
    assert client.transport.is_aborted


@pytest.mark.parametrize("last", ["cut", "refused"])
def test_taking_some_of_the_last_answer_does_not_buy_a_client_for_ever(last: str) -> None:
    client = Client(cut if last == "cut" else echo)
    client.send(request() if last == "cut" else request(b"x" * 100, key=b"wrong")[:-10])
    client.lane.pause_writing()
    client.lane.resume_writing()
    client.pass_s(1e4)
    assert client.transport.is_aborted


async def test_a_client_that_takes_again_in_time_is_served_on_and_gets_a_new_keep_alive() -> None:
    client = Client()
    client.send(request(b"one"))
    client.lane.pause_writing()
    client.pass_s(Timeouts.send - LATE_S)
    client.lane.resume_writing()
    client.pass_s(Timeouts.keep_alive - LATE_S)
    assert not client.transport.is_aborted
    client.send(request(b"two"))
    assert client.bodies == [b"one", b"two"]
    client.pass_s(Timeouts.keep_alive + LATE_S)
    assert client.transport.is_aborted


async def test_a_slow_client_that_takes_again_while_it_is_served_has_no_deadline_left() -> None:
    client = Client(hang)
    client.send(request())
    client.lane.pause_writing()
    client.lane.resume_writing()
    client.pass_s(1e4)
    assert not client.transport.is_aborted
