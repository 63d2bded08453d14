"""Clients that send slowly or not at all: cut at their deadlines, in both lanes, first request or later."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from farend import FarEnd
from gatewayrig import Gateway, wait_for
from raw import Outcome, attack, send_what_it_takes, served_ports, silent_client, unsent_bytes
from wireclient import chat, get, post, post_chunked

DEADLINE_S = 0.4  # of heads and bodies, in conftest
KEEP_ALIVE_S = 2.0
LINGER_S = 5.0  # of a connection that is to close, for its client to read the answer
SEND_S = 1.0
EARLY_S = 0.05  # how much sooner a clock of coarse ticks may strike
NOISE_S = 6.0  # of a busy machine, and of the wheel's ticks; less than what would drip on
LEFT_S = SEND_S + KEEP_ALIVE_S + 5.0 + NOISE_S
DRIP_S = 0.1  # a hundred drops outlast every deadline and its noise

BODY = chat("x" * 2_000)
FAST = post(BODY)
GENERAL = post(BODY, "/v1/chat/completions", "Connection: keep-alive, x")
CHUNKED = post_chunked(BODY)
UPLOAD = post(BODY, "/v1/files").replace(b"application/json", b"application/octet-stream")
LANES = {"fast": FAST, "general": GENERAL, "chunked": CHUNKED, "upload": UPLOAD}


@pytest.fixture(scope="module")
def attacked_gateway(hasty_gateway: Gateway) -> Gateway:
    return hasty_gateway


def head_size(request: bytes) -> int:
    return request.index(b"\r\n\r\n") + 4


def assert_cut_in_time(outcome: Outcome, after_s: float, answers: int) -> None:
    assert outcome.ended in ("eof", "reset"), outcome
    assert after_s - EARLY_S < outcome.took_s < after_s + NOISE_S, outcome
    assert len(outcome.answers) == answers, outcome
    if answers and outcome.answers[-1].status != 200:
        assert outcome.answers[-1].status == 408
        assert outcome.answers[-1].error["code"] == "request_timeout"


def assert_told_in_time(outcome: Outcome, answers: int) -> None:
    """The last answer is a 408 that came at the deadline; the connection may linger for the client to read it."""
    assert DEADLINE_S - EARLY_S < outcome.told_s < DEADLINE_S + NOISE_S, outcome
    assert outcome.statuses == [200] * (answers - 1) + [408], outcome
    assert outcome.answers[-1].error["code"] == "request_timeout"
    assert not outcome.answers[-1].keeps_alive


def before(is_first: bool) -> tuple[list[bytes], int]:
    """What goes before the request, and how many answers it gets."""
    return ([], 0) if is_first else ([post(chat("before"))], 1)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("lane", LANES)
async def test_a_head_that_stops_in_the_middle_is_cut(
    gateway: Gateway, far: FarEnd, lane: str, is_first: bool
) -> None:
    earlier, count = before(is_first)
    part = LANES[lane][:60]
    outcome = await attack(gateway.port, *earlier, part, pause_s=0.01)
    assert_cut_in_time(outcome, DEADLINE_S, len(outcome.answers))
    assert outcome.statuses in ([200] * count, [200] * count + [408])
    assert far.requests == count


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("lane", LANES)
async def test_a_head_that_drips_is_cut(gateway: Gateway, far: FarEnd, lane: str, is_first: bool) -> None:
    earlier, count = before(is_first)
    drops = [bytes([byte]) for byte in LANES[lane][:100]]
    outcome = await attack(gateway.port, *earlier, *drops, pause_s=DRIP_S)
    assert_cut_in_time(outcome, DEADLINE_S, len(outcome.answers))
    assert outcome.statuses in ([200] * count, [200] * count + [408])
    assert far.requests == count


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_head_that_only_the_general_lane_reads_is_answered_408_and_logged(
    gateway: Gateway, far: FarEnd, is_first: bool, drips: bool
) -> None:
    for request in (get("/v1/models"), CHUNKED):
        at = head_size(request) - 4
        earlier = [] if is_first else [CHUNKED]
        drops = [bytes([byte]) for byte in b"\r\nX: " + b"x" * 100] if drips else []
        pieces = [*earlier, request[:at], *drops]
        count = len(earlier)
        outcome = await attack(gateway.port, *pieces, pause_s=DRIP_S, quiet_s=0.1, answers=count + 1)
        assert outcome.statuses == [200] * count + [408], outcome
        assert_told_in_time(outcome, count + 1)
        line = await gateway.log_line(outcome.answers[-1].header("x-request-id"))
        assert (line["status"], line["error_code"]) == (408, "request_timeout")


async def test_a_head_of_the_general_lane_that_drips_behind_another_is_cut(gateway: Gateway) -> None:
    """The second request of a connection that was handed over already."""
    drops = [bytes([byte]) for byte in GENERAL[:100]]
    outcome = await attack(gateway.port, GENERAL, *drops, pause_s=DRIP_S, quiet_s=0.1, answers=2)
    assert_told_in_time(outcome, 2)
    outcome = await attack(gateway.port, GENERAL + GENERAL[:60])
    assert outcome.statuses in ([200], [200, 408])
    assert outcome.took_s < KEEP_ALIVE_S + NOISE_S


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("lane", ["fast", "general", "chunked"])
async def test_a_body_that_stalls_or_drips_is_answered_408_and_cut(
    gateway: Gateway, far: FarEnd, lane: str, drips: bool, is_first: bool
) -> None:
    earlier, count = before(is_first)
    request = LANES[lane]
    at = head_size(request) + 50
    drops = [bytes([byte]) for byte in request[at : at + 100]] if drips else []
    outcome = await attack(
        gateway.port, *earlier, request[:at], *drops, pause_s=DRIP_S, quiet_s=0.1, answers=count + 1
    )
    assert_told_in_time(outcome, count + 1)
    assert far.requests == count


@pytest.mark.parametrize("drips", [False, True])
async def test_an_upload_that_stalls_or_drips_is_cut_and_never_complete_at_the_provider(
    gateway: Gateway, far: FarEnd, drips: bool
) -> None:
    at = head_size(UPLOAD) + 50
    drops = [bytes([byte]) for byte in UPLOAD[at : at + 100]] if drips else []
    outcome = await attack(gateway.port, UPLOAD[:at], *drops, pause_s=DRIP_S, quiet_s=0.1)
    assert_told_in_time(outcome, 1)
    await far.wait(lambda mock: mock.in_flight == 0)
    assert [arrival.body for arrival in far.seen if arrival.ended == "complete"] == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("key", ["wrong", None])
async def test_a_large_body_of_somebody_unknown_is_refused_before_it_is_sent(
    gateway: Gateway, far: FarEnd, path: str, key: str | None
) -> None:
    for request in (
        post(b"", path, key=key).replace(b": 0", b": 900000"),
        post_chunked(b"", path, key=key)[:-5] + b"900000\r\n",
    ):
        outcome = await attack(gateway.port, request + b"x" * 1_000, quiet_s=0.1)
        assert outcome.statuses == [401], outcome
        assert not outcome.answers[0].keeps_alive
    assert far.requests == 0


async def test_a_connection_whose_request_will_never_be_whole_does_not_outlive_its_answer_for_long(
    gateway: Gateway,
) -> None:
    late = [LANES[lane][: head_size(LANES[lane]) + 50] for lane in ("fast", "general", "chunked", "upload")]
    unknown = [
        post(b"", key="wrong").replace(b": 0", b": 900000"),
        post_chunked(b"", key="wrong")[:-5] + b"900000\r\n",
    ]
    silent = [attack(gateway.port, request) for request in (*late, *unknown)]
    talking = [attack(gateway.port, request, *([b"x" * 1_000] * 5_000), pause_s=0.005) for request in unknown]
    for outcome in await asyncio.gather(*silent, *talking):
        assert outcome.statuses[0] in (401, 408), outcome
        assert outcome.ended in ("eof", "reset")
        assert outcome.took_s < DEADLINE_S + LINGER_S + NOISE_S


async def test_connections_that_say_nothing_are_left_in_time(gateway: Gateway) -> None:
    outcome = await attack(gateway.port)
    assert (outcome.ended, outcome.raw) == ("eof", b"")
    assert outcome.took_s < DEADLINE_S + NOISE_S
    requests = (post(chat()), post_chunked(chat()), get("/v1/models"), get("/health/live"))
    for outcome in await asyncio.gather(*(attack(gateway.port, request) for request in requests)):
        assert (outcome.statuses, outcome.ended) == ([200], "eof")
        assert KEEP_ALIVE_S - EARLY_S < outcome.took_s < KEEP_ALIVE_S + NOISE_S


async def test_a_thousand_stalled_connections_do_not_keep_others_from_being_served(gateway: Gateway) -> None:
    stalled: list[socket.socket] = []
    try:
        for number in range(1_000):
            stalled.append(socket.create_connection(("127.0.0.1", gateway.port)))
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # cut already, if we stood still
                stalled[-1].sendall((FAST, GENERAL, CHUNKED, b"")[number % 4][: 40 + number % 200])
        outcome = await attack(gateway.port, post(chat()), quiet_s=0.1)
        assert outcome.statuses == [200]
        ports = {client.getsockname()[1] for client in stalled}
        await wait_for("all of them are cut", lambda: not ports & served_ports(gateway.port), LEFT_S)
    finally:
        for client in stalled:
            client.close()


# -- clients that take nothing

STREAM = {"stream": True, "mock": {"events": 3_000, "text_bytes": 30_000_000}}
LARGE = {"mock": {"text_bytes": 30_000_000}}
SMALL = {"mock": {"text_bytes": 900_000}}


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(chat(**STREAM)),
        post_chunked(chat(**STREAM)),
        post(chat(**LARGE)),
        post_chunked(chat(**LARGE)),
        post(chat(**SMALL)) * 20,
        post_chunked(chat(**SMALL)) * 20,
        post(chat(**SMALL)) * 4 + post(chat(**STREAM)),
        post(b"", key="wrong") * 20_000,
        get("/v1/models") * 20_000,
        get("/nowhere") * 20_000,
    ],
    ids=[
        "stream",
        "stream, general",
        "large",
        "large, general",
        "many",
        "many, general",
        "mixed",
        "401s",
        "lists",
        "404s",
    ],
)
async def test_a_client_that_never_takes_its_answers_is_left(
    gateway: Gateway, far: FarEnd, request_bytes: bytes
) -> None:
    with silent_client(gateway.port) as client:
        await asyncio.wait_for(send_what_it_takes(client, request_bytes), LEFT_S)
        mine = client.getsockname()[1]
        await wait_for("its socket is gone", lambda: mine not in served_ports(gateway.port), LEFT_S)
    await far.wait(lambda mock: mock.in_flight == 0)
    await wait_for("nothing is under way", lambda: gateway.metrics().total("llm_inflight_requests") == 0)


@pytest.mark.parametrize("lane", ["fast", "general", "last"])
async def test_a_client_that_leaves_only_a_little_untaken_is_left_too(
    gateway: Gateway, far: FarEnd, lane: str
) -> None:
    """Less than what slows a writer down: the answers are all written, and then the connection is to end."""
    body = chat(mock={"text_bytes": 20_000})
    one = post_chunked(body) if lane == "general" else post(body)
    with silent_client(gateway.port) as client:
        mine = client.getsockname()[1]
        held = [-1, -2, -3]
        while len(set(held[-3:])) > 1 and mine in served_ports(gateway.port):
            count = far.requests
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.send(one)
            await wait_for(
                "it is asked",
                lambda count=count: far.requests > count or mine not in served_ports(gateway.port),
            )
            await asyncio.sleep(0.01)
            held.append(unsent_bytes(gateway.port, client))
        if lane == "last":
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.send(post(b"", "/v1/chat/completions", "Connection: close", key="wrong"))
        await wait_for("its socket is gone", lambda: mine not in served_ports(gateway.port), LEFT_S)
