"""A worker that dies at any point of a request leaks nothing, charges nothing twice and loses no record."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from itertools import count

import pytest
from farend import FarEnd
from gatewayrig import Gateway, wait_for
from proofkit import CENT_USD_MICRO, Caller, chat, one_tenant, records, usage, with_callers
from wireclient import post, wire_to

SLOTS = 10
NTH = SLOTS + 7  # more passings than the slots that are tried when the worker is back
CENTS = 50

PLACES = ["sent", "first-byte", "last-byte", "before-settle", "recorded", "after-settle"]


def crash_config(far: FarEnd) -> dict:
    limits = {"concurrent": SLOTS, "tpm": 1_000_000}
    budget = {"amount": str(CENTS / 100), "period": "1h"}
    return one_tenant(far, {"limits": limits, "budgets": [budget]})


async def until_one_dies(far: FarEnd, gateway: Gateway) -> None:
    """Four callers, so that others are under way when it happens. Each request is of a user of its own."""
    first = gateway.worker_pids()
    numbers = count()

    async def ask(caller: Caller) -> None:
        while gateway.worker_pids() == first:
            body = chat(stream=True, user=f"user-{next(numbers)}", mock={"events": 3, "interval_s": "10ms"})
            if await caller.try_ask(body) is None:
                return

    await with_callers([gateway], 4, ask)
    # What the dead one left open is settled before it is replaced.
    await wait_for("another worker", lambda: gateway.worker_pids() not in ([], first))
    await wait_for("nothing is in flight at the far end", lambda: far.call(lambda mock: mock.in_flight == 0))


@pytest.mark.parametrize("place", PLACES)
async def test_a_death_leaks_nothing_charges_nothing_twice_and_every_attempt_is_on_record(
    far, start_gateway, place
):
    gateway = start_gateway(crash_config(far), LLMGW_FAILPOINT=f"{place}:{NTH}")
    await until_one_dies(far, gateway)

    found = {record["user"]: record for record in records(gateway)}
    assert len(found) == len(records(gateway)), "no attempt is on record twice"
    arrived = Counter(json.loads(arrival.body)["user"] for arrival in far.seen)
    assert set(arrived.values()) == {1} and arrived.keys() <= found.keys()
    # What died between its record and its sending counts as sent: nobody can know.
    assert len(found) - len(arrived) <= (1 if place == "sent" else 0)
    assert all(record["cost_usd_micro"] == CENT_USD_MICRO and record["charged"] for record in found.values())
    [row] = usage(gateway)
    assert row["requests"] == row["attempts"] == len(found) and float(row["cost_usd"]) == len(found) / 100
    left = gateway.metrics().total("llm_budget_remaining_usd")
    assert round(left * 100) == CENTS - len(found), "the limits know what the ledger knows"

    await all_slots_are_free(gateway)
    await spend_the_rest(gateway)
    after = records(gateway)
    assert far.requests <= len(after) == CENTS
    assert len({record["attempt_id"] for record in after}) == CENTS
    assert sum(record["cost_usd_micro"] for record in after) == CENTS * CENT_USD_MICRO


async def all_slots_are_free(gateway: Gateway) -> None:
    """As many as there are slots are admitted at once."""

    async def ask(caller: Caller) -> int:
        return (await caller.ask(chat(stream=True, mock={"events": 2, "interval_s": "150ms"}))).status

    assert await with_callers([gateway], SLOTS, ask) == [200] * SLOTS


async def spend_the_rest(gateway: Gateway) -> None:
    """However often a worker dies meanwhile."""
    until_s = time.monotonic() + 20

    async def spend(caller: Caller) -> None:
        while time.monotonic() < until_s:
            answer = await caller.try_ask(chat())
            if answer is None:
                await asyncio.sleep(0.05)
            elif answer.status == 429 and answer.error["code"] == "insufficient_quota":
                return

    await with_callers([gateway], 4, spend)
    assert time.monotonic() < until_s, "the budget is not used up"


TEXT = {"text_bytes": 400_000, "stall": "bytes:300000"}
FLOWING = [
    ("/v1/audio/speech", {"input": "x", "voice": "y", "mock": TEXT}, 0),
    ("/v1/embeddings", {"input": ["x"] * 40, "dimensions": 8192, "mock": {"stall": "bytes:1500000"}}, 0),
    (
        "/v1/chat/completions",
        {"messages": [], "mock": {"text_bytes": 2_000_000, "stall": "bytes:1500000"}},
        375_000,
    ),
]


@pytest.mark.parametrize(("path", "asked", "output_tokens"), FLOWING, ids=["speech", "vectors", "text"])
async def test_what_a_dead_worker_had_relayed_counts_as_tokens_where_it_was_text(
    far, start_gateway, path, asked, output_tokens
):
    gateway = start_gateway(one_tenant(far, {}))
    async with wire_to(gateway.port) as wire:
        wire.send(post(json.dumps({"model": "mock", **asked}).encode(), path))
        relayed = 1_500_000 if "1500000" in json.dumps(asked) else 300_000
        await wire.begun(relayed)
        [worker] = gateway.worker_pids()
        os.kill(worker, signal.SIGKILL)
        await wire.end()
    await wait_for("its record", lambda: records(gateway))
    [record] = records(gateway)
    assert (record["outcome"], record["output_tokens"]) == ("crashed", output_tokens)
