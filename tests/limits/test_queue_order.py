"""Who comes before whom."""

from __future__ import annotations

import pytest
from queueworld import SECOND_US, UNKNOWN, FakeGauge, FakeRefusal, World

from llmgw.limits.queue import Joined


@pytest.fixture
def world() -> World:
    return World()


def full(name: str, limit: int, window_us: int, world: World) -> FakeGauge:
    gauge = FakeGauge(name, limit, window_us)
    gauge.take(limit, world.now_us)
    return gauge


def test_within_a_tenant_the_oldest_first(world: World) -> None:
    slots = full("slots", 1, 0, world)
    for name in "abcde":
        world.wait(name, [(slots, 1)])
    for _ in range(5):
        world.release(slots)
    assert world.admitted == list("abcde")


def test_a_small_request_does_not_pass_a_large_one_at_the_same_gauge(world: World) -> None:
    slots = full("slots", 4, 0, world)
    world.wait("large", [(slots, 4)])
    world.wait("small", [(slots, 1)])
    for _ in range(3):
        world.release(slots)
    assert world.admitted == []
    world.release(slots)
    assert world.admitted == ["large"]


def test_a_large_request_gets_in_though_small_ones_keep_coming(world: World) -> None:
    window = full("tpm", 100, SECOND_US, world)
    world.pump()
    for number in range(50):
        world.wait(f"s{number}", [(window, 10)], tokens=10, tenant="other")
    large = world.wait("large", [(window, 100)], tokens=100)
    for number in range(1000):
        if large.outcomes:
            break
        if window.wait_us(10, world.now_us):
            world.wait(f"t{number}", [(window, 10)], tokens=10, tenant="other")
        world.run(SECOND_US // 10)
    assert large.is_admitted
    before = sum(name.startswith(("s", "t")) for name in world.admitted)
    assert before <= 40, "its share is half of the throughput, and it asks for ten small ones' worth"


def test_a_tenant_at_its_own_limit_holds_up_no_other(world: World) -> None:
    provider = full("provider", 1, 0, world)
    own = full("own", 1, 100 * SECOND_US, world)
    world.wait("blocked", [(provider, 1), (own, 1)], tenant="a")
    world.wait("free", [(provider, 1)], tenant="b")
    world.release(provider)
    assert world.admitted == ["free"]


@pytest.mark.parametrize("is_told", [True, False], ids=["gauges known", "gauges unknown"])
def test_a_full_key_holds_up_no_other_key_of_its_tenant(world: World, is_told: bool) -> None:
    provider = full("provider", 1, 0, world)
    key_a, key_b = full("key a", 1, 100 * SECOND_US, world), FakeGauge("key b", 10)
    provider.give_back(1)
    for number in range(5):
        world.wait(f"a{number}", [(provider, 1), (key_a, 1)], is_told=is_told)
    provider.take(1, world.now_us)
    for number in range(5):
        world.wait(f"b{number}", [(provider, 1), (key_b, 1)], is_told=is_told)
    for _ in range(5):
        world.release(provider)
    assert world.admitted == [f"b{number}" for number in range(5)]


@pytest.mark.parametrize("is_told", [True, False], ids=["gauges known", "gauges unknown"])
def test_those_whose_own_limits_are_full_step_aside_for_those_behind_them(
    world: World, is_told: bool
) -> None:
    """All of them stand at the provider first; only then it shows that their key is full."""
    provider = full("provider", 1, 0, world)
    key_a = FakeGauge("key a", 1, 100 * SECOND_US)
    for number in range(20):
        world.wait(f"a{number}", [(provider, 1), (key_a, 1)], is_told=is_told)
    world.wait("b", [(provider, 1)])
    key_a.take(1, world.now_us)
    world.release(provider)
    world.run(100_000)
    assert world.admitted == ["b"]


def test_nobody_passes_a_gauge_by_another_line_where_others_wait(world: World) -> None:
    """One waits for the tenant's tokens; what waits for the provider's slots needs those tokens too."""
    provider = full("provider", 1, 0, world)
    tenant = FakeGauge("tenant", 100)
    tenant.take(50, world.now_us)
    large = world.wait("large", [(tenant, 100)], tokens=100)
    world.pump()
    for number in range(20):
        world.wait(f"s{number}", [(provider, 1), (tenant, 10)], tokens=10)
    provider.give_back(1)
    world.run(SECOND_US)
    assert world.admitted == ["large"] and large.tries == 3


def test_a_stream_of_small_ones_by_way_of_another_line_starves_no_large_one(world: World) -> None:
    """The provider is always full, so that every small one comes by the provider's line, for ever."""
    provider = full("provider", 1, 0, world)
    tenant = FakeGauge("tenant", 100)
    tenant.take(10, world.now_us)
    large = world.wait("large", [(tenant, 100)], tokens=100)
    small = [world.wait(f"s{number}", [(provider, 1), (tenant, 10)], tokens=10) for number in range(3)]
    for number in range(500):
        if large.outcomes:
            break
        admitted = sum(caller.is_admitted for caller in small)
        world.release(provider)
        if sum(caller.is_admitted for caller in small) == admitted:
            provider.take(1, world.now_us)
        small.append(world.wait(f"n{number}", [(provider, 1), (tenant, 10)], tokens=10))
        world.run(SECOND_US // 10)
    assert large.is_admitted


# Classes


def test_interactive_before_batch(world: World) -> None:
    slots = full("slots", 1, 0, world)
    world.wait("batch", [(slots, 1)], is_batch=True)
    world.wait("interactive", [(slots, 1)], tenant="other")
    world.release(slots)
    world.release(slots)
    assert world.admitted == ["interactive", "batch"]


def test_no_batch_waiter_is_tried_where_an_interactive_one_waits(world: World) -> None:
    slots = FakeGauge("slots", 10, 0)
    slots.take(10, world.now_us)
    batch = world.wait("batch", [(slots, 1)], is_batch=True)
    world.wait("interactive", [(slots, 10)])
    for _ in range(9):
        world.release(slots)
        world.run(SECOND_US)
    assert batch.tries == 1, "as a newcomer"
    world.release(slots)
    assert world.admitted == ["interactive"]


def test_a_batch_waiter_passes_no_gauge_where_an_interactive_one_waits(world: World) -> None:
    provider = full("provider", 1, 0, world)
    tenant = FakeGauge("tenant", 10, 0)
    tenant.take(9, world.now_us)
    batch = world.wait("batch", [(provider, 1), (tenant, 1)], is_batch=True)
    interactive = world.wait("interactive", [(tenant, 2)])
    world.release(provider)
    assert not batch.outcomes
    world.release(tenant, 2)
    assert interactive.is_admitted
    world.release(tenant, 2)
    world.run(SECOND_US)
    assert batch.is_admitted


def test_batch_goes_on_as_soon_as_the_last_interactive_one_has_left(world: World) -> None:
    slots = FakeGauge("slots", 10, 0)
    slots.take(5, world.now_us)
    interactive = world.wait("interactive", [(slots, 10)])
    world.pump()
    slots.take(5, world.now_us)
    batch = world.wait("batch", [(slots, 1)], is_batch=True)
    slots.give_back(5)
    world.pump()
    assert not batch.outcomes
    world.queue.leave(interactive.waiter)
    world.pump()
    assert batch.is_admitted


# Fairness


@pytest.mark.parametrize("window_us", [0, SECOND_US], ids=["slots", "window"])
def test_tenants_share_by_weight_whatever_their_requests_cost(world: World, window_us: int) -> None:
    """10,000 admissions; each tenant always has waiters, so that every one gets its weight's share."""
    gauge = full("gauge", 20_000, window_us, world)
    tenants = {"a": (1, 100), "b": (2, 700), "c": (5, 30), "d": (2, 2000)}  # weight, tokens of a request
    spent = dict.fromkeys(tenants, 0)

    def join(tenant: str) -> None:
        weight, tokens = tenants[tenant]
        caller = world.caller(tenant, [(gauge, tokens)], tenant=tenant, weight=weight, tokens=tokens)

        def done(outcome: object) -> None:
            spent[tenant] += tokens
            world.admitted.append(tenant)
            gauge_taken.append(tokens)
            join(tenant)

        caller.waiter.on_done = done
        refusal = FakeRefusal(gauge, gauge.used, tokens, UNKNOWN)  # newcomers leave the room to waiters
        assert world.queue.join(caller.waiter, refusal, world.now_us) is Joined.WAITS

    gauge_taken: list[int] = []
    for _ in range(50):
        for tenant in tenants:
            join(tenant)
    free = 20_000
    while len(world.admitted) < 10_000:
        if window_us:
            world.run(SECOND_US // 50)
        else:
            world.release(gauge, free)
            free = sum(gauge_taken)
            gauge_taken.clear()
    total = sum(spent.values())
    for tenant, (weight, _) in tenants.items():
        assert spent[tenant] / total == pytest.approx(weight / 10, rel=0.05)


def test_a_tenant_that_comes_late_waits_for_one_turn_not_for_the_whole_crowd(world: World) -> None:
    slots = full("slots", 1, 0, world)
    for number in range(500):
        world.wait(f"a{number}", [(slots, 1)], tenant="crowd", tokens=1000)
    late = world.wait("late", [(slots, 1)], tenant="late", tokens=1000)
    for _ in range(3):
        world.release(slots)
    assert late.is_admitted


def test_weight_counts_for_large_requests_too(world: World) -> None:
    """24,000 tokens at three times the weight come before 10,000, however small the quantum."""
    slots = full("slots", 1, 0, world)
    for tenant, weight, tokens in (("light", 1, 10_000), ("heavy", 3, 24_000)):
        world.wait(f"large {tenant}", [(slots, 1)], tenant=tenant, weight=weight, tokens=tokens)
        for number in range(50):
            world.wait(f"{tenant} {number}", [(slots, 1)], tenant=tenant, weight=weight)
    world.release(slots)
    assert world.admitted == ["large heavy"]


# What a pump costs


@pytest.mark.parametrize("is_told", [True, False], ids=["gauges known", "gauges unknown"])
def test_a_pump_tries_by_tenants_and_gauges_not_by_waiters(world: World, is_told: bool) -> None:
    provider = full("provider", 10, 0, world)
    tenants, keys = 5, 4
    own = [[FakeGauge(f"{t}.{k}", 1, 1000 * SECOND_US) for k in range(keys)] for t in range(tenants)]
    for number in range(900):
        tenant = number % tenants
        key = own[tenant][number // tenants % keys]
        world.wait(f"{number}", [(provider, 1), (key, 1)], tenant=f"t{tenant}", is_told=is_told)
    for gauge in sum(own, []):
        gauge.take(1, world.now_us)
    gauges = 1 + tenants * keys
    provider.give_back(10)
    world.queue.woken(world.now_us)
    most = 0
    for _ in range(50):
        tried = world.tries
        world.pump(after_us=1000)
        most = max(most, world.tries - tried)
    assert most <= tenants * gauges
    assert world.admitted == []
    assert len(world.queue) == 900


def test_a_blocked_line_costs_one_try_a_pump_however_many_wait(world: World) -> None:
    slots = full("slots", 1, 0, world)
    for number in range(1000):
        world.wait(f"{number}", [(slots, 1)], tenant=f"t{number % 7}")
    world.pump()
    tried = world.tries
    for _ in range(10):
        world.queue.woken(world.now_us)
        world.pump(after_us=1)
    assert world.tries - tried == 10
