"""SIGTERM under load: what was accepted is served, streams run to their end, and the exit code is 0."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from time import monotonic

import pytest
from clients import Load, Session, is_good
from farend import FarEnd
from gatewayrig import Gateway, default_config, wait_for
from wireclient import chat, get, post, post_chunked

pytestmark = pytest.mark.usefixtures("close_sessions")

STREAMS = 50
EVENTS = 50
STREAM = chat("stream", stream=True, mock={"events": EVENTS, "interval_s": "50ms"})  # 2.5 s
# What rests may still ask for a second; a test that asked later than this learned nothing of that second.
MOMENT_S = 0.7
TRIES = 4


async def test_a_drain_under_load_loses_no_request_and_no_stream(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port))
    streams = [await Session(gateway.port).open() for _ in range(STREAMS)]
    making = [post_chunked if number % 5 == 0 else post for number in range(STREAMS)]
    load, over = Load(gateway.port, rate=300.0), asyncio.Event()
    loading = asyncio.ensure_future(load.run(over))
    await wait_for("the load flows", lambda: load.ends["good"] > 200)
    asking = [asyncio.ensure_future(s.ask(make(STREAM))) for s, make in zip(streams, making, strict=True)]
    await wait_for("all streams flow", lambda: all(b"data: " in s.line.reply.body for s in streams))
    gateway.process.send_signal(signal.SIGTERM)
    await wait_for("others are refused", lambda: load.ends["refused"] > 100)
    replies = await asyncio.gather(*asking)
    code = await asyncio.to_thread(gateway.process.wait, 20.0)
    over.set()
    await loading
    print(f"drain: {dict(load.ends)}, lost {len(load.lost)}")
    assert [reply for reply in replies if not is_good(reply, stream=True)] == []
    assert all(reply.body.count(b"data: ") >= EVENTS for reply in replies)
    assert load.lost == []
    assert code == 0


@pytest.mark.parametrize("make", [post, post_chunked])
async def test_a_request_that_comes_in_the_first_moment_of_a_drain_is_the_connection_s_last(
    start_gateway: Callable[..., Gateway], far: FarEnd, make: Callable[[bytes], bytes]
) -> None:
    for _ in range(TRIES):
        gateway = start_gateway(default_config(far.port), workers=1)
        holding = await Session(gateway.port).open()
        held = asyncio.ensure_future(holding.ask(post(STREAM)))
        kept = [await Session(gateway.port).open() for _ in range(10)]
        for session in kept:
            assert is_good(await session.ask(make(chat("before"))))
        began_s = monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        await wait_for("it drains", lambda: any("draining" in line for line in gateway.own_lines))
        replies = [await session.ask(make(chat("in the drain"))) for session in kept]
        took_s = monotonic() - began_s
        assert is_good(await held, stream=True)
        assert await asyncio.to_thread(gateway.process.wait, 20.0) == 0
        if took_s < MOMENT_S:
            break
    else:
        pytest.fail("the machine stood still each time")
    assert {(is_good(reply), reply.keeps_alive) for reply in replies} == {(True, False)}


async def test_a_drain_does_not_wait_for_connections_that_rest(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port))
    resting = [await Session(gateway.port).open() for _ in range(40)]
    for number, session in enumerate(resting[:30]):
        await session.ask((post(chat()), post_chunked(chat()), get("/v1/models"))[number % 3])
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    gateway.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(gateway.process.wait, 20.0) == 0
    assert loop.time() - began_s < 15.0  # a drain may take 30 s
    await wait_for("their ends are seen", lambda: not any(session.is_open for session in resting))


async def test_what_outlives_the_drain_is_cut_off_and_said_so(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port, server={"drain": "500ms"}))
    session = await Session(gateway.port).open()
    asking = asyncio.ensure_future(session.ask(post(chat(stream=True, mock={"stall": "events:2"}))))
    await far.wait(lambda mock: mock.in_flight == 1)
    gateway.process.send_signal(signal.SIGTERM)
    reply = await asking
    assert (reply.is_whole, b"[DONE]" in reply.body) == (False, False)
    assert await asyncio.to_thread(gateway.process.wait, 20.0) in (0, 1)
    await far.wait(lambda mock: mock.in_flight == 0)


async def test_a_second_signal_ends_it_at_once(start_gateway: Callable[..., Gateway], far: FarEnd) -> None:
    gateway = start_gateway(default_config(far.port, server={"drain": "300s"}))
    session = await Session(gateway.port).open()
    asking = asyncio.ensure_future(session.ask(post(chat(stream=True, mock={"stall": "events:2"}))))
    await far.wait(lambda mock: mock.in_flight == 1)
    gateway.process.send_signal(signal.SIGTERM)
    await wait_for("it drains", lambda: any("draining" in line for line in gateway.own_lines))
    gateway.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(gateway.process.wait, 20.0) == 128 + signal.SIGTERM
    assert not (await asking).is_whole
