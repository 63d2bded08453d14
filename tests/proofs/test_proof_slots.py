"""`concurrent`, under everything that can end a request, counted at the far end."""

import asyncio
import random
import time

import pytest
from gatewayrig import CLIENT_KEY, up, wait_for
from proofkit import Caller, chat, most_at_once, one_tenant, with_callers

SLOTS = 10
# Pace of an answer that nothing happens to: far longer than what a busy machine takes between two of them.
SLOW_S = 0.1

FAULTS = [
    {"status": 500, "delay_s": SLOW_S},
    {"delay_s": SLOW_S, "reset": "before-head"},
    {"delay_s": SLOW_S, "close": "bytes:40"},
    {"interval_s": SLOW_S / 4, "events": 4, "reset": "events:3"},
    {"stall": "before-head"},  # until the provider's deadline
]


async def mixed(caller: Caller, numbers: list[int], choose: random.Random) -> None:
    """Requests of every end, one after the other, as long as there are numbers."""
    while numbers:
        numbers.pop()
        dice = choose.random()
        is_stream = choose.random() < 0.3
        fault = {"interval_s": SLOW_S / 4, "events": 4} if is_stream else {"delay_s": SLOW_S}
        if dice < 0.15:
            fault = choose.choice(FAULTS)
        patience_s = choose.uniform(0.0, 3 * SLOW_S) if 0.15 < dice < 0.3 else 60.0
        try:
            answer = await caller.ask(chat(stream=is_stream, mock=fault), deadline_s=patience_s)
        except (TimeoutError, AssertionError):  # it left, or the answer was cut
            continue
        assert answer.status in (200, 502, 504), answer.body


async def busy_share(far, gateway, count: int, callers: int) -> float:
    """How much of the slots' time was used at the far end, while `count` requests came and went."""
    choose = random.Random(4711)
    numbers = list(range(count))
    began_s = time.monotonic()
    await with_callers([gateway], callers, lambda caller: mixed(caller, numbers, choose))
    arrivals = far.seen
    last_s = max(arrival.started_s for arrival in arrivals)
    busy_s = sum(
        min(arrival.finished_s, last_s) - arrival.started_s for arrival in arrivals if arrival.finished_s
    )
    return busy_s / (SLOTS * (last_s - began_s))


def slots_config(far):
    patient = {"name": "web", "key": CLIENT_KEY, "max_wait": "60s"}
    tenant = {"keys": [patient], "limits": {"concurrent": SLOTS}}
    deadlines = {"connect": "5s", "first_token": "500ms", "idle": "20s", "total": "60s"}
    return one_tenant(far, tenant, providers={"up": up(far.port, timeouts=deadlines)})


async def all_slots_are_free(far, gateway) -> None:
    """As many as may are admitted at once, and then one more is not."""
    await wait_for("nothing is in flight", lambda: far.call(lambda mock: mock.in_flight == 0))
    far.reset()

    async def one(caller):
        slow = chat(stream=True, mock={"interval_s": "500ms", "events": 2})
        return (await caller.ask(slow, "x-llmgw-max-wait: 0s")).status

    statuses = asyncio.ensure_future(with_callers([gateway], SLOTS, one))
    await far.wait(lambda mock: mock.seen.requests == SLOTS)
    assert await with_callers([gateway], 3, one) == [429, 429, 429]
    assert await statuses == [200] * SLOTS


async def prove(far, gateway, count: int) -> float:
    share = await busy_share(far, gateway, count, 4 * SLOTS)
    print(f"{share:.1%} of the slots' time was used")
    assert most_at_once(far.seen) <= SLOTS
    await all_slots_are_free(far, gateway)
    return share


async def test_no_more_than_concurrent_are_in_flight_however_requests_end(far, start_gateway):
    gateway = start_gateway(slots_config(far), workers=2)
    assert await prove(far, gateway, 400) > 0.7


@pytest.mark.soak
async def test_of_5000_requests_no_more_than_concurrent_are_in_flight_and_few_slots_idle(far, start_gateway):
    gateway = start_gateway(slots_config(far), workers=2)
    assert await prove(far, gateway, 5000) >= 0.95
