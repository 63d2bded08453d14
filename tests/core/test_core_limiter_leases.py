"""Leases: what a machine may admit of a fleet's limit without asking."""

import pytest
from limiterworld import HOUR_US, MINUTE_US, SECOND_US, gauge

from llmgw._core.limiter import CALENDAR, UNKNOWN, USD, Gauge, Hold, Limiter, Refusal
from llmgw._core.segment import Segment

NOW_US = 1_000 * MINUTE_US
SOON_US = NOW_US + SECOND_US


@pytest.fixture
def limiter():
    return Limiter()


@pytest.fixture
def tokens():
    return gauge("tokens", 1_000, is_shared=True)


@pytest.fixture
def slots():
    return gauge("slots", 10, is_shared=True)


def admit(limiter, *gauges, tokens=10, now_us=NOW_US, **how):
    return limiter.admit(gauges, (), tokens, 0, now_us, **how)


def test_without_a_lease_the_answer_names_what_is_lacking_and_nothing_is_taken(limiter, tokens, slots):
    own = gauge("requests", 5)
    refusal = admit(limiter, own, tokens, slots)
    assert isinstance(refusal, Refusal) and refusal.lacking == (tokens, slots)
    assert (refusal.gauge, refusal.wait_us, refusal.requested) == (tokens, UNKNOWN, 10)
    assert [limiter.read(each, NOW_US) for each in (own, tokens, slots)] == [(0, 0)] * 3


def test_what_another_limit_refuses_lacks_no_lease(limiter, tokens):
    own = gauge("requests", 0)
    refusal = admit(limiter, own, tokens)
    assert (refusal.gauge, refusal.lacking) == (own, None)


def test_admissions_use_a_lease_up(limiter, tokens):
    limiter.grant(tokens, 25, SOON_US, NOW_US)
    assert [isinstance(admit(limiter, tokens), Hold) for _ in range(3)] == [True, True, False]
    assert (limiter.lease_left(tokens, NOW_US), limiter.leased(tokens)) == (5, 20)
    assert admit(limiter, tokens).lacking == (tokens,)
    limiter.grant(tokens, 5, SOON_US, NOW_US)
    assert isinstance(admit(limiter, tokens), Hold), "from two leases together"
    assert (limiter.lease_left(tokens, NOW_US), limiter.leased(tokens)) == (0, 30)


def test_a_lease_never_makes_more_of_the_limit(limiter):
    one = gauge("requests", 2, is_shared=True)
    limiter.grant(one, 100, SOON_US, NOW_US)
    answers = [admit(limiter, one) for _ in range(3)]
    assert isinstance(answers[1], Hold) and answers[2].lacking is None and answers[2].wait_us > 0


def test_an_ended_lease_admits_nothing_and_what_it_left_over_is_returned_once(limiter, tokens):
    limiter.grant(tokens, 30, SOON_US, NOW_US)
    admit(limiter, tokens)
    assert limiter.take_unused(tokens, SOON_US - 1) == 0 and limiter.lease_left(tokens, SOON_US - 1) == 20
    assert limiter.lease_left(tokens, SOON_US) == 0
    assert admit(limiter, tokens, now_us=SOON_US).lacking == (tokens,)
    assert [limiter.take_unused(tokens, SOON_US) for _ in range(2)] == [20, 0]


def test_of_two_leases_the_one_that_ends_first_is_used_first(limiter, tokens):
    for first_us, second_us in ((1, 2), (2, 1)):
        start_us = NOW_US + first_us * 10 * MINUTE_US
        limiter.grant(tokens, 30, start_us + first_us * SECOND_US, start_us)
        limiter.grant(tokens, 30, start_us + second_us * SECOND_US, start_us)
        admit(limiter, tokens, tokens=40, now_us=start_us)
        middle_us = start_us + SECOND_US
        assert (limiter.lease_left(tokens, middle_us), limiter.take_unused(tokens, middle_us)) == (20, 0)
        end_us = start_us + 2 * SECOND_US
        assert (limiter.take_unused(tokens, end_us), limiter.lease_left(tokens, end_us)) == (20, 0)


def test_a_third_lease_makes_none_of_the_others_longer(limiter, tokens):
    for amount, seconds in ((10, 1), (20, 2), (40, 9)):
        limiter.grant(tokens, amount, NOW_US + seconds * SECOND_US, NOW_US)
    assert limiter.lease_left(tokens, NOW_US) == 70
    assert limiter.lease_left(tokens, NOW_US + SECOND_US) == 60
    assert limiter.lease_left(tokens, NOW_US + 2 * SECOND_US) == 0
    assert limiter.take_unused(tokens, NOW_US + 2 * SECOND_US) == 70


def test_a_grant_that_comes_too_late_is_unused(limiter, tokens):
    limiter.grant(tokens, 10, NOW_US, NOW_US)
    assert limiter.lease_left(tokens, NOW_US) == 0 and limiter.take_unused(tokens, NOW_US) == 10


def test_a_released_lease_is_taken_out_of_what_is_left_and_no_more(limiter, tokens):
    limiter.grant(tokens, 10, SOON_US, NOW_US)
    limiter.grant(tokens, 20, SOON_US + 1, NOW_US)
    assert [limiter.release_lease(tokens, amount, NOW_US) for amount in (15, 0, 100, 5)] == [15, 0, 15, 0]
    assert limiter.lease_left(tokens, NOW_US) == 0 and limiter.take_unused(tokens, SOON_US + 1) == 0


def test_where_the_fleets_limit_is_reached_the_wait_is_known_and_no_lease_is_lacking(limiter, tokens):
    limiter.deny(tokens, SOON_US, 995)
    refusal = admit(limiter, tokens)
    assert (refusal.lacking, refusal.gauge, refusal.wait_us, refusal.used) == (None, tokens, SECOND_US, 995)
    assert admit(limiter, tokens, now_us=SOON_US).lacking == (tokens,)


def test_a_grant_ends_a_denial(limiter, tokens):
    limiter.deny(tokens, SOON_US, 995)
    limiter.grant(tokens, 10, SOON_US, NOW_US)
    assert isinstance(admit(limiter, tokens), Hold)
    assert admit(limiter, tokens).lacking == (tokens,)


def test_a_denial_takes_no_lease_that_is_there(limiter, tokens):
    limiter.grant(tokens, 10, SOON_US, NOW_US)
    limiter.deny(tokens, SOON_US, 995)
    assert isinstance(admit(limiter, tokens), Hold)


def test_while_the_store_is_away_the_machines_bound_holds_and_no_lease_is_used(limiter, tokens):
    limiter.grant(tokens, 1_000, SOON_US, NOW_US)
    limiter.degrade(tokens, 25)
    assert limiter.is_degraded(tokens)
    answers = [admit(limiter, tokens) for _ in range(3)]
    assert [isinstance(answer, Hold) for answer in answers] == [True, True, False]
    assert answers[2].lacking is None and answers[2].wait_us > 0
    assert (limiter.lease_left(tokens, NOW_US), limiter.leased(tokens)) == (1_000, 20)
    limiter.recover(tokens)
    assert not limiter.is_degraded(tokens)
    assert isinstance(admit(limiter, tokens), Hold) and limiter.leased(tokens) == 30


def test_a_bound_of_nothing_admits_nothing_and_one_above_the_limit_not_more(limiter):
    for cap, admitted in ((0, 0), (-5, 0), (99, 2)):
        one = gauge("requests", 2, is_shared=True)
        limiter.degrade(one, cap)
        assert sum(isinstance(admit(limiter, one), Hold) for _ in range(4)) == admitted


def test_what_the_bound_is_too_small_for_waits_a_known_while_at_a_time(limiter, tokens):
    limiter.degrade(tokens, 5)
    refusal = admit(limiter, tokens)
    assert isinstance(refusal, Refusal) and 0 < refusal.wait_us <= MINUTE_US // 64


def test_a_slot_goes_back_to_the_lease_it_is_of(limiter, slots):
    limiter.grant(slots, 2, 0, NOW_US)
    holds = [admit(limiter, slots) for _ in range(3)]
    assert holds[2].lacking == (slots,)
    late_us = NOW_US + 100 * MINUTE_US
    limiter.settle(holds[0], 0, 0, late_us)
    assert (limiter.lease_left(slots, late_us), limiter.read(slots, late_us)) == (1, (1, 1))
    assert isinstance(admit(limiter, slots, now_us=late_us), Hold), "a lease of slots does not end by itself"
    assert limiter.release_lease(slots, 9, late_us) == 0


def test_a_shadow_needs_no_lease(limiter):
    shadow = gauge("tokens", 5, is_shared=True, is_shadow=True)
    assert isinstance(admit(limiter, shadow), Hold) and limiter.shadow_refusals(shadow) == 1


def test_what_settling_changes_of_shared_limits_is_told_once_with_its_moment(limiter, tokens, slots):
    own, requests = gauge("tokens", 1_000), gauge("requests", 9, is_shared=True)
    for one in (tokens, requests, slots):
        limiter.grant(one, 500, SOON_US, NOW_US)
    holds = [admit(limiter, own, tokens, requests, slots) for _ in range(4)]
    limiter.settle(holds[0], 10, 0, SOON_US)
    limiter.settle(holds[1], 4, 0, SOON_US)
    limiter.settle(holds[2], 13, 0, SOON_US, 0)
    assert limiter.switch(holds[3], (), SOON_US, 99) is None
    told = limiter.take_settled()
    assert [(one, delta) for one, _, delta in told] == [(tokens, -6), (tokens, 3), (requests, -1)]
    width_us = MINUTE_US // 128
    assert {NOW_US - at_us < width_us and at_us % width_us == 0 for _, at_us, _ in told} == {True}
    assert limiter.take_settled() == []


def test_a_switch_tells_the_targets_difference(limiter, tokens):
    limiter.grant(tokens, 100, SOON_US, NOW_US)
    hold = limiter.admit((), (tokens,), 50, 0, NOW_US)
    assert limiter.switch(hold, (), NOW_US, 8) is None
    limiter.settle(hold, 9, 0, NOW_US)
    assert [(one, delta) for one, _, delta in limiter.take_settled()] == [(tokens, -42)]


def test_workers_of_a_machine_have_its_leases_in_common(path, tokens):
    segment = Segment(path, 2)
    Limiter(segment).prepare()
    one, other = Limiter(segment, 0), Limiter(segment, 1)
    now_us = one.now_us()
    one.grant(tokens, 20, now_us + SECOND_US, now_us)
    assert isinstance(admit(other, tokens, now_us=now_us), Hold)
    assert isinstance(admit(one, tokens, now_us=now_us), Hold)
    assert admit(other, tokens, now_us=now_us).lacking == (tokens,)


def test_what_was_reserved_at_a_mark_and_given_back_since_hides_nothing_that_was_used():
    limiter, start_us = Limiter(), 1_000 * HOUR_US
    day = Gauge(b"d" * 16, USD, CALENDAR, 10_000)
    day.period_start_us, day.period_end_us = start_us, start_us + 24 * HOUR_US
    at_us = start_us + HOUR_US
    holds = [limiter.admit((day,), (), 0, 100, at_us) for _ in range(50)]
    limiter.hear(day, 1, at_us, at_us)
    for hold in holds:
        limiter.settle(hold, 0, 10, at_us)
    later_us = at_us + 4 * HOUR_US
    limiter.settle(limiter.admit((day,), (), 0, 3_000, later_us), 0, 3_000, later_us)
    assert limiter.used_since(day, at_us + HOUR_US, later_us) >= 3_000


def test_what_was_used_since_a_moment_is_told_to_the_bucket_or_two_parts_of_a_period():
    limiter, start_us = Limiter(), 1_000 * HOUR_US
    hour, month = Gauge(b"h" * 16, USD, HOUR_US, 1000), Gauge(b"m" * 16, USD, CALENDAR, 1000)
    month.period_start_us, month.period_end_us = start_us, start_us + 129 * 24 * HOUR_US
    for at_us, amount in ((10 * 60, 100), (30 * 60, 20), (50 * 60, 3)):
        limiter.charge(hour, start_us + at_us * 1_000_000, amount, start_us + HOUR_US)
    now_us = start_us + HOUR_US
    assert [limiter.used_since(hour, at_us, now_us) for at_us in (0, start_us)] == [123, 123]
    assert limiter.used_since(hour, start_us + 20 * MINUTE_US, now_us) == 23
    assert limiter.used_since(hour, start_us + 50 * MINUTE_US, now_us) == 3
    assert limiter.used_since(hour, now_us, now_us) == 0
    for day in range(10):
        at_us = start_us + day * 24 * HOUR_US + HOUR_US
        limiter.hear(month, 1, at_us, at_us)
        limiter.charge(month, at_us, 10, at_us)
    assert limiter.used_since(month, 0, at_us) == 100
    assert 20 <= limiter.used_since(month, start_us + 8 * 24 * HOUR_US, at_us) <= 40
    assert 10 <= limiter.used_since(month, at_us, at_us) <= 20
    month.period_start_us, month.period_end_us = month.period_end_us, month.period_end_us + HOUR_US
    assert limiter.used_since(month, month.period_start_us, month.period_start_us) == 0


def test_the_memory_that_was_heard_of_last_is_kept_with_the_row():
    limiter, hour = Limiter(), Gauge(b"h" * 16, USD, HOUR_US, 1000)
    assert limiter.heard(hour) == (0, 0)
    for epoch, heard_us in ((5, 70), (5, 60), (4, 90)):
        limiter.hear(hour, epoch, heard_us, HOUR_US)
        assert limiter.heard(hour) == (5, 70)
    limiter.hear(hour, 6, 0, HOUR_US)
    assert limiter.heard(hour) == (6, 0)
