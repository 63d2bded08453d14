"""Time that passes when nobody has anything left to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from llmgw.simulate.clock import Clock, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_a_day_of_sleep_takes_no_time(loop: VirtualLoop) -> None:
    began_s = time.monotonic()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.elapsed_us == 86_400_000_000
    assert time.monotonic() - began_s < 60


def test_sleepers_wake_in_the_order_of_their_moments_and_equal_ones_as_they_came(loop: VirtualLoop) -> None:
    woken: list[str] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append(f"{name}@{loop.elapsed_us}")

    async def all_of_them() -> None:
        await asyncio.gather(
            sleeper("late", 0.3), sleeper("first", 0.000001), sleeper("a", 0.2), sleeper("b", 0.2)
        )

    loop.run_until_complete(all_of_them())
    assert woken == ["first@1", "a@200000", "b@200000", "late@300000"]


def test_a_timer_that_is_cancelled_does_not_move_the_time(loop: VirtualLoop) -> None:
    loop.call_later(50, pytest.fail, "it was cancelled").cancel()
    loop.run_until_complete(asyncio.sleep(1))
    assert loop.time() == 1.0


def test_an_exception_that_nobody_takes_ends_the_run(loop: VirtualLoop) -> None:
    loop.call_later(1, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(asyncio.sleep(2))


def test_waiting_for_what_never_comes_is_an_error_and_no_hang(loop: VirtualLoop) -> None:
    with pytest.raises(IndexError):
        loop.run_until_complete(loop.create_future())


def test_clocks_go_on_together_and_apart_by_their_skew(loop: VirtualLoop) -> None:
    true, skewed = Clock(loop, 1_000_000), Clock(loop, 1_000_000, -250)
    loop.run_until_complete(asyncio.sleep(2))
    assert (true.now_us(), skewed.now_us(), skewed.wall_s()) == (3_000_000, 2_999_750, 2.99975)
