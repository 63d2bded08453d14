"""The breaker: one table, and what leads along it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgw._core.health import (
    CLOSED,
    DUE,
    EVENTS,
    FAILED,
    FAILURE,
    GO,
    HALF_OPEN,
    HEAL,
    IGNORED,
    IS_OPEN,
    OK,
    OPEN,
    PROBE,
    STATES,
    SUCCESS,
    TRANSITIONS,
    TRIP,
    Board,
    Health,
    Policy,
)

SECOND_US = 1_000_000
START_US = 1_000 * SECOND_US
KEY = b"target of a test"


def a_health(**policy) -> Health:
    return Board().health(KEY, Policy(**policy))


def attempt(health: Health, outcome: int, now_us: int, duration_us: int = 0) -> bool:
    """Begins and ends; False: it was not let through."""
    if not health.begin(now_us - duration_us):
        return False
    health.end(outcome, now_us, duration_us)
    return True


def an_open(**policy) -> Health:
    """Opened at START_US."""
    health = a_health(**policy)
    for _ in range(5):
        attempt(health, FAILED, START_US)
    assert health.state == OPEN
    return health


def a_half_open(**policy) -> tuple[Health, int]:
    """Its first probe is out: the moment."""
    health = an_open(**policy)
    now_us = START_US + 5 * SECOND_US
    assert health.begin(now_us) and health.state == HALF_OPEN
    return health, now_us


# -- the table


def test_the_table_has_each_state_and_event_and_names_for_them():
    assert set(TRANSITIONS) == {
        (state, event) for state in range(len(STATES)) for event in range(len(EVENTS))
    }
    assert set(TRANSITIONS.values()) == {CLOSED, OPEN, HALF_OPEN}
    assert STATES[HALF_OPEN] == "half_open" and EVENTS[DUE] == "due"


@pytest.mark.parametrize(("edge", "after"), TRANSITIONS.items(), ids=lambda value: str(value))
def test_an_edge_of_the_table_is_an_edge_of_the_figure(edge, after):
    figure = {
        (CLOSED, TRIP): OPEN,
        (OPEN, DUE): HALF_OPEN,
        (HALF_OPEN, FAILURE): OPEN,
        (HALF_OPEN, TRIP): OPEN,
        (HALF_OPEN, HEAL): CLOSED,
    }
    assert after == figure.get(edge, edge[0])


# How each event comes about. `trip`: the threshold is 1 there; `heal`: one success is enough.
HAPPENS = {
    FAILURE: ({}, FAILED),
    TRIP: ({"failures": 1}, FAILED),
    SUCCESS: ({}, OK),
    HEAL: ({"successes": 1}, OK),
}


@pytest.mark.parametrize("event", HAPPENS)
@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])
def test_an_event_in_a_state_leads_where_the_table_says(state, event):
    board = Board()
    health, now_us = board.health(KEY, Policy()), START_US
    if state != CLOSED:
        for _ in range(5):
            attempt(health, FAILED, now_us)
    if state == HALF_OPEN:
        now_us += 5 * SECOND_US
        assert health.begin(now_us)
    policy, outcome = HAPPENS[event]
    same = board.health(KEY, Policy(**policy))
    assert same.state == state
    same.end(outcome, now_us, 0)
    assert same.state == health.state == TRANSITIONS[state, event]


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])
def test_whoever_asks_when_the_time_is_over_is_the_event_due(state):
    health = a_half_open()[0] if state == HALF_OPEN else an_open() if state == OPEN else a_health()
    assert health.begin(START_US + 6 * SECOND_US)
    assert health.state == TRANSITIONS[state, DUE]


# -- opening


def test_it_opens_on_so_many_failures_in_a_row():
    health = a_health(failures=3)
    for outcome in (FAILED, FAILED, OK, FAILED, FAILED):
        attempt(health, outcome, START_US)
    assert health.state == CLOSED
    attempt(health, FAILED, START_US)
    assert health.state == OPEN


def test_streams_that_began_before_it_failed_do_not_hide_that_it_fails():
    """They end well for as long as they last, one between each two failures."""
    health = a_health(failures=3)
    for number in range(3):
        assert health.state == CLOSED
        attempt(health, FAILED, START_US + number)
        health.end(OK, START_US + number, 30 * SECOND_US)
    assert health.state == OPEN


def test_a_success_ends_a_row_of_failures_that_most_attempts_were_spared():
    health = a_health(failures=3)
    attempt(health, FAILED, START_US)
    for _ in range(4):
        health.begin(START_US)
    attempt(health, FAILED, START_US)
    health.end(OK, START_US, 30 * SECOND_US)
    attempt(health, FAILED, START_US)
    attempt(health, FAILED, START_US)
    assert health.state == CLOSED


def test_a_success_that_began_within_a_row_of_failures_ends_it():
    health = a_health(failures=3)
    for moment_us in (START_US, START_US + 2):
        attempt(health, FAILED, moment_us)
    attempt(health, OK, START_US + 4, 3)
    attempt(health, FAILED, START_US + 5)
    assert health.state == CLOSED and health.snapshot(START_US + 5)["failures"] == 1


def test_failures_among_attempts_that_are_not_over_yet_are_no_row():
    """Of streams that last, nothing but failures has ended."""
    health = a_health(failures=3, min_requests=10)
    for number in range(40):
        attempt(health, FAILED if number % 4 == 0 else IGNORED, START_US + number * 10)
        health.begin(START_US + number * 10)
    assert health.state == CLOSED
    for number in range(3):
        attempt(health, FAILED, START_US + 400 + number)
    assert health.state == OPEN


def test_answers_that_always_break_off_open_it():
    health = a_health(failures=3)
    for moment_us in range(START_US, START_US + 3):
        health.begin(moment_us)
        health.first_byte(1, moment_us + 1)
        health.end(FAILED, moment_us + 1, 1)
    assert health.state == OPEN


def test_what_is_ignored_neither_breaks_a_row_nor_adds_to_it():
    health = a_health(failures=3)
    for outcome in (FAILED, IGNORED, FAILED, IGNORED, 7, -1):
        attempt(health, outcome, START_US)
    assert health.state == CLOSED
    attempt(health, FAILED, START_US)
    assert health.state == OPEN


def failing_half(health, count, now_us):
    for number in range(count):
        attempt(health, FAILED if number % 2 else OK, now_us)


def test_it_opens_on_the_share_of_failures_once_enough_have_ended():
    health = a_health()
    failing_half(health, 18, START_US)
    attempt(health, OK, START_US)
    assert health.state == CLOSED
    attempt(health, FAILED, START_US)
    assert health.state == OPEN, "10 of 20"


def test_a_share_below_the_threshold_does_not_open_it():
    health = a_health()
    attempt(health, OK, START_US)
    failing_half(health, 200, START_US)
    assert health.state == CLOSED, "100 of 201"


@pytest.mark.parametrize(("later_us", "state"), [(9_999_999, OPEN), (10 * SECOND_US, CLOSED)])
def test_what_has_left_the_window_does_not_count(later_us, state):
    health = a_health()
    failing_half(health, 19, START_US)
    attempt(health, FAILED, START_US + later_us)
    assert health.state == state


def test_another_window_begins_empty():
    board = Board()
    failing_half(board.health(KEY, Policy()), 19, START_US)
    other = board.health(KEY, Policy(window_us=60 * SECOND_US))
    attempt(other, FAILED, START_US)
    assert other.state == CLOSED and other.snapshot(START_US)["ended"] == 1


def test_slow_answers_are_failures_for_the_share_and_not_for_the_row():
    health = a_health(slow_us=2 * SECOND_US, failures=2)
    for _ in range(19):
        attempt(health, OK, START_US, 2 * SECOND_US + 1)
    assert health.state == CLOSED and health.snapshot(START_US)["failed"] == 19
    attempt(health, OK, START_US, 2 * SECOND_US)
    assert health.state == CLOSED, "a good one never opens it"
    attempt(health, OK, START_US, 3 * SECOND_US)
    assert health.state == OPEN


def test_without_a_limit_no_answer_is_slow():
    health = a_health(min_requests=1)
    attempt(health, OK, START_US, 10**15)
    assert health.state == CLOSED


def test_one_that_does_not_break_never_opens_and_still_counts():
    health = a_health(is_breaking=False, failures=1, min_requests=1)
    for _ in range(50):
        assert attempt(health, FAILED, START_US)
    assert health.state == CLOSED and health.verdict(START_US) == GO
    assert health.snapshot(START_US)["failed"] == 50


def test_a_policy_without_a_breaker_lets_through_what_another_had_opened():
    board = Board()
    for _ in range(5):
        attempt(board.health(KEY, Policy()), FAILED, START_US)
    free = board.health(KEY, Policy(is_breaking=False))
    assert free.state == CLOSED and free.verdict(START_US) == GO and free.wait_us(START_US) == 0
    assert free.begin(START_US)


# -- open


def test_while_open_nothing_goes_through_and_the_wait_is_exact():
    health = an_open()
    last_us = START_US + 5 * SECOND_US - 1
    for now_us in (START_US, START_US + 1, last_us):
        assert health.verdict(now_us) == IS_OPEN
        assert not health.begin(now_us)
        assert health.wait_us(now_us) == START_US + 5 * SECOND_US - now_us
    assert health.state == OPEN and health.inflight == 0
    assert health.verdict(last_us + 1) == PROBE and health.wait_us(last_us + 1) == 0


def test_the_open_time_doubles_up_to_its_maximum_and_is_the_first_again_after_closing():
    health, now_us = a_health(max_open_us=30 * SECOND_US), START_US
    for _ in range(5):
        attempt(health, FAILED, now_us)
    for open_s in (5, 10, 20, 30, 30):
        assert health.wait_us(now_us) == open_s * SECOND_US
        now_us += open_s * SECOND_US
        assert attempt(health, FAILED, now_us)
        assert health.state == OPEN
    now_us += 30 * SECOND_US
    for _ in range(2):
        assert attempt(health, OK, now_us)
        now_us += SECOND_US
    assert health.state == CLOSED
    for _ in range(5):
        attempt(health, FAILED, now_us)
    assert health.wait_us(now_us) == 5 * SECOND_US


def test_a_maximum_below_the_open_time_is_the_open_time():
    assert an_open(max_open_us=1).wait_us(START_US) == 5 * SECOND_US


# -- half open


def test_one_probe_an_interval_goes_through():
    health, now_us = a_half_open()
    for later_us in (0, 1, SECOND_US - 1):
        assert health.verdict(now_us + later_us) == IS_OPEN
        assert health.wait_us(now_us + later_us) == SECOND_US - later_us
        assert not health.begin(now_us + later_us)
    assert health.verdict(now_us + SECOND_US) == PROBE
    assert health.begin(now_us + SECOND_US), "the first one never ended, and is followed by another"
    assert not health.begin(now_us + SECOND_US)
    assert health.inflight == 2


def test_so_many_successes_close_it_and_it_starts_afresh():
    health, now_us = a_half_open(successes=2)
    health.end(OK, now_us, 0)
    assert health.state == HALF_OPEN
    assert attempt(health, OK, now_us + SECOND_US)
    assert health.state == CLOSED and health.verdict(now_us + SECOND_US) == GO
    found = health.snapshot(now_us + SECOND_US)
    assert (found["ended"], found["failed"], found["failures"]) == (0, 0, 0)


@pytest.mark.parametrize("slow_us", [0, 1])
def test_a_failed_or_slow_probe_opens_it_for_twice_the_time(slow_us):
    health, now_us = a_half_open(slow_us=slow_us)
    health.end(OK if slow_us else FAILED, now_us + 2, 2)
    assert health.state == OPEN and health.wait_us(now_us + 2) == 10 * SECOND_US


def test_an_ignored_probe_leaves_the_next_one_to_its_time():
    health, now_us = a_half_open()
    health.end(IGNORED, now_us + 10, 10)
    assert health.state == HALF_OPEN and not health.begin(now_us + 10)
    assert health.begin(now_us + SECOND_US)


# -- what comes late


def test_a_success_from_before_the_opening_does_not_help_to_close_it():
    health, now_us = a_half_open(successes=1)
    health.end(OK, now_us, 6 * SECOND_US)
    assert health.state == HALF_OPEN
    health.end(OK, now_us, 0)
    assert health.state == CLOSED


def test_a_failure_from_before_the_opening_says_nothing_to_who_has_closed_or_is_half_open():
    health, now_us = a_half_open(successes=1, failures=1, min_requests=1)
    health.end(FAILED, now_us, 6 * SECOND_US)
    assert health.state == HALF_OPEN
    health.end(OK, now_us, 0)
    for _ in range(30):
        health.end(FAILED, now_us + 1, 6 * SECOND_US)
    assert health.state == CLOSED and health.snapshot(now_us + 1)["ended"] == 0


def test_a_probe_that_fails_after_others_have_closed_it_counts_as_any_failure():
    health, now_us = a_half_open(failures=2)
    for _ in range(2):
        now_us += SECOND_US
        assert attempt(health, OK, now_us)
    assert health.state == CLOSED
    health.end(FAILED, now_us, 2 * SECOND_US)
    assert health.state == CLOSED and health.snapshot(now_us)["failures"] == 1


def test_a_success_of_the_probe_before_the_last_opening_is_stale_too():
    health, now_us = a_half_open(successes=1)
    assert health.begin(now_us + SECOND_US)
    health.end(FAILED, now_us + SECOND_US, 0)
    later_us = now_us + SECOND_US + 10 * SECOND_US
    assert health.begin(later_us) and health.state == HALF_OPEN
    health.end(OK, later_us, later_us - now_us)
    assert health.state == HALF_OPEN


def test_where_nobody_says_how_long_it_took_the_latest_beginning_is_assumed():
    board = Board()
    health, other = board.health(KEY, Policy(successes=1)), board.health(KEY, Policy(successes=1))
    assert other.begin(START_US - 1)
    for _ in range(5):
        attempt(health, FAILED, START_US)
    now_us = START_US + 5 * SECOND_US
    assert health.begin(now_us)
    other.end(OK, now_us)
    assert health.state == HALF_OPEN
    health.end(OK, now_us)
    assert health.state == CLOSED


def test_failures_that_arrive_while_it_is_open_do_not_prolong_it():
    health = an_open()
    for _ in range(9):
        health.end(FAILED, START_US + SECOND_US, SECOND_US // 2)
    assert health.wait_us(START_US + SECOND_US) == 4 * SECOND_US


@pytest.mark.parametrize(
    "policy",
    [
        {"failures": 0},
        {"failure_rate": 0.0},
        {"failure_rate": float("nan")},
        {"min_requests": 0},
        {"window_us": 0},
        {"slow_us": -1},
        {"open_us": 0},
        {"successes": 0},
        {"probe_every_us": -5},
    ],
)
def test_what_is_no_policy_is_an_error(policy):
    with pytest.raises(ValueError, match="breaker"):
        Policy(**policy)


def test_times_without_bound_are_bounded():
    health = an_open(open_us=2**63 - 1, max_open_us=2**63 - 1, window_us=2**63 - 1, probe_every_us=2**63 - 1)
    assert health.wait_us(START_US) == 86_400 * SECOND_US


def test_the_table_in_the_docs_is_the_breakers():
    lines = (Path(__file__).parents[2] / "docs" / "routing.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| in state |"))
    events = [cell.strip().strip("`") for cell in lines[start].split("|")[2:-1]]
    assert events == list(EVENTS)
    for line in lines[start + 2 : start + 2 + len(STATES)]:
        state, *after = (cell.strip().replace(" ", "_") for cell in line.split("|")[1:-1])
        found = [STATES[TRANSITIONS[STATES.index(state), event]] for event in range(len(EVENTS))]
        assert after == found, state
