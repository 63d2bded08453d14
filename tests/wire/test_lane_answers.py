"""The fast lane's answers: their framing, their end, and what becomes of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from upstreamlink import Link, chunk, events
from wirefakes import HEAD, Client, Reply, Serve, request

from llmgw._wire.call import Call
from llmgw._wire.outlet import Outlet
from llmgw.errors import BadRequest


def serving(work: Callable[[Outlet], object]) -> Serve:
    async def serve(call: Call, out: Outlet) -> None:
        work(out)

    return serve


def streamed(*pieces: bytes, length: int = -1) -> Callable[[Outlet], None]:
    def work(out: Outlet) -> None:
        out.begin(200, HEAD, length)
        for piece in pieces:
            out.write(piece)
        out.end()

    return work


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 65_535, 65_536, 1 << 20])
def test_a_piece_of_any_size_is_one_chunk(size: int) -> None:
    client = Client(serving(streamed(b"a" * size, b"", b"b")))
    client.send(request())
    assert client.got == [
        Reply(200, client.got[0].headers, b"a" * size + b"b", True),
    ]
    assert client.got[0].headers["transfer-encoding"] == "chunked"
    assert b"\r\n%x\r\n" % size in client.transport.out


def test_an_answer_whose_length_is_known_is_not_chunked() -> None:
    client = Client(serving(streamed(b"one", b"two", length=6)))
    client.send(request() + request())
    assert client.bodies == [b"onetwo", b"onetwo"]
    assert client.got[0].headers["content-length"] == "6"
    assert "transfer-encoding" not in client.got[0].headers


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 429, 500, 599, 799])
def test_any_status_has_a_line_of_its_own(status: int) -> None:
    client = Client(serving(lambda out: out.answer(status, HEAD, b"")))
    client.send(request())
    assert client.transport.out.startswith(b"HTTP/1.1 %d " % status)
    assert client.got[0].status == status


def test_chunked_and_whole_answers_take_turns_on_one_connection() -> None:
    works = iter(
        [streamed(b"1"), lambda out: out.answer(200, HEAD, b"2"), streamed(b"3", length=1), streamed(b"4")]
    )

    async def serve(call: Call, out: Outlet) -> None:
        next(works)(out)

    client = Client(serve)
    client.send(request() * 4)
    assert client.bodies == [b"1", b"2", b"3", b"4"]


def test_an_answer_that_is_cut_stays_visibly_incomplete() -> None:
    def work(out: Outlet) -> None:
        out.begin(200, HEAD, -1)
        out.write(b"half")
        out.cut()

    client = Client(serving(work))
    client.send(request() + request(b"smuggled"))
    assert (client.bodies, client.got[0].is_whole) == ([b"half"], False)
    assert not client.transport.out.endswith(b"0\r\n\r\n")
    assert (client.transport.is_closed, client.transport.is_aborted, len(client.calls)) == (True, False, 1)


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_request_that_nobody_answers_ends_its_connection(is_begun: bool) -> None:
    client = Client(serving(lambda out: out.begin(200, HEAD, 10) if is_begun else None))
    client.send(request() + request(b"smuggled"))
    assert (client.transport.is_aborted, len(client.calls)) == (True, 1)


def test_a_failure_is_told_by_whoever_tells_failures_and_the_connection_goes_on() -> None:
    async def serve(call: Call, out: Outlet) -> None:
        raise BadRequest("no")

    client = Client(serve)
    client.send(request() * 2)
    assert [type(failure) for failure in client.failures] == [BadRequest, BadRequest]
    assert [(reply.status, reply.body) for reply in client.got] == [(400, b"no"), (400, b"no")]


def test_while_it_drains_each_answer_ends_its_connection() -> None:
    client = Client()
    client.send(request())
    client.edge.is_draining = True
    client.send(request() + request(b"one too many"))
    assert [reply.headers.get("connection") for reply in client.got] == [None, "close"]
    assert (client.transport.is_closed, len(client.calls)) == (True, 2)


async def test_only_connections_at_rest_are_closed_as_resting() -> None:
    async def serve(call: Call, out: Outlet) -> None:
        await asyncio.get_running_loop().create_future()

    client = Client(serve)
    states = []
    for sent in (b"", request()[:9], request(b"x" * 20_000)[:-1], request()):
        client.connect()
        client.send(sent)
        states.append(client.transport)
    client.edge.close_resting()
    assert [transport.is_closed for transport in states] == [True, False, False, False]
    client.edge.close_all()
    assert all(transport.is_aborted for transport in states)


# -- the client's pace


class Relaying:
    """A gateway that relays one provider's stream to each client."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    async def __call__(self, call: Call, out: Outlet) -> None:
        link = Link().ask_stream()
        self.links.append(link)
        link.feed(events(b"1", end=b""))
        out.begin(200, HEAD, -1)
        await link.connection.relay(out)
        out.end()

    @property
    def reads(self) -> bool:
        return self.links[-1].transport.is_reading


def test_a_client_that_does_not_take_its_stream_stops_the_provider() -> None:
    relaying = Relaying()
    client = Client(relaying)
    client.send(request())
    assert relaying.reads
    client.lane.pause_writing()
    assert not relaying.reads
    client.lane.resume_writing()
    assert relaying.reads
    relaying.links[0].feed(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    assert (client.got[0].body, client.got[0].is_whole) == (b"data: 1\n\ndata: [DONE]\n\n", True)


def test_a_client_that_takes_nothing_is_served_nothing_more_until_it_does() -> None:
    client = Client()
    client.send(request(b"one"))
    client.lane.pause_writing()
    sent = 0
    while client.transport.is_reading:
        client.send(request(b"two"))
        sent += len(request(b"two"))
    assert (client.bodies, 64_000 < sent < 70_000) == ([b"one"], True)
    client.lane.resume_writing()
    assert client.transport.is_reading
    assert client.bodies == [b"one"] + [b"two"] * (sent // len(request(b"two")))


def test_a_client_that_stops_taking_in_the_middle_of_what_it_sent_ahead_stops_being_served_there() -> None:
    async def serve(call: Call, out: Outlet) -> None:
        out.answer(200, HEAD, call.body)
        if len(client.calls) == 3:
            client.lane.pause_writing()

    client = Client(serve)
    client.send(request(b"x") * 10)
    assert len(client.got) == 3
    client.lane.resume_writing()
    assert len(client.got) == 10


def test_a_client_that_was_slow_before_its_stream_began_stops_the_provider_too() -> None:
    relaying = Relaying()

    async def serve(call: Call, out: Outlet) -> None:
        client.lane.pause_writing()
        await relaying(call, out)

    client = Client(serve)
    client.send(request())
    assert not relaying.reads
    client.lane.resume_writing()
    assert relaying.reads


def test_the_next_stream_of_a_connection_sets_its_own_pace() -> None:
    relaying = Relaying()
    client = Client(relaying)
    for number in range(2):
        client.send(request())
        client.lane.pause_writing()
        client.lane.resume_writing()
        relaying.links[number].feed(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    client.lane.pause_writing()
    assert all(link.transport.is_reading for link in relaying.links)


def test_a_client_that_leaves_a_stream_ends_it_at_the_provider() -> None:
    async def serve(call: Call, out: Outlet) -> None:
        try:
            await relaying(call, out)
        finally:
            relaying.links[-1].connection.close()

    relaying = Relaying()
    client = Client(serve)
    client.send(request())
    client.transport.lose()
    assert relaying.links[0].transport.is_aborted
