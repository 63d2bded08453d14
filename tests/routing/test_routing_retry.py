"""What comes after a failed attempt, and how long a target is left alone before it is asked again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.routing.causes import Cause
from llmgw.routing.retry import LEFT_MIN_S, Step, StepKind, delay_s, next_step

FALLBACK, OTHER = Step(StepKind.FALLBACK), Step(StepKind.OTHER)
OF_TARGET = [cause for cause in Cause if not cause.is_of_request]
OF_REQUEST = [Cause.CONTEXT_LENGTH, Cause.CONTENT_POLICY]


def step(cause: Cause = Cause.SERVER_ERROR, **facts: Any) -> Step:
    usual = {
        "attempts": 1,
        "max_attempts": 3,
        "has_untried": False,
        "can_repeat": True,
        "stated_s": None,
        "left_s": 100.0,
        "base_s": 1.0,
        "max_s": 30.0,
        "random01": 0.5,
    }
    return next_step(cause, **(usual | facts))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"has_untried": True}, OTHER),
        ({"has_untried": True, "can_repeat": False}, OTHER),
        ({"has_untried": True, "stated_s": 500.0}, OTHER),
        ({"has_untried": True, "attempts": 3}, FALLBACK),
        ({"has_untried": True, "attempts": 4}, FALLBACK),
        ({"has_untried": True, "max_attempts": 1}, FALLBACK),
        ({"has_untried": True, "left_s": 0.0}, FALLBACK),
        ({"has_untried": True, "left_s": -1.0}, FALLBACK),
        ({}, Step(StepKind.SAME, 0.5)),
        ({"attempts": 2}, Step(StepKind.SAME, 1.0)),
        ({"attempts": 3}, FALLBACK),
        ({"can_repeat": False}, FALLBACK),
        ({"random01": 0.0}, Step(StepKind.SAME, 0.0)),
        ({"stated_s": 0.0}, Step(StepKind.SAME, 0.5)),
        ({"stated_s": 0.2}, Step(StepKind.SAME, 0.5)),
        ({"stated_s": 10.0}, Step(StepKind.SAME, 10.5)),
        ({"stated_s": 30.0, "random01": 1.0}, Step(StepKind.SAME, 30.0)),
        ({"stated_s": 31.0}, FALLBACK),
        ({"stated_s": 10.0, "left_s": 10.0}, FALLBACK),
        ({"left_s": 0.5 + LEFT_MIN_S}, Step(StepKind.SAME, 0.5)),
        ({"left_s": 0.5}, FALLBACK),
        ({"left_s": float("inf")}, Step(StepKind.SAME, 0.5)),
    ],
)
@pytest.mark.parametrize("cause", OF_TARGET)
def test_the_table_of_steps(cause: Cause, facts: dict[str, Any], expected: Step) -> None:
    assert (
        step(cause, **facts) == pytest.approx(expected)
        if expected.after_s
        else step(cause, **facts) == expected
    )


@pytest.mark.parametrize("cause", OF_REQUEST)
def test_what_lies_with_the_request_leaves_the_model_at_once(cause: Cause) -> None:
    assert step(cause, has_untried=True, attempts=1) == FALLBACK


def test_delays_double_up_to_the_maximum() -> None:
    assert [delay_s(n, 1.0, 30.0, 1.0, None) for n in range(8)] == [1, 1, 2, 4, 8, 16, 30, 30]
    assert delay_s(10**9, 1.0, 30.0, 1.0, None) == 30


def test_callers_that_were_told_the_same_moment_do_not_come_back_together() -> None:
    delays = {delay_s(1, 1.0, 30.0, n / 100, 10.0) for n in range(100)}
    assert len(delays) == 100
    assert min(delays) >= 10
    assert max(delays) <= 11


RANDOM = st.floats(0, 1, exclude_max=True)
WAIT = st.floats(0, 1000)


@given(
    cause=st.sampled_from(list(Cause)),
    attempts=st.integers(1, 100),
    max_attempts=st.integers(1, 10),
    has_untried=st.booleans(),
    can_repeat=st.booleans(),
    stated_s=st.none() | st.floats(0, 600),
    left_s=st.floats(-10, 1000),
    base_s=WAIT,
    max_s=WAIT,
    random01=RANDOM,
)
def test_a_delay_is_inside_the_deadline_and_not_below_what_was_stated(cause: Cause, **facts: Any) -> None:
    kind, after_s = next_step(cause, **facts)
    if kind is not StepKind.SAME:
        assert after_s == 0
        return
    assert facts["can_repeat"] and not facts["has_untried"] and facts["attempts"] < facts["max_attempts"]
    assert (facts["stated_s"] or 0) <= after_s <= facts["max_s"]
    assert after_s < facts["left_s"]
