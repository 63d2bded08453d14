"""What a check says to a target's breaker."""

from __future__ import annotations

import pytest

from llmgw._core.health import CLOSED, FAILED, HALF_OPEN, OK, OPEN, Board, Health, Policy

SECOND_US = 1_000_000
START_US = 1000 * SECOND_US
OPEN_US = 5 * SECOND_US


@pytest.fixture
def health() -> Health:
    return Board().health(b"target of a test", Policy(3, open_us=OPEN_US, successes=2))


def attempt(health: Health, outcome: int, now_us: int) -> None:
    assert health.begin(now_us)
    health.end(outcome, now_us, 0)


def opened(health: Health) -> int:
    """The moment at which it opened."""
    for _ in range(3):
        health.checked(is_well=False, now_us=START_US)
    assert health.state == OPEN
    return START_US


def test_failed_checks_open_it_as_failed_attempts_do(health: Health) -> None:
    health.checked(is_well=False, now_us=START_US)
    attempt(health, FAILED, START_US)
    assert health.state == CLOSED
    health.checked(is_well=False, now_us=START_US)
    assert health.state == OPEN


def test_an_attempt_that_went_well_ends_a_row_of_failed_checks(health: Health) -> None:
    for _ in range(4):
        health.checked(is_well=False, now_us=START_US)
        health.checked(is_well=False, now_us=START_US)
        attempt(health, OK, START_US)
    assert health.state == CLOSED


def test_good_checks_do_not_hide_a_row_of_failed_attempts(health: Health) -> None:
    for _ in range(3):
        attempt(health, FAILED, START_US)
        health.checked(is_well=True, now_us=START_US)
    assert health.state == OPEN


def test_a_good_check_does_not_cut_the_open_time_short(health: Health) -> None:
    at_us = opened(health)
    health.checked(is_well=True, now_us=at_us + OPEN_US - 1)
    assert (health.state, health.wait_us(at_us + OPEN_US - 1)) == (OPEN, 1)


def test_after_the_open_time_so_many_good_checks_close_it_without_a_request(health: Health) -> None:
    due_us = opened(health) + OPEN_US
    health.checked(is_well=True, now_us=due_us)
    assert health.state == HALF_OPEN
    health.checked(is_well=True, now_us=due_us)
    assert health.state == CLOSED


def test_a_failed_check_after_the_open_time_opens_it_again_for_twice_as_long(health: Health) -> None:
    due_us = opened(health) + OPEN_US
    health.checked(is_well=False, now_us=due_us)
    assert (health.state, health.wait_us(due_us)) == (OPEN, 2 * OPEN_US)


def test_a_check_that_began_before_the_opening_says_nothing(health: Health) -> None:
    due_us = opened(health) + OPEN_US
    for is_well in (True, False):
        health.checked(is_well, due_us, OPEN_US + 1)
    assert (health.state, health.wait_us(due_us)) == (OPEN, 0)


def test_a_check_is_no_attempt_in_flight(health: Health) -> None:
    health.checked(is_well=True, now_us=START_US)
    health.checked(is_well=False, now_us=START_US)
    assert health.inflight == 0
