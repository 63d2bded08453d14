"""The way to Redis, and its model for a thousand machines."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmgw._core.limiter import SLOTS
from llmgw.limits.fleet import Ask, Beat, Call, Entry, GiveSlots, Lease, Row, TakeSlots
from llmgw.limits.memory import Fleet
from llmgw.simulate.clock import Clock, VirtualLoop
from llmgw.simulate.wire import LargeFleet, Outage, SimulatedStore, Wire
from llmgw.store.adapter import StoreAway

ROW = Row("00", SLOTS, 0, 40)
WINDOW = Row("01", 0, 60_000_000, 100)


def call_of(rng: random.Random, number: int) -> Call:
    machine = f"m{rng.randrange(12)}"
    kind = rng.randrange(4)
    if kind == 0:
        return Beat(machine)
    if kind == 1:
        return GiveSlots("t", machine, number, machine, (Entry(ROW, 0, rng.randrange(-4, 3)),))
    if kind == 2:
        return Lease("t", machine, number, (Ask(WINDOW, rng.randrange(9), 0, 1, 4),))
    return TakeSlots("t", machine, number, machine, (Ask(ROW, rng.randrange(6), 0, 1, 4, rng.randrange(3)),))


@pytest.mark.parametrize("seed", range(20))
def test_the_large_fleet_answers_as_the_model_does_also_when_machines_die(seed: int) -> None:
    rng = random.Random(seed)
    large, plain, now_us = LargeFleet(), Fleet(), 1_000_000
    for number in range(1, 400):
        now_us += rng.choice((1_000, 300_000, 2_000_000, 7_000_000))
        call = call_of(rng, number)
        assert large.exchange([call], now_us) == plain.exchange([call], now_us)


def exchanged(loop: VirtualLoop, wire: Wire, deadline_s: float = 0.05) -> str:
    store = SimulatedStore(wire, deadline_s)
    try:
        loop.run_until_complete(store.exchange([Beat("m")]))
    except StoreAway as error:
        return error.kind
    return "answered"


def wire_of(
    loop: VirtualLoop, rtt_s: float = 0.01, loss: float = 0.0, outages: tuple[Outage, ...] = ()
) -> Wire:
    return Wire(Clock(loop, 1_000_000), random.Random(1), rtt_s, loss, outages)


def test_an_exchange_takes_a_round_trip() -> None:
    loop = VirtualLoop()
    assert exchanged(loop, wire_of(loop)) == "answered"
    assert 0.008 <= loop.time() <= 0.012
    loop.close()


@pytest.mark.parametrize(
    "given", [{"loss": 1.0}, {"rtt_s": 0.2}, {"outages": (Outage(0, 5),)}], ids=["lost", "slow", "outage"]
)
def test_what_is_lost_late_or_sent_in_an_outage_is_away_at_the_deadline(given: dict) -> None:
    loop = VirtualLoop()
    assert exchanged(loop, wire_of(loop, **given)) == "timeout"
    assert loop.time() == pytest.approx(0.05)
    loop.close()


def test_of_what_is_lost_some_has_taken_effect_and_some_has_not() -> None:
    loop = VirtualLoop()
    wire = wire_of(loop, loss=1.0)
    for number in range(40):
        store = SimulatedStore(wire, 0.05)
        with pytest.raises(StoreAway):
            loop.run_until_complete(store.exchange([Lease("t", f"m{number}", 1, (Ask(WINDOW, 1, 1, 1, 2),))]))
    assert 5 < wire.fleet.ring(WINDOW, 3_000_000).used < 35
    loop.close()


def test_the_store_is_back_when_a_probe_is_answered_after_the_outage() -> None:
    loop = VirtualLoop()
    wire = wire_of(loop, outages=(Outage(1, 2),))
    store = SimulatedStore(wire, 0.05)

    async def story() -> list[bool]:
        found = []
        await asyncio.sleep(1)
        with pytest.raises(StoreAway):
            await store.exchange([Beat("m")])
        found.append(await store.probe("m") is None)
        await asyncio.sleep(2)
        found.append(await store.probe("m") is not None)
        found.append(not store.is_away)
        return found

    assert loop.run_until_complete(story()) == [True, True, True]
    loop.close()
