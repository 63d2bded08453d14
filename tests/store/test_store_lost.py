"""Replies that are lost after they took effect: the fleet's limit is neither exceeded nor left unspent."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from fleetrig import CALENDAR, MINUTE_US, USD, Gauge, Hold, Machine, gauge, until, workers
from redisrig import Lossy

from llmgw._core.limiter import Limiter
from llmgw.limits.fleet import Ask, Lease
from llmgw.store.adapter import Counters, Store, StoreAway
from llmgw.store.leases import Leases
from llmgw.store.watch import row_of

HOUR_US = 60 * MINUTE_US
NUMBERS = iter(range(time.time_ns() // 1000, 2**53))  # Lua knows no larger ones


async def counted(machine: Machine, limit) -> int:
    """What Redis says is used."""
    look = Lease("tenant:acme", "looker", next(NUMBERS), (Ask(row_of(limit), 0, 0, 1, 1),))
    [reply] = await machine.store.exchange([look])
    return reply.answers[0].used


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_of_ten_replies_three_are_lost_and_all_of_a_budget_is_spent_once(redis, seed):
    """Windows of an hour: what is counted too much does not leave, and would be seen."""
    chance = random.Random(seed)
    budget = gauge(USD, limit=100, window_us=HOUR_US)
    async with Lossy(redis.port, lambda: chance.random() < 0.3) as lossy:
        url = f"redis://127.0.0.1:{lossy.port}"
        async with Machine(url) as one, Machine(url) as two:
            admitted, until_s = 0, time.monotonic() + 1.0
            while time.monotonic() < until_s:
                for machine in (one, two):
                    admitted += len(await machine.flood(2, budget, usd_micro=1))
                await asyncio.sleep(0.05)
            assert lossy.dropped > 0
            lossy.drops = lambda: False
            await until(lambda: not one.leases.is_away and not two.leases.is_away, 8)
            until_s = time.monotonic() + 6.0
            while admitted < 100 and time.monotonic() < until_s:
                for machine in (one, two):
                    admitted += len(await machine.flood(10, budget, usd_micro=1))
                await asyncio.sleep(0.05)
            admitted += len(await one.flood(10, budget, usd_micro=1))
            assert admitted == await counted(one, budget) == 100


async def test_what_was_on_lease_when_redis_went_away_is_free_for_all_when_it_is_back(own_redis):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        watch = machine.leases._watches.find(budget, machine.limiter.now_us())
        watch.demand.per_life = 50.0
        assert isinstance(await machine.ask(budget, usd_micro=10), Hold)
        assert machine.limiter.lease_left(budget, machine.limiter.now_us()) > 20
        machine.leases._settled_us = (
            machine.limiter.now_us() + HOUR_US
        )  # no tick takes along what is released
        own_redis.freeze()
        machine.leases.want([budget], [1])
        await until(lambda: machine.leases.is_away)
        assert isinstance(await machine.ask(budget, usd_micro=10), Hold)
        own_redis.thaw()
        await until(lambda: not machine.leases.is_away)
        machine.leases._settled_us = 0
        watch.demand.per_life = 0.0
        await until(lambda: machine.limiter.lease_left(budget, machine.limiter.now_us()) == 0)
        async with asyncio.timeout(5):
            while await counted(machine, budget) != 20:
                await asyncio.sleep(0.05)


async def test_a_grant_that_was_learned_of_late_is_returned_though_the_next_reply_is_lost_too(redis):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with Machine(redis.url) as machine:
        await machine.is_known()
        exchange, losses = machine.store.exchange, iter([True, False, True])

        async def lossy(calls):
            replies = await exchange(calls)
            if any(isinstance(call, Lease) for call in calls) and next(losses, False):
                raise machine.store._failed("connection")
            return replies

        machine.store.exchange = lossy  # the lease, the lease once more, and the look behind it
        await machine.ask(budget, usd_micro=10)
        assert machine.leases.is_away
        await until(lambda: not machine.leases.is_away)
        assert next(losses, None) is None
        used = machine.used(budget)
        await until(lambda: machine.limiter.lease_left(budget, machine.limiter.now_us()) == 0)
        async with asyncio.timeout(5):
            while await counted(machine, budget) != used:
                await asyncio.sleep(0.05)


async def test_of_two_workers_the_one_that_lost_redis_later_and_is_back_first_charges_for_both(redis):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with Machine(redis.url) as machine:
        await machine.is_known()
        machine.leases._running.cancel()
        store = Store(machine.store._client, "t", 1.0, Counters())
        other = Leases(machine.limiter, store, "machine", 1, lambda gauge: "tenant:acme", is_keeper=False)
        for leases in (machine.leases, other):
            leases.watch([budget])
            leases._beaten_us = 0
            assert await leases._try_meet()
        assert isinstance(await machine.ask(budget, usd_micro=10), Hold)
        now_us = machine.limiter.now_us()
        other._watches.find(budget, now_us)
        other._collect(now_us)
        machine.leases._outage.begin(now_us)
        assert [isinstance(await machine.ask(budget, usd_micro=10), Hold) for _ in range(5)] == [True] * 5
        other._outage.begin(machine.limiter.now_us())
        assert await other._outage.try_end(other._front.line, other._back)
        assert await counted(machine, budget) == 60


async def test_a_call_without_an_answer_is_away_and_made_again_by_its_number(redis):
    budget = gauge(USD, limit=1000, window_us=HOUR_US)
    async with Machine(redis.url) as machine:
        call = Lease("tenant:acme", "asker", next(NUMBERS), (Ask(row_of(budget), 7, 7, 7, 1),))
        with pytest.raises(StoreAway):
            await machine.store._in_time([call], 0.0)
        machine.store._come_back()
        [first], [second] = await machine.store.exchange([call]), await machine.store.exchange([call])
        assert first == second and await counted(machine, budget) == 7


def month() -> Gauge:
    budget = Gauge(b"m" * 16, USD, CALENDAR, 100, is_shared=True)
    budget.period_start_us = time.time_ns() // 1000 - HOUR_US
    budget.period_end_us = budget.period_start_us + 30 * 24 * HOUR_US
    return budget


@pytest.mark.parametrize("limit", [gauge(USD, limit=100, window_us=HOUR_US), month()], ids=["hour", "month"])
async def test_a_redis_that_goes_on_from_an_old_snapshot_gives_nothing_out_twice(own_redis, limit):
    """Another machine, which is gone, had used 10 before the snapshot: that is not forgotten either."""
    async with Machine(own_redis.url) as gone:
        assert len(await gone.flood(10, limit, usd_micro=1)) == 10
    async with Machine(own_redis.url) as one:
        one.leases.watch([limit])
        assert len(await one.flood(20, limit, usd_micro=1)) == 20
        await until(lambda: one.limiter.lease_left(limit, one.limiter.now_us()) == 0)
        assert b"OK" in own_redis.command("SAVE")
        assert len(await one.flood(50, limit, usd_micro=1)) == 50
        own_redis.kill()
        await until(lambda: one.leases.is_away)
        own_redis.start()
        await until(lambda: not one.leases.is_away and one.counters.losses, 8)
        assert 80 <= await counted(one, limit)
        async with Machine(own_redis.url) as other:
            assert len(await other.flood(50, limit, usd_micro=1)) <= 20


async def test_what_was_emptied_while_no_worker_ran_is_charged_once_by_those_that_come(redis, tmp_path):
    budget = gauge(USD, limit=100, window_us=HOUR_US)
    [first] = workers(redis.url, tmp_path, 1)
    async with first:
        assert len(await first.flood(60, budget, usd_micro=1)) == 60
    redis.command("FLUSHALL")
    for turn in range(2):  # the second one starts under another name, and charges nothing
        again = Machine(redis.url, limiter=Limiter(first.limiter.segment, 0), name=f"again{turn}")
        again.leases.watch([budget])
        async with again:
            await again.is_known()
            async with asyncio.timeout(5):
                while await counted(again, budget) != 60:
                    await asyncio.sleep(0.02)
    async with Machine(redis.url) as other:
        theirs = gauge(USD, limit=100, window_us=HOUR_US)
        assert len(await other.flood(50, theirs, usd_micro=1)) == 40


async def test_a_user_who_comes_back_after_a_flush_is_charged_by_a_new_worker(redis, tmp_path):
    user = gauge(limit=100, window_us=HOUR_US, name="user")
    [first] = workers(redis.url, tmp_path, 1)
    async with first:
        assert len(await first.flood(60, user)) == 60
    redis.command("FLUSHALL")
    async with Machine(redis.url, limiter=Limiter(first.limiter.segment, 0), name="again") as again:
        await again.is_known()
        assert isinstance(await again.ask(user), Hold)
        assert await counted(again, user) >= 61
