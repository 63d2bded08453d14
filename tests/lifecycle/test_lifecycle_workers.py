"""Workers that die or stop under load: only their own requests are lost, and another takes their place."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from time import monotonic

import pytest
from clients import PATIENCE_S, Session, is_good
from farend import FarEnd
from gatewayrig import Gateway, default_config, wait_for
from raw import open_files
from wireclient import chat, post, post_chunked

pytestmark = pytest.mark.usefixtures("close_sessions")

STREAM = post(chat(stream=True, mock={"events": 60, "interval_s": "50ms"}))  # 3 s
REQUEST = post(chat("load", mock={"delay_s": "2ms"}))
# A worker that serves may be silent for 10 s, then it has a second for its traceback.
STUCK_S = 11.0


class Crowd:
    """Clients that ask without end, each over one connection, and note what each connection lost."""

    def __init__(self, port: int, size: int) -> None:
        self.sessions = [Session(port) for _ in range(size)]
        self.good = 0
        self.lost: list[str] = []  # the worker of each request that got no whole answer; "" if none was known
        self.is_over = False

    async def run(self) -> None:
        await asyncio.gather(*(self._ask_on(number, session) for number, session in enumerate(self.sessions)))

    async def _ask_on(self, number: int, session: Session) -> None:
        while not self.is_over:
            if not session.is_open or self.good % 7 == number % 7:
                if session.is_open:
                    session.close()
                await session.open()
            reply = await session.ask(REQUEST)
            if is_good(reply):
                self.good += 1
            else:
                assert reply.status in (0, 200), reply.raw
                self.lost.append(session.owner)
        session.close()


async def owners(gateway: Gateway, count: int) -> dict[str, list[Session]]:
    """Open connections by the worker that holds them, until each worker has some."""
    found: dict[str, list[Session]] = {}
    while len(found) < gateway.workers or min(map(len, found.values())) < count:
        session = await Session(gateway.port).open()
        assert is_good(await session.ask(post(chat("whose?"))))
        found.setdefault(session.owner, []).append(session)
    return found


async def test_a_worker_killed_under_load_loses_only_its_own_requests(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port))
    by_owner = await owners(gateway, 5)
    before = gateway.worker_pids()
    streams = {
        owner: [asyncio.ensure_future(s.ask(STREAM)) for s in held] for owner, held in by_owner.items()
    }
    crowd = Crowd(gateway.port, 20)
    running = asyncio.ensure_future(crowd.run())
    held = [session for sessions in by_owner.values() for session in sessions]
    await wait_for("all streams flow", lambda: all(b"data: " in s.line.reply.body for s in held))
    await wait_for("the crowd is served", lambda: crowd.good > 100)
    os.kill(before[0], signal.SIGKILL)
    await wait_for("it is served on", lambda good=crowd.good: crowd.good > good + 200)
    crowd.is_over = True
    await running
    ends = {
        owner: {is_good(reply, stream=True) for reply in await asyncio.gather(*asked)}
        for owner, asked in streams.items()
    }
    assert sorted(ends.values(), key=str) == [{False}, {True}], (
        "one worker's streams were cut, the other's were not"
    )
    (victim,) = [owner for owner, good in ends.items() if good == {False}]
    print(f"kill -9: {crowd.good} answered, {len(crowd.lost)} lost")
    assert set(crowd.lost) <= {victim, ""}
    assert len(crowd.lost) <= len(crowd.sessions) + 2
    await wait_for("another takes its place", lambda: len(set(gateway.worker_pids()) - {before[0]}) == 2)
    assert before[1] in gateway.worker_pids()
    await wait_for("nothing is under way", lambda: gateway.metrics().total("llm_inflight_requests") == 0)
    assert len(await owners(gateway, 1)) == 2


async def test_a_worker_that_stands_still_is_replaced_and_the_other_serves_meanwhile(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port))
    by_owner = await owners(gateway, 2)
    before = gateway.worker_pids()
    os.kill(before[0], signal.SIGSTOP)
    stopped_s = monotonic()
    asked = {owner: asyncio.ensure_future(held[0].ask(REQUEST)) for owner, held in by_owner.items()}
    await asyncio.wait(asked.values(), return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
    (alive,) = [owner for owner, reply in asked.items() if reply.done()]
    await wait_for("it is replaced", lambda: before[0] not in gateway.worker_pids(), STUCK_S + PATIENCE_S)
    print(f"SIGSTOP: replaced after {monotonic() - stopped_s:.1f} s")
    assert is_good(await by_owner[alive][1].ask(REQUEST))
    assert [is_good(await reply) for owner, reply in asked.items() if owner != alive] == [False]
    assert len(await owners(gateway, 1)) == 2
    assert before[1] in gateway.worker_pids()


async def test_connections_that_waited_for_a_dead_worker_are_served_by_the_next(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    """The listening socket is the supervisor's: what the kernel queued while nobody accepted is not lost."""
    gateway = start_gateway(default_config(far.port), workers=1)
    (pid,) = gateway.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    waiting = [await Session(gateway.port).open() for _ in range(100)]
    asked = [asyncio.ensure_future(session.ask(REQUEST)) for session in waiting]
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    replies = await asyncio.gather(*asked)
    assert [reply for reply in replies if not is_good(reply)] == []


async def test_a_worker_killed_again_and_again_leaves_nothing_behind(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port))
    before = open_files(gateway.process.pid)
    for _ in range(4):
        pid = gateway.worker_pids()[0]
        session = await Session(gateway.port).open()
        asked = asyncio.ensure_future(
            session.ask(post_chunked(chat(stream=True, mock={"stall": "events:1"})))
        )
        await far.wait(lambda mock: mock.in_flight == 1)
        for victim in gateway.worker_pids():
            os.kill(victim, signal.SIGKILL)
        assert not is_good(await asked)
        await wait_for(
            "others serve",
            lambda pid=pid: len(gateway.worker_pids()) == 2 and pid not in gateway.worker_pids(),
        )
        await far.wait(lambda mock: mock.in_flight == 0)
        again = await Session(gateway.port).open()
        assert is_good(await again.ask(REQUEST))
        again.close()
    await wait_for("no file is left open", lambda: open_files(gateway.process.pid) == before)
    await wait_for("nothing is under way", lambda: gateway.metrics().total("llm_inflight_requests") == 0)


async def test_workers_end_with_their_supervisor(start_gateway: Callable[..., Gateway], far: FarEnd) -> None:
    gateway = start_gateway(default_config(far.port))
    pids = gateway.worker_pids()
    gateway.process.kill()
    await wait_for("the workers are gone", lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
