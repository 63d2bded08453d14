"""A budget of two machines: one alert for both, of what both have spent, and one figure that both show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proofkit import chat, one_tenant, with_callers

ALERT_S = 10.0  # some turns of upkeep on both machines, and a look at idle budgets
LATER_S = 3.0  # by then the other machine would have told, too


@asynccontextmanager
async def webhook() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and what was posted there."""
    posted: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line.split(b":")[1] for line in head.lower().splitlines() if b"content-length" in line]
        posted.append(json.loads(await reader.readexactly(int(length))))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", posted
    finally:
        server.close()


async def test_one_machine_tells_what_both_have_spent_and_both_show_what_is_left(far, start_fleet, redis):
    budget = {"budgets": [{"amount": "1.00", "period": "1h", "alert_at": [0.5]}]}
    async with webhook() as (url, posted):
        config = one_tenant(far, budget, redis={"url": redis.url}, alerts={"webhook": url})
        machines = await asyncio.to_thread(start_fleet, config)

        async def thirty(caller) -> None:
            for _ in range(30):
                assert (await caller.ask(chat())).status == 200

        await with_callers(machines, 2, thirty)
        async with asyncio.timeout(ALERT_S):
            while not posted:
                await asyncio.sleep(0.05)
        await asyncio.sleep(LATER_S)
        assert [(alert["budget"], alert["threshold"]) for alert in posted] == [("tenant:budget:1h", 0.5)]
        assert 0.5 <= posted[0]["used_usd"] <= 0.7  # with what lies on lease at that moment
        async with asyncio.timeout(ALERT_S):
            while {await left_usd(machine) for machine in machines} != {0.4}:
                await asyncio.sleep(0.2)


async def left_usd(machine) -> float:
    return round((await asyncio.to_thread(machine.metrics)).total("llm_budget_remaining_usd"), 2)
