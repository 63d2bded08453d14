"""What the queue tells of its lines, so that newcomers of all workers yield to who stands there."""

import asyncio
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from queueworld import SECOND_US, FakeGauge, World

from llmgw._core.limiter import REQUESTS, SLOTS, Gauge, Hold, Limiter
from llmgw.limits.queue import REFRESH_US, Joined, Queue, Waiter
from llmgw.waiting import WaitingRoom


class Told:
    """Which (gauge, is batch) somebody waits at, as told; and when that was said last."""

    def __init__(self, world):
        self.world = world
        self.marks = {}
        world.queue.on_line = self

    def __call__(self, gauge, is_batch, is_waiting):
        if is_waiting:
            self.marks[gauge.info, is_batch] = self.world.now_us
        else:
            del self.marks[gauge.info, is_batch]


def test_a_line_is_told_of_from_its_first_waiter_to_its_last():
    world = World()
    told, window = Told(world), FakeGauge("window", 1)
    window.take(1, world.now_us)
    first, second, batch = (
        world.wait(name, [(window, 1)], is_batch=name == "batch") for name in ("first", "second", "batch")
    )
    assert set(told.marks) == {("window", False), ("window", True)}
    world.queue.leave(first.waiter)
    assert set(told.marks) == {("window", False), ("window", True)}
    world.pump(SECOND_US)
    assert second.is_admitted and set(told.marks) == {("window", True)}
    world.pump(SECOND_US)
    assert batch.is_admitted and told.marks == {}


def test_it_is_told_again_before_the_mark_lapses():
    world = World()
    told, window = Told(world), FakeGauge("window", 1, 10 * SECOND_US)
    window.take(1, world.now_us)
    world.wait("waiter", [(window, 1)])
    for _ in range(9):
        world.pump(world.queue.pump(world.now_us) - world.now_us)
        assert world.now_us - told.marks["window", False] <= REFRESH_US


def test_who_goes_to_another_line_is_told_of_there_alone():
    world = World()
    told, here, there = Told(world), FakeGauge("here", 1), FakeGauge("there", 1, 5 * SECOND_US)
    here.take(1, world.now_us)
    world.wait("waiter", [(here, 1), (there, 1)])
    there.take(1, world.now_us)
    assert set(told.marks) == {("here", False)}
    world.pump(SECOND_US)
    assert set(told.marks) == {("there", False)}


def test_who_is_too_late_or_loses_its_place_is_told_of_no_more():
    world = World(max_waiting=1)
    told, window = Told(world), FakeGauge("window", 1, 5 * SECOND_US)
    window.take(1, world.now_us)
    world.wait("batch", [(window, 1)], is_batch=True)
    world.wait("late", [(window, 1)], max_wait_us=5 * SECOND_US)
    assert set(told.marks) == {("window", False)}
    window.take(1, world.now_us)
    window.limit = 0
    world.pump(6 * SECOND_US)
    assert told.marks == {}


STEPS = st.lists(
    st.tuples(st.sampled_from("join leave pump wake".split()), st.integers(0, 7), st.booleans()), max_size=40
)


@given(STEPS)
def test_what_was_told_is_always_where_somebody_stands(steps):
    world = World(max_waiting=5)
    told = Told(world)
    gauges = [FakeGauge("a", 1, SECOND_US), FakeGauge("b", 2, 3 * SECOND_US), FakeGauge("c", 1, 0)]
    gauges[2].take(1, world.now_us)
    callers = []
    for what, number, is_batch in steps:
        if what == "join":
            caller = world.caller(
                f"{len(callers)}",
                [(gauges[number % 3], 1), (gauges[number // 3], 1)][: 1 + (number % 3 != number // 3)],
                is_batch=is_batch,
            )
            if not isinstance(caller.admit(world.now_us), str):
                world.join(caller)
                callers.append(caller)
        elif what == "leave" and callers:
            world.queue.leave(callers[number % len(callers)].waiter)
        elif what == "wake":
            gauges[2].give_back(gauges[2].used)
            world.queue.woken(world.now_us)
        world.pump(number * SECOND_US // 5)
        lines = world.queue._lines.values()
        standing = {
            (line.gauge.info, is_batch)
            for line in lines
            for is_batch in (False, True)
            if line.ring(is_batch).living
        }
        assert set(told.marks) == standing


class RealRoom:
    """A worker's waiting room over a real limiter."""

    def __init__(self):
        self.limiter = Limiter()
        metrics = SimpleNamespace(queue_depth=lambda *_: None)
        self.room = WaitingRoom(Queue(10), self.limiter, metrics, ())
        self.outcomes = []

    def admit(self, *gauges, is_waiter=False):
        return self.limiter.admit(gauges, (), 0, 0, self.limiter.now_us(), is_waiter=is_waiter)

    def wait(self, *gauges):
        now_us = self.limiter.now_us()
        waiter = Waiter(
            "acme",
            1,
            False,
            1,
            now_us + 60 * SECOND_US,
            lambda _: self.admit(*gauges, is_waiter=True),
            self.outcomes.append,
            gauges,
        )
        assert self.room.join(waiter, self.admit(*gauges), now_us) is Joined.WAITS
        return waiter


async def test_once_the_last_waiter_has_left_newcomers_have_the_room_at_once():
    world = RealRoom()
    slots = Gauge(b"s" * 16, SLOTS, 0, 2)
    holds = [world.admit(slots), world.admit(slots)]
    waiter = world.wait(slots)
    await asyncio.sleep(0)
    world.room._limiter.wake_slot = None
    world.limiter.settle(holds[0], 0, 0, world.limiter.now_us())
    assert not isinstance(world.admit(slots), Hold), "the place is the waiter's"
    world.room.leave(waiter)
    assert isinstance(world.admit(slots), Hold)
    world.room.close()


async def test_once_the_last_waiter_is_admitted_newcomers_have_the_rest_at_once():
    world = RealRoom()
    slots, requests = Gauge(b"s" * 16, SLOTS, 0, 2), Gauge(b"r" * 16, REQUESTS, SECOND_US, 100)
    holds = [world.admit(slots, requests), world.admit(slots, requests)]
    world.wait(slots, requests)
    await asyncio.sleep(0)
    for hold in holds:
        world.limiter.settle(hold, 0, 0, world.limiter.now_us())
    await asyncio.sleep(0)
    assert len(world.outcomes) == 1 and isinstance(world.outcomes[0], Hold)
    assert isinstance(world.admit(slots, requests), Hold)
    world.room.close()


async def test_a_fault_at_one_waiter_does_not_end_the_waiting_of_the_others():
    world, faults = RealRoom(), []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )
    slots, others = Gauge(b"s" * 16, SLOTS, 0, 1), Gauge(b"o" * 16, SLOTS, 0, 1)
    held, other = world.admit(slots), world.admit(others)
    world.wait(slots)
    world.wait(others)
    await asyncio.sleep(0)
    real = world.room.queue.pump

    def failing(now_us):
        world.room.queue.pump = real
        raise RuntimeError("once")

    world.room.queue.pump = failing
    for hold in (held, other):
        world.limiter.settle(hold, 0, 0, world.limiter.now_us())
    async with asyncio.timeout(5):
        while len(world.outcomes) < 2:
            await asyncio.sleep(0.01)
    assert [str(fault) for fault in faults] == ["once"]
    world.room.close()
