"""A worker whose loop comes late again and again: a share of the requests is refused, until it is in time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable

from farend import FarEnd
from gatewayrig import Gateway, default_config, wait_for
from wireclient import chat, exchange, get, post

STOP_S = 0.25
GO_S = 0.01


async def test_a_late_loop_refuses_a_share_and_serves_the_rest_and_then_all(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(default_config(far.port, server={"overload": {"max_lag": "100ms"}}))
    (worker,) = gateway.worker_pids()
    for _ in range(10):
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(STOP_S)
        os.kill(worker, signal.SIGCONT)
        await asyncio.sleep(GO_S)
    statuses = Counter([(await exchange(gateway.port, post(chat()))).status for _ in range(40)])
    print(dict(statuses))
    assert set(statuses) == {200, 503}
    assert (await exchange(gateway.port, get("/health/live", key=None))).status == 200
    metrics = gateway.metrics()
    assert metrics.total("llm_overload_refused_total", reason="lag") == statuses[503]

    async def run() -> Counter[int]:
        return Counter([(await exchange(gateway.port, post(chat()))).status for _ in range(40)])

    async with asyncio.timeout(20.0):
        while set(await run()) != {200}:
            pass
    await wait_for("nothing is in flight", lambda: gateway.metrics().total("llm_inflight_requests") == 0)
