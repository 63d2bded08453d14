"""Machines that share limits through Redis: together they admit what one would, and mostly without asking."""

from __future__ import annotations

import asyncio
import random
import time

from fleetrig import MINUTE_US, SLOTS, TOKENS, USD, Hold, Machine, gauge, until

from llmgw._core.limiter import Limiter
from llmgw.limits.fleet import Lease


def unused(machine: Machine, *gauges) -> int:
    return sum(machine.limiter.lease_left(one, machine.limiter.now_us()) for one in gauges)


async def test_machines_together_admit_the_limit_and_no_more(redis):
    limit = gauge(limit=100)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        admitted = 0
        async with asyncio.timeout(8):
            while admitted < 100:
                holds = await asyncio.gather(one.flood(10, limit), two.flood(10, limit))
                admitted += sum(map(len, holds))
                await asyncio.sleep(0.02)
        admitted += len(await one.flood(10, limit)) + len(await two.flood(10, limit))
        assert admitted == 100


async def test_what_one_machine_does_not_use_another_gets(redis):
    limit = gauge(limit=100, window_us=MINUTE_US // 10)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert len(await one.flood(40, limit)) == 40
        await until(lambda: unused(one, limit) == 0)
        admitted = 0
        async with asyncio.timeout(5):
            while admitted < 60:
                admitted += len(await two.flood(5, limit))
                await asyncio.sleep(0.02)
        assert len(await two.flood(5, limit)) == 0
        assert one.used(limit) + two.used(limit) == 100


async def test_a_refusal_says_how_much_the_fleet_has_used_and_for_how_long(redis):
    limit = gauge(limit=10)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert len(await one.flood(10, limit)) == 10
        refusal = await two.ask(limit)
        assert not isinstance(refusal, Hold)
        assert 50_000_000 < refusal.wait_us < 66_000_000


async def test_the_window_opens_again_for_all(redis):
    limit = gauge(limit=10, window_us=1_000_000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert len(await one.flood(10, limit)) == 10
        refusal = await two.ask(limit)
        await asyncio.sleep(refusal.wait_us / 1e6 + 0.01)
        assert isinstance(await two.ask(limit), Hold)


async def test_what_settling_gives_back_is_free_for_all(redis):
    limit = gauge(TOKENS, limit=1000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        hold = await one.ask(limit, tokens=900)
        assert isinstance(hold, Hold)
        assert not isinstance(await two.ask(limit, tokens=500), Hold)
        one.settle(hold, tokens=100)
        async with asyncio.timeout(5):
            while not isinstance(await two.ask(limit, tokens=500), Hold):
                await asyncio.sleep(0.02)


async def test_what_was_used_beyond_a_reservation_counts_for_all(redis):
    limit = gauge(TOKENS, limit=1000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        one.settle(await one.ask(limit, tokens=100), tokens=800)
        await asyncio.sleep(0.2)
        assert not isinstance(await two.ask(limit, tokens=300), Hold)
        await asyncio.sleep(0.15)
        assert isinstance(await two.ask(limit, tokens=200), Hold)


async def test_a_request_too_large_for_now_does_not_stop_smaller_ones(redis):
    limit = gauge(TOKENS, limit=1000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert isinstance(await one.ask(limit, tokens=500), Hold)
        [denied] = await two.leases.wait([limit], [900])
        assert denied.gauge is limit and denied.used == 500 and 50_000_000 < denied.wait_us < 66_000_000
        await asyncio.sleep(0.15)
        assert isinstance(await two.ask(limit, tokens=50), Hold)


async def test_a_budget_of_a_calendar_day_is_the_fleets(redis):
    def day(limit: int):
        from llmgw._core.limiter import CALENDAR, Gauge

        one = Gauge(b"d" * 16, USD, CALENDAR, limit, is_shared=True)
        start_us = time.time_ns() // 1000 // 86_400_000_000 * 86_400_000_000
        one.period_start_us, one.period_end_us = start_us, start_us + 86_400_000_000
        return one

    async with Machine(redis.url) as one, Machine(redis.url) as two:
        budgets = day(50_000), day(50_000)
        assert len(await one.flood(3, budgets[0], usd_micro=10_000)) == 3
        assert len(await two.flood(3, budgets[1], usd_micro=10_000)) == 2


async def test_slots_are_the_fleets_and_come_back(redis):
    limit = gauge(SLOTS, limit=5)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        held = await one.flood(9, limit)
        assert len(held) == 5
        assert not isinstance(await two.ask(limit), Hold)
        for hold in held[:3]:
            one.settle(hold)
        admitted = []
        async with asyncio.timeout(5):
            while len(admitted) < 3:
                admitted += await two.flood(1, limit)
                await asyncio.sleep(0.02)
        assert len(await two.flood(3, limit)) == 0


async def test_slots_of_a_machine_that_is_gone_come_back(redis, monkeypatch):
    monkeypatch.setattr("llmgw.limits.fleet.DEAD_US", 1_500_000)
    limit = gauge(SLOTS, limit=5)
    async with Machine(redis.url) as two:
        one = Machine(redis.url)
        one.leases.start()
        assert len(await one.flood(5, limit)) == 5
        one.leases._running.cancel()  # it dies, and returns nothing
        async with asyncio.timeout(6):
            while len(await two.flood(1, limit)) == 0:
                await asyncio.sleep(0.05)
        await one.store.close()


async def test_slots_of_a_machine_that_lives_stay_its_own(redis, monkeypatch):
    monkeypatch.setattr("llmgw.limits.fleet.DEAD_US", 1_500_000)
    limit = gauge(SLOTS, limit=5)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert len(await one.flood(5, limit)) == 5
        await asyncio.sleep(2.5)
        assert await two.flood(3, limit) == []


async def test_at_full_speed_redis_is_asked_for_less_than_one_request_in_ten(redis):
    limits = gauge(limit=10_000_000), gauge(TOKENS, limit=10**10)
    async with Machine(redis.url) as machine:
        await machine.ask(*limits, tokens=1000)
        began_s = time.monotonic()
        admitted = waited = 0
        while time.monotonic() - began_s < 1.5:
            for _ in range(20):
                waits = machine.waits
                answer = await machine.ask(*limits, tokens=1000)
                assert isinstance(answer, Hold)
                machine.settle(answer, tokens=random.randint(1, 2000))
                admitted += 1
                waited += machine.waits > waits
            await asyncio.sleep(0.002)
        assert admitted > 1000
        assert machine.counters.commands / admitted < 0.1
        assert waited / admitted < 0.05


async def test_machines_count_each_other(redis):
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        await until(lambda: one.leases.machines == two.leases.machines == 2)


async def test_a_machine_that_stops_returns_its_leases(redis):
    limit = gauge(limit=100)
    async with Machine(redis.url) as two:
        async with Machine(redis.url) as one:
            one.leases._watches.find(limit, one.limiter.now_us()).demand.per_life = 50.0
            assert isinstance(await one.ask(limit), Hold)
            assert unused(one, limit) > 0
        [look] = [await two.leases.wait([limit], [99])]
        assert look == ()


async def test_of_all_machines_one_is_to_tell_until_it_may_be_told_again(redis):
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        minute_us = 60_000_000
        said = [await machine.leases.maybe_claim("word", minute_us) for machine in (one, two, one)]
        assert said == [True, False, True]
        await two.leases.maybe_claim("word", 0)
        assert await two.leases.maybe_claim("word", minute_us) is True
        redis.command("CONFIG", "SET", "maxmemory", "1")
        try:
            assert await one.leases.maybe_claim("other", minute_us) is None
        finally:
            redis.command("CONFIG", "SET", "maxmemory", "0")


async def test_every_machine_knows_within_a_second_what_the_fleet_has_used(redis):
    budget = gauge(USD, limit=1000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        two.leases.watch([budget])
        assert two.leases.maybe_used(budget) is None
        assert len(await one.flood(3, budget, usd_micro=100)) == 3
        await until(lambda: two.leases.maybe_used(budget) == 300)
        assert two.used(budget) == 0


async def test_a_worker_that_is_not_the_keeper_looks_at_idle_budgets_too(redis):
    budget, limit = gauge(USD, limit=1000), gauge(limit=1000)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        two.leases._is_keeper = False
        two.leases.watch([budget, limit])
        assert len(await one.flood(3, budget, limit, usd_micro=100)) == 3
        await until(lambda: two.leases.maybe_used(budget) == 300, 8)
        assert two.leases.maybe_used(limit) is None


async def test_users_that_are_gone_are_not_looked_at_and_those_that_hold_slots_are(redis, monkeypatch):
    monkeypatch.setattr("llmgw.store.watch.IDLE_US", 100_000)
    idle, held, named = gauge(limit=10, name="idle"), gauge(SLOTS, limit=5), gauge(limit=10, name="named")
    async with Machine(redis.url) as machine:
        machine.leases.watch([named])
        assert isinstance(await machine.ask(idle, held), Hold)
        await until(lambda: machine.leases._watches.by_key(idle.key.hex()) is None, 8)
        watches = machine.leases._watches
        beats = machine.leases._beats
        await until(lambda: machine.leases._beats > beats + 1)
        assert watches.by_key(held.key.hex()) is not None and watches.by_key(named.key.hex()) is not None
        assert isinstance(await machine.ask(idle), Hold)


async def test_thousands_of_users_are_looked_at_in_small_exchanges(redis):
    users = [gauge(limit=10, name=f"user {index}") for index in range(500)]
    async with Machine(redis.url, limiter=Limiter(rows=2048)) as machine:
        sizes, exchange = [], machine.store.exchange

        async def measured(calls):
            sizes.append(sum(len(call.asks) for call in calls if isinstance(call, Lease)))
            return await exchange(calls)

        machine.store.exchange = measured
        holds = await asyncio.gather(*(machine.ask(user) for user in users))
        assert all(isinstance(hold, Hold) for hold in holds)
        beats = machine.leases._beats
        await until(lambda: machine.leases._beats > beats + 1, 8)
        assert sum(sizes) > 1000 and max(sizes) <= 128


async def test_what_is_less_than_a_request_is_not_taken_in_the_background_but_left_to_smaller_ones(redis):
    budget = gauge(USD, limit=100)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        assert isinstance(await two.ask(budget, usd_micro=94), Hold)
        await one.is_known()
        watch = one.leases._watches.find(budget, one.limiter.now_us())
        watch.demand.per_life, watch.demand.size = 50.0, 10.0
        await until(lambda: watch.known)
        assert unused(one, budget) == 0
        assert isinstance(await one.ask(budget, usd_micro=6), Hold)
