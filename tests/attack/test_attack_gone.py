"""Clients that leave, at each stage and in each way: the provider is left within 250 ms, and nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic

import pytest
from farend import FarEnd
from gatewayrig import Gateway, default_config, up, wait_for
from raw import attack, open_files, reset, served_ports
from wireclient import chat, post, post_chunked

from llmgw.mock import Mock

LEFT_S = 0.25  # promised on a quiet machine: the quickest of a few tries is judged
TRIES = 5
UPLOAD = post(b"x" * 400_000, "/v1/files").replace(b"application/json", b"application/octet-stream")
LANES = {"fast": post, "general": post_chunked}
WAYS = {"FIN": socket.socket.close, "RST": reset}
STAGES = {
    "before the head": {"stream": True, "mock": {"stall": "before-head"}},
    "before the head, no stream": {"mock": {"delay_s": "60s"}},
    "behind the head": {"stream": True, "mock": {"stall": "after-head"}},
    "behind the first event": {"stream": True, "mock": {"stall": "events:1"}},
    "in the middle of an event": {"stream": True, "mock": {"stall": "bytes:2000", "text_bytes": 5_000}},
    "in a stream that flows": {"stream": True, "mock": {"events": 100_000, "interval_s": "2ms"}},
    "in an answer that flows": {"mock": {"text_bytes": 50_000_000, "drip_bytes": 20_000, "drip_s": "5ms"}},
    "in an answer that is held": {"mock": {"text_bytes": 500_000, "stall": "bytes:100000"}},
}


async def left_after_s(far: FarEnd, gone_s: float) -> float:
    """How long after the client its request ended at the mock; there was no other."""
    await far.wait(lambda mock: mock.in_flight == 0)

    def look(mock: Mock) -> float:
        (arrival,) = mock.seen
        assert arrival.ended == "client_gone"
        return arrival.finished_s - gone_s

    return far.call(look)


async def assert_left_in_time(far: FarEnd, leave: Callable[[], Awaitable[float]]) -> None:
    """`leave` has a request under way when it breaks off and says when that was."""
    took_s = []
    while not took_s or min(took_s) >= LEFT_S:
        assert len(took_s) < TRIES, f"left after {took_s} s"
        far.reset()
        took_s.append(await left_after_s(far, await leave()))


async def nothing_is_left(gateway: Gateway) -> None:
    await wait_for("nothing is under way", lambda: gateway.metrics().total("llm_inflight_requests") == 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_leaves_while_it_is_served_ends_the_request_at_the_provider(
    gateway: Gateway, far: FarEnd, stage: str, lane: str, way: str
) -> None:
    async def leave() -> float:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(LANES[lane](chat(**STAGES[stage])))
        await far.wait(lambda mock: len(mock.seen) == 1 and mock.in_flight == 1)
        await asyncio.sleep(0.05)  # so that it is in the middle of what it does
        gone_s = monotonic()
        WAYS[way](client)
        return gone_s

    await assert_left_in_time(far, leave)
    await nothing_is_left(gateway)


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves_its_upload_ends_it_at_the_provider(
    gateway: Gateway, far: FarEnd, way: str
) -> None:
    async def leave() -> float:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(UPLOAD[:-100_000])
        await far.wait(lambda mock: mock.in_flight == 1)
        await asyncio.sleep(0.05)
        gone_s = monotonic()
        WAYS[way](client)
        return gone_s

    await assert_left_in_time(far, leave)
    await nothing_is_left(gateway)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("part", [0, 1, 60, 300, 2_000])
async def test_a_client_that_leaves_before_its_request_is_whole_asks_nobody(
    gateway: Gateway, far: FarEnd, part: int, lane: str, way: str
) -> None:
    client = socket.create_connection(("127.0.0.1", gateway.port))
    mine = client.getsockname()[1]
    client.sendall(LANES[lane](chat("x" * 5_000))[:part])
    await wait_for("it is accepted", lambda: mine in served_ports(gateway.port))
    WAYS[way](client)
    await wait_for("its socket is gone", lambda: mine not in served_ports(gateway.port))
    assert far.requests == 0
    await nothing_is_left(gateway)


@pytest.mark.parametrize("lane", LANES)
async def test_a_client_that_leaves_behind_requests_it_sent_ahead_ends_the_one_under_way(
    gateway: Gateway, far: FarEnd, lane: str
) -> None:
    async def leave() -> float:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        make = LANES[lane]
        client.sendall(make(chat(stream=True, mock={"stall": "events:1"})) + make(chat("never")) * 5)
        await far.wait(lambda mock: mock.in_flight == 1)
        gone_s = monotonic()
        client.close()
        return gone_s

    await assert_left_in_time(far, leave)
    assert far.requests == 1


@pytest.mark.parametrize("lane", LANES)
async def test_hundreds_that_leave_at_random_leave_nothing_and_others_are_served(
    gateway: Gateway, far: FarEnd, lane: str
) -> None:
    requests = [LANES[lane](chat(**asked)) for asked in STAGES.values()]
    pieces = [data[: len(data) - cut] for data in requests for cut in (0, 1, 200)]

    async def leave(number: int) -> None:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(pieces[number % len(pieces)])
        await asyncio.sleep(number % 7 * 0.01)
        WAYS["RST" if number % 2 else "FIN"](client)

    before = served_ports(gateway.port)
    await asyncio.gather(*(leave(number) for number in range(300)))
    outcome = await attack(gateway.port, post(chat()), quiet_s=0.1)
    assert outcome.statuses == [200]
    await far.wait(lambda mock: mock.in_flight == 0)
    await nothing_is_left(gateway)
    await wait_for("no socket is left", lambda: served_ports(gateway.port) <= before)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A listener whose queue is full: whoever connects waits."""
    with contextlib.ExitStack() as open_:
        listener = open_.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = open_.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("lane", LANES)
async def test_clients_that_leave_while_the_provider_is_connected_to_leave_nothing(
    start_gateway: Callable[..., Gateway], deaf_port: int, lane: str
) -> None:
    waits = {"connect": "120s", "first_token": "120s", "total": "300s"}
    provider = up(deaf_port, timeouts=waits)
    gateway = start_gateway(default_config(deaf_port, providers={"up": provider}))
    (worker,) = gateway.worker_pids()
    before = open_files(worker)
    request = LANES[lane](chat())
    clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(40)]
    for client in clients:
        client.sendall(request)
    await wait_for("all of them wait", lambda: open_files(worker) > before + len(clients) * 3 // 2)
    for number, client in enumerate(clients):
        WAYS["RST" if number % 2 else "FIN"](client)
    await wait_for("nothing is left", lambda: open_files(worker) <= before)
    await nothing_is_left(gateway)
