"""Redis away, in every way: nothing hangs, each machine keeps to its part, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from fleetrig import MINUTE_US, REQUESTS, SLOTS, USD, Hold, Machine, drain, gauge, until
from redisrig import Lossy

from llmgw.limits import lease

SLOW_S = 0.2  # what a noisy test machine may add to a deadline of 50 ms


async def both_know(one: Machine, two: Machine, *gauges) -> None:
    """Two machines that count each other and have looked at these."""
    for machine in (one, two):
        machine.leases.watch(gauges)
        await machine.is_known()
    await until(lambda: one.leases.machines == two.leases.machines == 2)
    for machine in (one, two):
        await until(lambda: all(watch.known for watch in machine.leases._watches))


async def longest_s(machine: Machine, *gauges, count: int = 30) -> float:
    longest = 0.0
    for _ in range(count):
        began_s = time.monotonic()
        await machine.ask(*gauges)
        longest = max(longest, time.monotonic() - began_s)
    return longest


async def test_a_frozen_redis_holds_no_request_up(own_redis):
    limit = gauge(limit=1000)
    async with Machine(own_redis.url, 0.05) as machine:
        await machine.is_known()
        machine.leases.watch([limit])
        await until(lambda: all(watch.known for watch in machine.leases._watches))
        await machine.ask(limit)
        own_redis.freeze()
        assert await longest_s(machine, limit) < 0.05 + SLOW_S
        began_s = time.monotonic()
        assert len(await machine.flood(50, limit)) == 50
        assert time.monotonic() - began_s < SLOW_S
        own_redis.thaw()


async def test_frozen_while_requests_come_all_are_answered_in_time(own_redis):
    limits = [gauge(limit=1000, name=f"limit {index}") for index in range(20)]
    async with Machine(own_redis.url, 0.05) as machine:
        await machine.is_known()
        await machine.ask(*limits)
        own_redis.freeze()
        began_s = time.monotonic()
        answers = await asyncio.gather(*(machine.ask(one) for one in limits for _ in range(5)))
        assert time.monotonic() - began_s < 0.05 + SLOW_S
        assert not any(isinstance(answer, Exception) for answer in answers)
        own_redis.thaw()


async def test_machines_without_redis_keep_to_the_limit_together(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as one, Machine(own_redis.url) as two:
        await both_know(one, two, limit)
        before = len(await one.flood(20, limit)) + len(await two.flood(4, limit))
        await asyncio.sleep(2.6)  # each has looked, and looked again
        own_redis.kill()
        during = len(await one.flood(100, limit)) + len(await two.flood(100, limit))
        assert before + during <= 100
        await asyncio.sleep(lease.HOLD_US / 1e6 + 0.6)
        during += len(await one.flood(100, limit)) + len(await two.flood(100, limit))
        assert 40 <= before + during <= 100
        assert one.used(limit) > 20 and two.used(limit) > 20


async def test_it_is_back_within_two_seconds_and_knows_what_was_admitted_meanwhile(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as one, Machine(own_redis.url) as two:
        await both_know(one, two, limit)
        own_redis.freeze()
        admitted = len(await one.flood(30, limit)) + len(await two.flood(30, limit))
        assert one.leases.is_away and two.leases.is_away and admitted == 60
        own_redis.thaw()
        await until(lambda: not one.leases.is_away and not two.leases.is_away, 2)
        admitted += await drain(limit, one, two, goal=100 - admitted)
        assert 95 <= admitted <= 100
        assert one.counters.outages >= 1 and 0 < one.counters.away_us < 5_000_000


async def test_an_outage_charges_only_what_was_admitted_in_it(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        assert len(await machine.flood(60, limit)) == 60
        own_redis.freeze()
        await machine.leases.wait([limit], [1])
        assert len(await machine.flood(10, limit)) == 10
        own_redis.thaw()
        await until(lambda: not machine.leases.is_away, 2)
        assert 25 <= await drain(limit, machine, goal=30) <= 30


async def test_after_a_flush_a_machine_charges_again_what_it_has_used(redis):
    limit = gauge(limit=100)
    async with Machine(redis.url) as one, Machine(redis.url) as two:
        await both_know(one, two, limit)
        admitted = len(await one.flood(50, limit)) + len(await two.flood(30, limit))
        redis.command("FLUSHALL")
        await until(lambda: one.counters.losses == two.counters.losses == 1)
        await asyncio.sleep(0.1)
        admitted += await drain(limit, one, two, goal=100 - admitted)
        # Until a machine has noticed, at most a second, another one may get what it had used.
        assert 95 <= admitted <= 130


async def test_redis_killed_and_started_empty_is_found_out(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        admitted = len(await machine.flood(60, limit))
        own_redis.kill()
        admitted += len(await machine.flood(20, limit))
        own_redis.start()
        await until(lambda: not machine.leases.is_away, 2)
        admitted += await drain(limit, machine, goal=100 - admitted)
        assert 95 <= admitted <= 100


async def test_a_server_that_forgot_its_scripts_is_told_again(redis):
    limit = gauge(limit=100)
    async with Machine(redis.url) as machine:
        assert isinstance(await machine.ask(limit), Hold)
        loaded = machine.counters.scripts_loaded
        redis.command("SCRIPT", "FLUSH")
        assert isinstance(await machine.ask(limit), Hold)
        assert machine.counters.scripts_loaded > loaded and machine.counters.outages == 0


async def test_a_server_that_became_a_replica_is_away_until_it_is_a_master(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        assert isinstance(await machine.ask(limit), Hold)
        own_redis.command("REPLICAOF", "127.0.0.1", "1")
        await until(lambda: machine.leases.is_away)
        assert isinstance(await machine.ask(limit), Hold)
        assert machine.counters.errors["read_only"] > 0
        own_redis.command("REPLICAOF", "NO", "ONE")
        await until(lambda: not machine.leases.is_away, 2)


async def test_a_server_without_memory_is_away(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        await machine.ask(limit)
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        await until(lambda: machine.leases.is_away)
        assert machine.counters.errors["out_of_memory"] > 0
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: not machine.leases.is_away, 2)


async def test_a_budget_closes_after_its_grace(own_redis):
    budget = gauge(USD, limit=1_000_000, window_us=24 * 60 * MINUTE_US)
    async with Machine(own_redis.url, grace_s=0.6) as machine:
        await machine.is_known()
        machine.leases.watch([budget])
        await until(lambda: all(watch.known for watch in machine.leases._watches))
        own_redis.kill()
        assert isinstance(await machine.ask(budget, usd_micro=1000), Hold)
        await until(lambda: machine.leases.is_away)
        await asyncio.sleep(1.2)
        assert not isinstance(await machine.ask(budget, usd_micro=1000), Hold)


async def test_slots_held_through_an_outage_are_counted_after_it(own_redis):
    limit = gauge(SLOTS, limit=10)
    async with Machine(own_redis.url) as one, Machine(own_redis.url) as two:
        await both_know(one, two, limit)
        own_redis.freeze()
        held = await one.flood(10, limit)
        assert len(held) == 5
        own_redis.thaw()
        await until(lambda: not one.leases.is_away and not two.leases.is_away, 2)
        await asyncio.sleep(1.3)
        assert len(await two.flood(10, limit)) == 5


async def test_a_machine_that_never_reached_redis_is_strict_and_then_alone_but_for_budgets(tmp_path):
    limits = gauge(limit=5), gauge(REQUESTS, limit=100, name="other")
    budget = gauge(USD, limit=1_000_000)
    async with Machine(f"unix://{tmp_path}/nobody") as machine:
        assert await machine.leases._begun.wait()
        assert machine.leases.is_away
        assert not await machine.flood(10, *limits) and not await machine.flood(1, budget, usd_micro=1)
        machine.leases._outage._since_us -= lease.TRUST_US
        assert await drain(limits[0], machine, goal=5) == 5
        assert not await machine.flood(1, budget, usd_micro=1)


async def test_a_newcomer_has_no_part_of_what_was_left_when_redis_went_away(own_redis):
    limit = gauge(limit=100)
    async with Machine(own_redis.url) as one:
        one.leases.watch([limit])
        await one.is_known()
        await until(lambda: all(watch.known for watch in one.leases._watches))
        async with Machine(own_redis.url) as two:
            two.leases.watch([limit])
            assert await two.leases._begun.wait()
            own_redis.kill()
            await until(lambda: one.leases.is_away and two.leases.is_away)
            assert len(await one.flood(200, limit)) + len(await two.flood(200, limit)) <= 100
            assert two.used(limit) == 0


async def test_what_comes_after_the_beginning_needs_no_connection_and_no_script(own_redis):
    async with Machine(own_redis.url) as machine:
        assert await machine.leases._begun.wait()
        loaded, connected = machine.counters.scripts_loaded, connections(own_redis)
        for unit in (REQUESTS, SLOTS):
            hold = await machine.ask(gauge(unit))
            machine.settle(hold)
        await asyncio.sleep(1.2)  # a beat, looks and returns went out too
        assert machine.counters.scripts_loaded == loaded and machine.counters.outages == 0
        assert connections(own_redis) == connected + 1, "the test's own question"


def connections(server) -> int:
    """Ever made, this one included."""
    stats = server.command("INFO", "stats")
    return int(stats.partition(b"total_connections_received:")[2].split()[0])


@pytest.mark.parametrize("seed", [1, 2])
async def test_lost_replies_count_nothing_twice(redis, seed):
    chance = random.Random(seed)
    limit = gauge(limit=400, window_us=MINUTE_US)
    async with Lossy(redis.port, lambda: chance.random() < 0.05) as lossy:
        url = f"redis://127.0.0.1:{lossy.port}"
        async with Machine(url) as one, Machine(url) as two:
            await both_know(one, two, limit)
            admitted = 0
            until_s = time.monotonic() + 4
            while time.monotonic() < until_s:
                admitted += len(await one.flood(3, limit)) + len(await two.flood(3, limit))
                await asyncio.sleep(0.02)
            lossy.drops = lambda: False
            await until(lambda: not one.leases.is_away and not two.leases.is_away)
            until_s = time.monotonic() + 4
            while admitted < 400 and time.monotonic() < until_s:
                admitted += len(await one.flood(3, limit)) + len(await two.flood(3, limit))
                await asyncio.sleep(0.02)
            assert lossy.dropped > 0
            assert 360 <= admitted <= 400


async def test_a_row_whose_watch_was_given_up_while_redis_was_away_leases_again(own_redis, monkeypatch):
    monkeypatch.setattr("llmgw.store.watch.WATCHED_MAX", 2)
    users = [gauge(limit=10, name=f"user {index}") for index in range(4)]
    async with Machine(own_redis.url) as machine:
        await machine.is_known()
        own_redis.freeze()
        for user in users:
            await machine.ask(user)
        assert machine.leases.is_away and machine.limiter.is_degraded(users[3])
        own_redis.thaw()
        await until(lambda: not machine.leases.is_away)
        assert not any(machine.limiter.is_degraded(user) for user in users)
