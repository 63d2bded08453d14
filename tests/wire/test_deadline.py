"""The wheel: a deadline fires once, never early, at most two ticks late, whatever was moved meanwhile."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wirefakes import FakeTransport

from llmgw._wire.deadline import TICK_SECONDS, Wheel
from llmgw._wire.upstream import Connection

NOW_S = 1_000.0
LATE_S = 2 * TICK_SECONDS


class Rested(Connection):
    """A connection at rest: the wheel's deadline closes it, which its transport notes."""

    transport: FakeTransport

    @classmethod
    def at(cls, wheel: Wheel, deadline_s: float) -> Rested:
        connection = cls(None, wheel, None)  # type: ignore[arg-type]
        FakeTransport(connection)
        connection.rest_until(deadline_s)
        return connection

    @property
    def is_over(self) -> bool:
        return self.transport.is_aborted


@pytest.mark.parametrize(
    "ahead_s", [0.0, 0.001, 0.05, 0.051, 0.5, 10.0, 51.15, 51.2, 51.25, 60.0, 300.0, 10_000.0]
)
def test_a_deadline_fires_when_it_has_passed_and_not_before(ahead_s: float) -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + ahead_s)
    step_s = max(TICK_SECONDS, ahead_s / 50)
    now_s = NOW_S
    while now_s + step_s < NOW_S + ahead_s:
        now_s += step_s
        wheel.turn(now_s)
        assert not rested.is_over
    wheel.turn(NOW_S + ahead_s + LATE_S)
    assert rested.is_over


def test_a_deadline_that_passed_before_it_was_set_fires_at_the_next_tick() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S - 100.0)
    wheel.turn(NOW_S + LATE_S)
    assert rested.is_over


def test_a_deadline_that_was_moved_on_does_not_fire_at_its_old_place() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + 1.0)
    for second in range(1, 200):
        rested.rest_until(NOW_S + second + 1.0)
        wheel.turn(NOW_S + second)
        assert not rested.is_over
    wheel.turn(NOW_S + 200.0 + LATE_S)
    assert rested.is_over


def test_a_deadline_that_was_moved_forward_fires_at_its_new_place() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + 300.0)
    rested.rest_until(NOW_S + 0.3)
    wheel.turn(NOW_S + 0.25)
    assert not rested.is_over
    wheel.turn(NOW_S + 0.3 + LATE_S)
    assert rested.is_over


def test_what_has_fired_does_not_fire_again() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + 0.1)
    for tick in range(3_000):
        wheel.turn(NOW_S + tick * TICK_SECONDS)
    assert rested.transport.aborts == 1


def test_what_was_forgotten_does_not_fire() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + 0.1)
    rested.close()
    wheel.turn(NOW_S + 100.0)
    assert rested.transport.aborts == 1


def test_a_wheel_that_stood_still_fires_all_that_is_due_and_nothing_else() -> None:
    wheel = Wheel(NOW_S)
    due = [Rested.at(wheel, NOW_S + second) for second in range(1, 400)]
    later = [Rested.at(wheel, NOW_S + second) for second in range(501, 800)]
    wheel.turn(NOW_S + 500.0)
    assert all(rested.is_over for rested in due)
    assert not any(rested.is_over for rested in later)
    wheel.turn(NOW_S + 900.0)
    assert all(rested.is_over for rested in later)


def test_what_ends_another_one_of_the_same_tick_ends_each_once() -> None:
    wheel = Wheel(NOW_S)
    all_rested: list[Rested] = []

    class Chain(FakeTransport):
        def abort(self) -> None:
            super().abort()
            for rested in all_rested:
                rested.close()

    for _ in range(50):
        connection = Rested(None, wheel, None)  # type: ignore[arg-type]
        Chain(connection)
        connection.rest_until(NOW_S + 1.0)
        all_rested.append(connection)
    wheel.turn(NOW_S + 1.0 + LATE_S)
    assert [rested.transport.aborts for rested in all_rested] == [1] * 50


def test_time_that_stands_still_or_goes_back_fires_nothing() -> None:
    wheel = Wheel(NOW_S)
    rested = Rested.at(wheel, NOW_S + 1.0)
    for now_s in (NOW_S, NOW_S, NOW_S - 500.0, 0.0):
        wheel.turn(now_s)
    assert not rested.is_over
    wheel.turn(NOW_S + 1.0 + LATE_S)
    assert rested.is_over


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 120.0), st.integers(0, 7), st.sampled_from(["set", "forget", "turn"])),
        max_size=60,
    )
)
def test_whatever_is_moved_each_fires_once_in_its_time(steps: list[tuple[float, int, str]]) -> None:
    wheel = Wheel(NOW_S)
    now_s = NOW_S
    items: list[Rested] = [Rested.at(wheel, NOW_S + 1e6) for _ in range(8)]
    due = dict.fromkeys(range(8), NOW_S + 1e6)
    for seconds, index, action in steps:
        if action == "set" and not items[index].is_over:
            due[index] = now_s + seconds
            items[index].rest_until(due[index])
        elif action == "forget" and not items[index].is_over:
            items[index].close()
            due.pop(index)
        elif action == "turn":
            now_s += seconds
            wheel.turn(now_s)
            for number, deadline_s in list(due.items()):
                if deadline_s + LATE_S <= now_s:
                    assert items[number].is_over
                if items[number].is_over:
                    assert deadline_s <= now_s
                    due.pop(number)
    assert all(item.transport.aborts <= 1 for item in items)


def test_the_date_is_that_of_the_clock(monkeypatch: Any) -> None:
    wheel = Wheel()
    wheel.turn()
    shown = parsedate_to_datetime(wheel.date.decode()).timestamp()
    assert abs(shown - time.time()) < 5.0
    assert abs(wheel.now_s - time.monotonic()) < 5.0
