"""Several workers of a machine, one row: what it used without a lease is charged once, by whichever of them is there."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fleetrig import MINUTE_US, SLOTS, TOKENS, USD, Hold, Machine, gauge, until, workers
from redisrig import Lossy

from llmgw._core.limiter import Limiter
from llmgw.limits.fleet import Ask, Lease
from llmgw.store.watch import row_of

HOUR_US = 60 * MINUTE_US
LENT = 4  # that each pair has admitted from leases
CAPPED = 5  # and under a cap
NUMBERS = iter(range(time.time_ns() // 1000, 2**53))  # Lua knows no larger ones


async def counted(machine: Machine, limit) -> int:
    """What Redis says is used."""
    look = Lease("tenant:acme", "looker", next(NUMBERS), (Ask(row_of(limit), 0, 0, 1, 1),))
    [reply] = await machine.store.exchange([look])
    return reply.answers[0].used


async def come_to(pair: list[Machine], limit, used: int) -> None:
    """What was leased and not used takes some seconds to come back."""
    async with asyncio.timeout(8):
        while (seen := await counted(pair[-1], limit)) != used:
            assert seen > used
            await tick(*pair)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def pair_of(url: str, path: Path, limit):
    """Both have met Redis and the limit; from now on nothing moves by itself."""
    pair = workers(url, path)
    try:
        for worker in pair:
            worker.leases.watch([limit])
            assert await worker.leases._try_meet()
            worker.leases._outage._joined_us = 0
            for _ in range(2):  # looks, as a machine that has lived for some time has them
                worker.leases._beaten_us = 0
                await worker.leases._tick(worker.limiter.now_us())
        yield pair
    finally:
        for worker in pair:
            await worker.leases.close()


async def come_back(worker: Machine) -> None:
    leases = worker.leases
    assert await leases._outage.try_end(leases._front.line, leases._back)


async def tick(*pair: Machine) -> None:
    for worker in pair:
        worker.leases._settled_us = 0
        await worker.leases._tick(worker.limiter.now_us())


async def test_two_that_come_back_at_once_charge_once(redis, tmp_path):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with pair_of(redis.url, tmp_path, budget) as pair:
        for worker in pair:
            worker.leases._lose()
        for _ in range(CAPPED):
            assert isinstance(await pair[0].ask(budget, usd_micro=10), Hold)
        await asyncio.gather(*map(come_back, pair))
        await come_to(pair, budget, CAPPED * 10)


async def test_who_is_back_first_charges_nothing_that_a_lease_has_paid_for(redis, tmp_path):
    """The other one has not looked for a while when the loss comes."""
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with pair_of(redis.url, tmp_path, budget) as pair:
        one, two = pair
        for _ in range(LENT):
            assert isinstance(await one.ask(budget, usd_micro=10), Hold)
        one.leases._lose()
        for _ in range(CAPPED):
            assert isinstance(await one.ask(budget, usd_micro=10), Hold)
        two.leases._lose()
        await come_back(two)
        await come_back(one)
        await come_to(pair, budget, (LENT + CAPPED) * 10)


async def test_a_worker_with_redis_charges_what_another_admits_without(redis, tmp_path):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with pair_of(redis.url, tmp_path, budget) as pair:
        one, two = pair
        two.leases._watches.find(budget, two.limiter.now_us())
        one.leases._lose()
        assert isinstance(await one.ask(budget, usd_micro=10), Hold)
        await tick(two)
        assert await counted(two, budget) == 10 + two.limiter.lease_left(budget, two.limiter.now_us())
        await come_back(one)
        await come_to(pair, budget, 10)


async def test_what_a_dead_worker_left_is_told_by_another(redis, tmp_path):
    """It had reserved 10 twice, and one came to 30; it had no Redis any more, and died so."""
    tokens = gauge(TOKENS, limit=1000, window_us=HOUR_US)
    async with pair_of(redis.url, tmp_path, tokens) as pair:
        one, two = pair
        for _ in range(2):
            assert isinstance(held := await one.ask(tokens, tokens=10), Hold)
        held.known(30, 0)
        one.leases._lose()
        assert one.limiter.segment is not None
        assert len(Limiter(one.limiter.segment).give_back(0, one.limiter.now_us())) == 2
        assert not two.limiter.is_degraded(tokens)
        await one.leases._store.close()
        two.leases._is_keeper = True
        two.leases._beaten_us = 0
        await tick(two)
        assert two.used(tokens) == 30
        await come_to([two], tokens, 30)


async def test_after_a_flush_the_first_one_back_charges_for_all_and_the_next_what_came_since(redis, tmp_path):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with pair_of(redis.url, tmp_path, budget) as pair:
        one, two = pair
        for _ in range(LENT):
            assert isinstance(await one.ask(budget, usd_micro=10), Hold)
        redis.command("FLUSHALL")
        for worker in pair:
            worker.leases._lose()
        await come_back(one)
        assert await counted(one, budget) == LENT * 10
        two.leases._outage.enforce(two.limiter.now_us())
        assert two.limiter.is_degraded(budget)
        assert isinstance(await two.ask(budget, usd_micro=10), Hold)
        await come_back(two)
        await come_to(pair, budget, (LENT + 1) * 10)


@pytest.mark.parametrize("seed", [1, 2])
async def test_of_ten_replies_three_are_lost_and_two_workers_each_count_all_once(redis, tmp_path, seed):
    """Windows of an hour: what is counted too much does not leave, and would be seen."""
    chance = random.Random(seed)
    budget = gauge(USD, limit=100, window_us=HOUR_US)
    async with Lossy(redis.port, lambda: chance.random() < 0.3) as lossy, AsyncExitStack() as stack:
        fleet = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            fleet += workers(f"redis://127.0.0.1:{lossy.port}", tmp_path / name)
        for worker in fleet:
            worker.leases.watch([budget])
            await stack.enter_async_context(worker)
        admitted, until_s = 0, time.monotonic() + 1.5
        while time.monotonic() < until_s:
            for worker in fleet:
                admitted += len(await worker.flood(2, budget, usd_micro=1))
            await asyncio.sleep(0.05)
        lossy.drops = lambda: False
        await until(lambda: not any(worker.leases.is_away for worker in fleet), 8)
        until_s = time.monotonic() + 6.0
        while admitted < 100 and time.monotonic() < until_s:
            for worker in fleet:
                admitted += len(await worker.flood(10, budget, usd_micro=1))
            await asyncio.sleep(0.05)
        admitted += len(await fleet[0].flood(10, budget, usd_micro=1))
        assert lossy.dropped > 0 and admitted == await counted(fleet[0], budget) == 100


async def test_what_all_workers_that_died_had_on_lease_goes_back_though_no_request_comes(redis, tmp_path):
    slots, budget = gauge(SLOTS, limit=5), gauge(USD, limit=1000, window_us=HOUR_US)
    [first] = workers(redis.url, tmp_path, 1)
    first.leases.start()
    await first.is_known()
    assert len(await first.flood(4, slots)) == 4
    first.leases._watches.find(budget, first.limiter.now_us()).demand.per_life = 100.0
    assert isinstance(await first.ask(budget, usd_micro=10), Hold)
    first.leases._running.cancel()  # it dies, and returns nothing
    assert first.limiter.lease_left(budget, first.limiter.now_us()) > 0
    segment = first.limiter.segment
    Limiter(segment).give_back(0, first.limiter.now_us())
    await first.store.close()
    next_one = Machine(redis.url, limiter=Limiter(segment, 0), name=first.leases._machine)
    next_one.leases.watch([slots, budget])
    theirs = gauge(SLOTS, limit=5)
    async with next_one, Machine(redis.url) as other:
        async with asyncio.timeout(8):
            while await counted(other, budget) != 0 or other.used(theirs) < 5:
                await other.flood(1, theirs)
                await asyncio.sleep(0.05)
