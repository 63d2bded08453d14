"""The fast lane: which request is served when, from which bytes, and what its client is told."""

from __future__ import annotations

import asyncio

import pytest
from wirefakes import HEAD, Client, Record, Settings, request

from llmgw._wire.call import Call
from llmgw._wire.outlet import Outlet
from llmgw.dialects import INFERENCE
from llmgw.errors import BadRequest, BodyTooLarge, HeadTooLarge


class Turnstile:
    """Serves a request when told to."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.cancelled = 0

    async def __call__(self, call: Call, out: Outlet) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        try:
            await self.waiting[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        out.answer(200, HEAD, call.body)

    async def let_through(self) -> None:
        self.waiting[-1].set_result(None)
        await asyncio.sleep(0)


def test_a_request_in_one_read_is_served_from_within_it() -> None:
    client = Client()
    client.send(request(b'{"a": 1}', b"accept: */*", b"content-type: application/json", b"openai-beta: x"))
    (call,) = client.calls
    assert (call.method, call.endpoint, call.route) == (
        "POST",
        "/v1/chat/completions",
        INFERENCE["/v1/chat/completions"],
    )
    assert (call.credential, call.accept, call.content_type) == (b"key", b"*/*", b"application/json")
    assert (call.beta, call.idempotency_key, call.traceparent, call.query) == (b"x", None, None, "")
    assert call.started_s > 0
    (reply,) = client.got
    assert (reply.status, reply.body, reply.is_whole) == (200, b'{"a": 1}', True)
    assert reply.headers == {
        "content-type": "text/plain", "content-length": "8", "date": client.wheel.date.decode(),
    }  # fmt: skip
    assert client.transport.writes == 1


@pytest.mark.parametrize("path", INFERENCE)
def test_each_inference_route_is_served_here(path: str) -> None:
    client = Client()
    client.send(request(path=path.encode()))
    assert (client.calls[0].endpoint, client.calls[0].route) == (path, INFERENCE[path])


@pytest.mark.parametrize(
    ("line", "credential"),
    [
        (b"x-api-key: one", b"one"),
        (b"api-key: two", b"two"),
        (b"x-goog-api-key: three", b"three"),
        (b"x-goog-api-key: three\r\napi-key: two\r\nx-api-key: one", b"one"),
        (b"x-other: x", None),
    ],
)
def test_a_credential_is_taken_from_each_header_that_may_hold_it(
    line: bytes, credential: bytes | None
) -> None:
    client = Client()
    client.send(request(b"", line).replace(b"authorization: Bearer key\r\n", b""))
    assert client.calls[0].credential == credential


def test_requests_byte_by_byte_are_the_same_requests() -> None:
    client = Client()
    bodies = [b"", b"{}", b"x" * 300, b"POST / HTTP/1.1\r\n\r\n"]
    for body in bodies:
        for byte in request(body):
            client.send(bytes([byte]))
    assert client.bodies == bodies
    assert {call.endpoint for call in client.calls} == {"/v1/chat/completions"}
    assert len({call.request_id for call in client.calls}) == len(bodies)


def test_two_requests_in_two_reads_are_the_same_wherever_they_are_split() -> None:
    data = request(b"first") + request(b"the second")
    client = Client()
    for at in range(1, len(data)):
        client.connect()
        client.send(data[:at])
        client.send(data[at:])
        assert client.bodies == [b"first", b"the second"], at


def test_many_requests_in_one_read_are_served_in_their_order() -> None:
    client = Client()
    bodies = [b"%d" % number for number in range(2_000)]
    client.send(b"".join(request(body) for body in bodies))
    assert client.bodies == bodies


async def test_a_request_that_was_sent_ahead_waits_until_the_one_before_is_answered() -> None:
    turnstile = Turnstile()
    client = Client(turnstile)
    client.send(request(b"one") + request(b"two") + request(b"three")[:40])
    client.send(request(b"three")[40:])
    for count, body in enumerate((b"one", b"two", b"three"), 1):
        assert (len(turnstile.waiting), client.transport.is_reading) == (count, True)
        await turnstile.let_through()
        assert client.bodies[-1] == body
    assert len(client.calls) == 3


async def test_a_client_that_sends_too_much_ahead_is_not_read_from_until_its_turn() -> None:
    turnstile = Turnstile()
    client = Client(turnstile)
    client.send(request(b"one"))
    ahead = b"".join(request(b"x" * 90) for _ in range(600))
    sent = 0
    while client.transport.is_reading:
        client.send(ahead[sent : sent + 10_000])
        sent += 10_000
    assert 64_000 < sent < 90_000
    await turnstile.let_through()
    assert (client.transport.is_reading, len(client.calls)) == (True, 2)


def test_a_body_in_pieces_is_whole_and_what_follows_it_is_the_next_request() -> None:
    body = bytes(range(256)) * 300
    data = request(body) + request(b"next")
    for size in (1_000, 65_536, 70_000):
        client = Client()
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
        assert client.bodies == [body, b"next"]


# -- refused before it is read


@pytest.mark.parametrize("here", [0, 1, 9_999])
def test_who_is_not_known_is_refused_before_the_body_is_read_and_that_is_the_last_answer(here: int) -> None:
    client = Client()
    smuggled = request(b"smuggled")
    head = request(b"x" * 10_000, key=b"wrong")[:-10_000]
    client.send(head + b"x" * here)
    (reply,) = client.got
    assert (reply.status, reply.headers["connection"], client.transport.has_eof) == (500, "close", True)
    for _ in range(3):
        client.send(smuggled)
    assert len(client.calls) == len(client.got) == 1
    assert not client.transport.is_closing()
    client.pass_s(8.0)
    assert client.transport.is_aborted


def test_who_is_not_known_and_sent_all_of_a_request_keeps_the_connection() -> None:
    async def refuse(call: Call, out: Outlet) -> None:
        raise BadRequest("no")

    client = Client(refuse)
    client.send(request(b"x", key=b"wrong") + request(b"y"))
    assert ([reply.status for reply in client.got], client.transport.is_closing()) == ([400, 400], False)


@pytest.mark.parametrize("known", [True, False])
def test_a_body_larger_than_allowed_is_refused_from_its_head(known: bool) -> None:
    client = Client()
    client.send(request(b"", key=b"key" if known else b"wrong").replace(b": 0", b": 100001"))
    assert (len(client.got), client.transport.has_eof) == (1, True)
    assert isinstance(client.failures[0], BodyTooLarge if known else PermissionError)


def test_the_largest_body_that_is_allowed_is_served() -> None:
    client = Client()
    client.send(request(b"x" * Settings.max_body))
    assert client.bodies == [b"x" * Settings.max_body]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_head_larger_than_allowed_is_refused(is_whole: bool) -> None:
    client = Client()
    data = request(b"", b"x-long: " + b"x" * 3_000)
    client.send(data if is_whole else data[:2_500])
    assert isinstance(client.failures[0], HeadTooLarge)
    assert (client.got[0].status, client.transport.has_eof) == (431, True)
    client.send(request())
    assert len(client.calls) == 1


# -- handed over


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n",
        request(b"{}", b"connection: close"),
        request(b"{}", b"transfer-encoding: chunked"),
        request(b"{}", b"content-length: 3"),
        request(b"{}", path=b"/v1/files"),
        request(b"{}", path=b"/v1/chat/completions/"),
        b"\x16\x03\x01\x02\x00",
        b"\x00",
    ],
)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_not_plain_is_handed_over_whole_and_for_good(data: bytes, before: int) -> None:
    client = Client()
    client.send(request(b"before") * before + data + b"and what follows")
    (general,) = client.general
    assert (general.data, general.transport) == (data + b"and what follows", client.transport)
    assert (client.transport.protocol, client.edge.lanes) == (general, set())
    assert client.bodies == [b"before"] * before if before else client.transport.out == b""
    client.send(request(b"later"))
    assert general.data.endswith(request(b"later"))
    client.pass_s(1e4)
    assert not client.transport.is_aborted


def test_what_is_not_plain_is_handed_over_whole_however_slowly_it_comes() -> None:
    data = request(b"{}", b"expect: 100-continue")
    client = Client()
    for byte in data:
        client.send(bytes([byte]))
    assert client.general[0].data == data
    assert (client.calls, client.transport.out) == ([], b"")


async def test_what_is_not_plain_waits_for_the_answer_before_it() -> None:
    turnstile = Turnstile()
    client = Client(turnstile)
    client.send(request(b"one") + b"GET / HTTP/1.1\r\n\r\n")
    assert client.general == []
    await turnstile.let_through()
    assert client.general[0].data == b"GET / HTTP/1.1\r\n\r\n"


# -- the client leaves


async def test_a_client_that_leaves_cancels_its_request_and_only_that() -> None:
    turnstile = Turnstile()
    client = Client(turnstile)
    client.send(request() + request(b"never"))
    other, lane = client.transport, client.lane
    client.connect()
    client.send(request(b"stays"))
    other.lose()
    assert (turnstile.cancelled, lane.is_gone, client.lane.is_gone) == (1, True, False)
    assert client.edge.lanes == {client.lane}
    await turnstile.let_through()
    assert (client.bodies, other.out, len(client.calls)) == ([b"stays"], b"", 2)


@pytest.mark.parametrize("sent", [b"", request()[:20], request(b"x" * 20_000)[:-1]])
def test_a_client_that_leaves_before_its_request_is_whole_leaves_nothing(sent: bytes) -> None:
    client = Client()
    client.send(sent)
    assert not client.lane.eof_received()
    client.transport.lose()
    assert (client.calls, client.edge.lanes, client.transport.out) == ([], set(), b"")
    client.pass_s(1e4)
    assert not client.transport.is_aborted


async def test_what_is_written_for_a_client_that_left_goes_nowhere() -> None:
    outs: list[Outlet] = []

    async def keep(call: Call, out: Outlet) -> None:
        outs.append(out)
        out.begin(200, HEAD, -1)
        await asyncio.get_running_loop().create_future()

    client = Client(keep)
    client.send(request())
    client.transport.lose()
    outs[0].write(b"late")
    outs[0].end()
    outs[0].answer(200, HEAD, b"later")
    outs[0].cut()
    assert b"late" not in client.transport.out


def test_an_outlet_is_one_because_of_what_it_does() -> None:
    out = Record()
    for call in (lambda: out.begin(200, b"", 0), out.end, out.cut):
        with pytest.raises(TypeError):
            call()
