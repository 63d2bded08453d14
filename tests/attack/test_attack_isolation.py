"""Thousands of requests, a fifth of them cancelled, a tenth broken by the provider: nobody gets another's answer."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from gatewayrig import Gateway, default_config, up, wait_for
from raw import attack, open_files, served_ports
from swarm import Swarm
from wireclient import chat, post

WORKERS = 2
WIDTH = 200


class MockProcess:
    """The mock provider as a process of its own, so that the swarm has a core to itself."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "llmgw", "mock", "--port", "0", "--keep", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # it warns of clients that left
        self.process = subprocess.Popen(command, text=True, **pipes)
        assert self.process.stdout is not None
        found = re.search(r":(\d+)/v1", self.process.stdout.readline())
        assert found is not None
        self.port = int(found[1])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def mock_process() -> Iterator[MockProcess]:
    started = MockProcess()
    yield started
    started.end()


def counted(gateway: Gateway, mock: MockProcess) -> dict[str, Any]:
    import json

    return dict(json.loads(gateway.fetch(f"http://127.0.0.1:{mock.port}/mock/seen")[1]))


async def run_swarm(start_gateway: Callable[..., Gateway], mock: MockProcess, total: int) -> None:
    timeouts = {"connect": "10s", "first_token": "30s", "idle": "30s", "total": "60s"}
    provider = up(mock.port, timeouts=timeouts, connection_age="1s")
    gateway = start_gateway(default_config(mock.port, providers={"up": provider}), workers=WORKERS)
    pids = gateway.worker_pids()
    await Swarm(gateway.port, 500, WIDTH, seed=1).run()
    files = await settled(gateway, mock, pids)
    began_s = monotonic()
    ends = await Swarm(gateway.port, total, WIDTH, seed=2).run()
    took_s = monotonic() - began_s
    most_open = counted(gateway, mock)["open_connections"]
    print(f"{total} requests in {took_s:.1f} s: {dict(ends)}, {most_open} connections to the provider")
    assert sum(ends.values()) >= total
    assert ends["good"] > total * 0.6
    assert ends["left"] > total * 0.08
    assert ends["refused"] > total * 0.03
    assert ends["cut"] > 0
    assert most_open <= 2 * WIDTH
    assert await settled(gateway, mock, pids) == files
    assert gateway.worker_pids() == pids
    assert [line for line in gateway.own_lines if "error" in line or "Traceback" in line] == []
    outcome = await attack(gateway.port, post(chat("nonce-cafe")), quiet_s=0.1)
    assert outcome.statuses == [200]


async def settled(gateway: Gateway, mock: MockProcess, pids: list[int]) -> list[int]:
    """How many files each worker holds when nothing is under way and no connection is left."""

    def is_quiet() -> bool:
        return (
            gateway.metrics().total("llm_inflight_requests") == 0
            and not served_ports(gateway.port)
            and counted(gateway, mock)["open_connections"] == 1  # the one that asks
        )

    await wait_for("nothing is under way", is_quiet, 60.0)
    known: list[list[int]] = []

    def is_the_same_for_a_while() -> bool:
        known.append([open_files(pid) for pid in pids])
        return len(known) > 10 and len({*map(tuple, known[-10:])}) == 1

    await wait_for("no file is opened or closed", is_the_same_for_a_while)
    return known[-1]


async def test_nobody_gets_another_s_answer_and_nothing_is_left_behind(
    start_gateway: Callable[..., Gateway], mock_process: MockProcess
) -> None:
    await run_swarm(start_gateway, mock_process, 10_000)


@pytest.mark.soak
async def test_nobody_of_a_hundred_thousand_gets_another_s_answer(
    start_gateway: Callable[..., Gateway], mock_process: MockProcess
) -> None:
    await run_swarm(start_gateway, mock_process, 100_000)
