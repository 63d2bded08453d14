"""What a machine used of a fleet's limit without a lease: any worker may take it, once, to tell the fleet."""

from __future__ import annotations

import pytest
from limiterworld import HOUR_US, MINUTE_US, SECOND_US, gauge

from llmgw._core.limiter import CALENDAR, Hold, Limiter

WIDTH_US = MINUTE_US // 128
LEASED = 1_000


@pytest.fixture
def pair(segment):
    Limiter(segment).prepare()
    return Limiter(segment, 0), Limiter(segment, 1)


def admit(limiter, *gauges, tokens=10):
    hold = limiter.admit(gauges, (), tokens, 0, limiter.now_us())
    assert isinstance(hold, Hold)
    return hold


def lease(limiter, *gauges):
    now_us = limiter.now_us()
    for one in gauges:
        limiter.grant(one, LEASED, now_us + SECOND_US, now_us)


def taken(limiter, one):
    return limiter.take_owed(one, limiter.now_us())[:2]


def test_what_is_admitted_under_a_cap_is_owed_and_taken_once_by_whichever_worker(pair):
    tokens = gauge("tokens", LEASED, is_shared=True)
    lease(pair[0], tokens)
    admit(pair[0], tokens)
    pair[0].degrade(tokens, 500)
    admit(pair[0], tokens)
    admit(pair[1], tokens)
    pair[1].recover(tokens)
    admit(pair[1], tokens)
    assert taken(pair[1], tokens) == (20, 0)
    assert [taken(limiter, tokens) for limiter in pair] == [(0, 0)] * 2


def test_what_the_dead_used_beyond_is_owed_and_what_they_did_not_use_comes_back_with_its_moment(
    pair, segment
):
    beyond, below = gauge("tokens", LEASED, is_shared=True), gauge("tokens", LEASED, is_shared=True)
    own = gauge("tokens", LEASED)
    lease(pair[0], beyond, below)
    admit(pair[0], own, beyond).known(30, 0)
    admit(pair[0], own, below).known(4, 0)
    now_us = pair[0].now_us()
    assert len(Limiter(segment).give_back(0, now_us)) == 2
    assert [taken(pair[1], one) for one in (own, beyond)] == [(0, 0), (20, 0)]
    owed, returned, at_us = pair[1].take_owed(below, now_us)
    assert (owed, returned) == (0, 6) and now_us - 2 * WIDTH_US < at_us <= now_us and at_us % WIDTH_US == 0
    assert taken(pair[1], below) == (0, 0)


def test_of_several_that_died_the_earliest_moment_is_told(pair, segment):
    """Redis may take it out of an older bucket than the one that paid, never out of a younger one."""
    tokens = gauge("tokens", LEASED, is_shared=True)
    now_us = pair[0].now_us()
    for at_us in (now_us - 20 * SECOND_US, now_us):
        pair[0].grant(tokens, 10, at_us + SECOND_US, at_us)
        assert isinstance(pair[0].admit((tokens,), (), 10, 0, at_us), Hold)
    Limiter(segment).give_back(0, now_us)
    owed, returned, at_us = pair[1].take_owed(tokens, now_us)
    assert (owed, returned) == (0, 20) and at_us <= now_us - 20 * SECOND_US


def test_a_period_that_is_over_owes_nothing_to_the_next(pair, segment):
    tokens = gauge("tokens", LEASED, CALENDAR, is_shared=True)
    now_us = pair[0].now_us()
    tokens.period_start_us, tokens.period_end_us = now_us - HOUR_US, now_us + SECOND_US
    lease(pair[0], tokens)
    admit(pair[0], tokens).known(50, 0)
    pair[0].degrade(tokens, 500)
    admit(pair[0], tokens)
    tokens.period_start_us, tokens.period_end_us = now_us + SECOND_US, now_us + HOUR_US
    assert pair[1].read(tokens, now_us + SECOND_US)[0] == 0
    Limiter(segment).give_back(0, now_us + SECOND_US)
    assert taken(pair[1], tokens) == (0, 0)


def test_the_caps_of_a_dead_worker_are_lifted_and_no_others(pair, segment):
    first, second = (gauge("tokens", LEASED, is_shared=True) for _ in range(2))
    pair[0].degrade(first, 500)
    pair[1].degrade(second, 500)
    Limiter(segment).give_back(0, pair[1].now_us())
    assert [pair[1].is_degraded(one) for one in (first, second)] == [False, True]
