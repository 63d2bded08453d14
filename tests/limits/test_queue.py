"""Who waits, for how long, and what it is told in the end."""

from __future__ import annotations

import gc
import weakref

import pytest
from queueworld import NEVER, SECOND_US, UNKNOWN, FakeGauge, FakeRefusal, World

from llmgw.limits.queue import REFRESH_US, RETRY_US, Joined


@pytest.fixture
def world() -> World:
    return World()


def full(name: str, limit: int, window_us: int, world: World) -> FakeGauge:
    gauge = FakeGauge(name, limit, window_us)
    gauge.take(limit, world.now_us)
    return gauge


def test_nobody_waits_so_no_moment_is_wanted(world: World) -> None:
    assert world.pump() == 0
    assert world.queue.depth(False) == world.queue.depth(True) == len(world.queue) == 0


def test_a_waiter_is_admitted_at_the_very_moment_its_window_opens(world: World) -> None:
    window = full("rpm", 1, 700_000, world)
    caller = world.wait("a", [(window, 1)])
    world.run(699_999)
    assert not caller.outcomes
    world.run(1)
    assert caller.is_admitted
    assert world.next_us == 0


def test_a_long_known_wait_is_tried_now_and_then_so_that_its_mark_stays_fresh(world: World) -> None:
    window = full("rpd", 1, 100 * SECOND_US, world)
    caller = world.wait("a", [(window, 1)])
    world.pump()
    assert world.next_us == world.now_us + REFRESH_US
    world.run(100 * SECOND_US)
    assert caller.is_admitted
    assert caller.tries <= 102


def test_an_unknown_wait_ends_with_the_release(world: World) -> None:
    slots = full("slots", 1, 0, world)
    caller = world.wait("a", [(slots, 1)])
    world.pump()
    world.release(slots)
    assert caller.is_admitted


def test_an_unknown_wait_is_tried_again_though_nobody_told_of_the_release(world: World) -> None:
    slots = full("slots", 1, 0, world)
    caller = world.wait("a", [(slots, 1)])
    world.pump()
    slots.give_back(1)
    assert world.next_us <= world.now_us + RETRY_US
    world.run(RETRY_US)
    assert caller.is_admitted


def test_a_release_shortens_a_known_wait_without_a_try_for_each(world: World) -> None:
    window = full("tpm", 10, 60 * SECOND_US, world)
    caller = world.wait("a", [(window, 4)])
    world.pump()
    tried = caller.tries
    for _ in range(100):
        world.queue.woken(world.now_us)
        world.pump(after_us=100)
    assert caller.tries == tried
    window.used -= 5  # a settlement
    world.queue.woken(world.now_us)
    world.run(RETRY_US)
    assert caller.is_admitted


def test_what_comes_after_the_deadline_is_refused_at_once(world: World) -> None:
    window = full("rpm", 1, SECOND_US, world)
    late = world.caller("late", [(window, 1)], max_wait_us=SECOND_US - 1)
    in_time = world.caller("in time", [(window, 1)], max_wait_us=SECOND_US)
    assert world.join(late) is Joined.LATE
    assert world.join(in_time) is Joined.WAITS
    world.run(SECOND_US)
    assert in_time.is_admitted
    assert not late.outcomes and late.tries == 1


def test_who_may_not_wait_is_refused_at_once(world: World) -> None:
    slots = full("slots", 1, 0, world)
    assert world.join(world.caller("a", [(slots, 1)], max_wait_us=0)) is Joined.LATE


def test_what_never_fits_does_not_wait(world: World) -> None:
    window = FakeGauge("tpm", 10)
    assert world.join(world.caller("a", [(window, 11)])) is Joined.NEVER
    assert len(world.queue) == 0


def test_what_never_fits_any_more_waits_no_longer(world: World) -> None:
    window = full("tpm", 10, SECOND_US, world)
    caller = world.wait("a", [(window, 5)])
    window.limit = 4
    world.pump()
    assert [outcome.wait_us for outcome in caller.outcomes] == [NEVER]
    assert len(world.queue) == 0


def test_a_deadline_that_passes_is_told_once_with_the_last_refusal(world: World) -> None:
    slots = full("slots", 1, 0, world)
    first = world.wait("first", [(slots, 1)], max_wait_us=SECOND_US)
    behind = world.wait("behind", [(slots, 1)], max_wait_us=SECOND_US // 2)
    world.run(SECOND_US // 2 + 1)
    assert not first.outcomes
    world.run(10 * SECOND_US)
    for caller in (first, behind):
        assert [outcome.wait_us for outcome in caller.outcomes] == [UNKNOWN]
    assert len(world.queue) == 0


def test_a_deadline_is_told_when_it_passes_however_long_the_first_one_waits(world: World) -> None:
    window = full("tpm", 10, 100 * SECOND_US, world)
    world.wait("first", [(window, 10)])
    caller = world.caller("behind", [(window, 1)], max_wait_us=500_000)
    assert world.queue.join(caller.waiter, FakeRefusal(window, 10, 1, 200_000), world.now_us) is Joined.WAITS
    world.run(500_000)
    assert not caller.outcomes
    world.run(1)
    assert len(caller.outcomes) == 1 and not caller.is_admitted


def test_a_late_pump_admits_nobody_past_the_deadline(world: World) -> None:
    window = full("rpm", 1, SECOND_US, world)
    caller = world.wait("a", [(window, 1)], max_wait_us=SECOND_US)
    world.pump()
    world.pump(after_us=SECOND_US + 1)
    assert not caller.is_admitted
    assert len(caller.outcomes) == 1


def test_a_wait_that_grows_beyond_the_deadline_ends_at_once(world: World) -> None:
    window = full("rpm", 1, SECOND_US, world)
    caller = world.wait("a", [(window, 1)], max_wait_us=SECOND_US + 10)
    window.forget(world.now_us + SECOND_US)
    window.take(1, world.now_us + 500_000)  # another process was quicker
    world.run(500_000)
    world.run(500_000)
    assert len(caller.outcomes) == 1 and not caller.is_admitted


def test_one_that_left_hears_nothing_and_is_tried_no_more(world: World) -> None:
    slots = full("slots", 1, 0, world)
    caller = world.wait("a", [(slots, 1)])
    world.pump()
    tried = caller.tries
    world.queue.leave(caller.waiter)
    assert len(world.queue) == 0
    world.release(slots)
    world.run(2 * 3600 * SECOND_US)
    assert caller.tries == tried and not caller.outcomes
    world.queue.leave(caller.waiter)
    assert len(world.queue) == 0


def test_leaving_after_the_end_changes_nothing(world: World) -> None:
    slots = full("slots", 1, 0, world)
    done = world.wait("a", [(slots, 1)])
    world.release(slots)
    other = world.wait("b", [(slots, 1)])
    world.queue.leave(done.waiter)
    assert len(world.queue) == 1
    world.release(slots)
    assert other.is_admitted


def test_those_behind_one_that_left_are_tried_at_the_next_pump(world: World) -> None:
    window = FakeGauge("tpm", 10, 100 * SECOND_US)
    window.take(5, world.now_us)
    large = world.wait("large", [(window, 10)])
    small = world.caller("small", [(window, 5)])
    world.pump()
    assert (
        world.queue.join(small.waiter, FakeRefusal(window, 5, 5, 100 * SECOND_US), world.now_us)
        is Joined.WAITS
    )
    world.pump()
    assert not small.outcomes
    world.queue.leave(large.waiter)
    world.pump()
    assert small.is_admitted


def test_a_request_that_left_is_not_kept(world: World) -> None:
    slots = full("slots", 1, 0, world)
    world.wait("first", [(slots, 1)])
    caller = world.wait("second", [(slots, 1)])
    kept, waiter = weakref.ref(caller), caller.waiter
    world.queue.leave(waiter)
    world.done.clear()
    del caller
    gc.collect()
    assert kept() is None


def test_coming_and_going_behind_a_blocked_one_leaves_nothing_behind(world: World) -> None:
    slots = full("slots", 1, 0, world)
    first = world.wait("first", [(slots, 1)])
    for _ in range(1000):
        world.queue.leave(world.wait("guest", [(slots, 1)]).waiter)
    assert len(first.waiter.share.by_age.entries) < 20
    assert len(world.queue._by_deadline.entries) < 20
    assert len(world.queue) == 1


def test_room_that_is_left_to_others_is_no_reason_to_be_late(world: World) -> None:
    """A newcomer yields to waiters, for longer than it may wait; as a waiter it finds the room."""
    window = FakeGauge("rpm", 10)
    caller = world.caller("a", [(window, 1)], max_wait_us=1000)
    assert world.queue.join(caller.waiter, FakeRefusal(window, 3, 1, 50_000), world.now_us) is Joined.WAITS
    world.pump()
    assert caller.is_admitted


def test_what_on_done_does_to_the_queue_is_in_order(world: World) -> None:
    """Each one that is admitted joins again, as a client with one more request would."""
    slots = full("slots", 1, 0, world)
    callers = [world.wait(f"{number}", [(slots, 1)]) for number in range(3)]
    again = []

    def join_again(outcome: object) -> None:
        again.append(outcome)
        caller = world.caller("again", [(slots, 1)])
        assert world.join(caller) is Joined.WAITS

    callers[0].waiter.on_done = join_again
    world.release(slots)
    assert len(again) == 1
    assert len(world.queue) == 3


# A full queue


def test_as_many_wait_as_may_and_no_more() -> None:
    world = World(max_waiting=2)
    slots = full("slots", 1, 0, world)
    first, _ = world.wait("a", [(slots, 1)]), world.wait("b", [(slots, 1)])
    assert world.join(world.caller("c", [(slots, 1)])) is Joined.FULL
    assert len(world.queue) == 2
    world.queue.leave(first.waiter)
    assert world.join(world.caller("d", [(slots, 1)])) is Joined.WAITS


def test_a_queue_for_nobody_is_full() -> None:
    world = World(max_waiting=0)
    slots = full("slots", 1, 0, world)
    assert world.join(world.caller("a", [(slots, 1)])) is Joined.FULL


def test_a_tenant_cannot_fill_the_queue_for_all() -> None:
    world = World(max_waiting=10)
    slots = full("slots", 1, 0, world)
    flood = [world.wait(f"{number}", [(slots, 1)], tenant="flood") for number in range(10)]
    places = [world.join(world.caller(f"b{number}", [(slots, 1)], tenant="bee")) for number in range(7)]
    assert places == [Joined.WAITS] * 5 + [Joined.FULL] * 2
    assert [caller.outcomes for caller in flood] == [[]] * 5 + [[None]] * 5, "the youngest make room"
    assert len(world.queue) == 10
    assert world.join(world.caller("one more", [(slots, 1)], tenant="flood")) is Joined.FULL


def test_places_go_by_weight() -> None:
    world = World(max_waiting=12)
    slots = full("slots", 1, 0, world)
    for number in range(12):
        world.wait(f"{number}", [(slots, 1)], tenant="light")
    places = [
        world.join(world.caller(f"h{number}", [(slots, 1)], tenant="heavy", weight=3)) for number in range(12)
    ]
    assert places.count(Joined.WAITS) == 9


def test_batch_callers_make_room_for_interactive_ones_and_never_the_other_way() -> None:
    world = World(max_waiting=2)
    slots = full("slots", 1, 0, world)
    batch = [world.wait(f"{number}", [(slots, 1)], is_batch=True) for number in range(2)]
    for number in range(2):
        world.wait(f"i{number}", [(slots, 1)])
    assert [caller.outcomes for caller in batch] == [[None], [None]]
    assert (world.queue.depth(False), world.queue.depth(True)) == (2, 0)
    assert world.join(world.caller("b", [(slots, 1)], is_batch=True, tenant="other")) is Joined.FULL
