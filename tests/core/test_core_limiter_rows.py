"""Rows of the table: who has one, who shares one, who makes room; and the bounds of an admission."""

import pytest
from limiterworld import HOUR_US, MINUTE_US, Board, end, forked, gauge

from llmgw._core.limiter import CALENDAR, HOLDS_MAX, Gauge, Hold, Limiter, Refusal
from llmgw._core.segment import Segment

NOW_US = 1_000 * HOUR_US
DAY_US = 24 * HOUR_US


def users(spare, count, home=None):
    return [
        gauge(UNIT_NAMES[spare.unit], spare.limit, spare.window_us, spare=spare, home=home)
        for _ in range(count)
    ]


UNIT_NAMES = ["requests", "tokens", "usd", "slots"]


def admit(limiter, *gauges, now_us=NOW_US):
    return limiter.admit(gauges, (), 1, 1, now_us)


def test_a_gauge_says_what_is_wrong_with_it():
    good = {"key": b"k" * 16, "unit": 0, "window_us": 1, "limit": 1}
    Gauge(**good)
    for wrong in (
        {"key": b"k" * 15},
        {"key": bytes(16)},
        {"unit": 4},
        {"unit": -1},
        {"limit": -1},
        {"limit": (1 << 60) + 1},
        {"window_us": -2},
        {"window_us": 0},
        {"unit": 3},
    ):
        with pytest.raises(ValueError):
            Gauge(**(good | wrong))


def test_amounts_are_not_negative_and_gauges_are_gauges():
    limiter = Limiter()
    for amounts in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError):
            limiter.admit((), (), *amounts, NOW_US)
    with pytest.raises(TypeError):
        limiter.admit((object(),), (), 0, 0, NOW_US)
    with pytest.raises(TypeError):
        limiter.admit((None,), (), 0, 0, NOW_US)


def test_a_full_table_refuses_another_limit_and_changes_nothing():
    limiter = Limiter(rows=2)
    one, two, three = (gauge("requests", 9) for _ in range(3))
    admit(limiter, one)
    with pytest.raises(OverflowError):
        admit(limiter, one, two, three)
    admit(limiter, one, two)
    with pytest.raises(OverflowError):
        admit(limiter, one, two, three)
    assert [limiter.read(each, NOW_US) for each in (one, two)] == [(2, 2), (1, 1)]


def test_the_limits_of_one_request_never_share_a_row():
    """Also where the first ones count nothing yet, so that their rows look idle."""
    limiter = Limiter(rows=2)
    with pytest.raises(OverflowError):
        admit(limiter, *(gauge("slots", 1, home=home) for home in (0, 1, 0)))
    roomy = Limiter(rows=3)
    slots = [gauge("slots", 1, home=0) for _ in range(3)]
    hold = admit(roomy, *slots)
    assert [roomy.read(each, NOW_US) for each in slots] == [(1, 1)] * 3
    roomy.settle(hold, 0, 0, NOW_US)
    assert [roomy.read(each, NOW_US) for each in slots] == [(0, 0)] * 3


@pytest.mark.parametrize("unit", UNIT_NAMES)
def test_a_row_makes_room_when_nothing_in_it_counts_but_never_while_it_is_held(unit):
    limiter = Limiter(rows=1)
    one, other = gauge(unit, 9), gauge(unit, 9)
    hold = admit(limiter, one)
    late_us = NOW_US + 10 * MINUTE_US
    with pytest.raises(OverflowError):
        admit(limiter, other, now_us=late_us)
    limiter.settle(hold, 1, 1, late_us)
    if unit != "slots":
        late_us += 2 * MINUTE_US
    assert isinstance(admit(limiter, other, now_us=late_us), Hold)
    with pytest.raises(OverflowError):
        limiter.read(one, late_us)


def test_a_place_that_was_never_used_is_taken_before_one_that_is_idle():
    limiter = Limiter(rows=2)
    idle = gauge("slots", 0, home=0, is_shadow=True)
    limiter.settle(admit(limiter, idle), 0, 0, NOW_US)
    admit(limiter, gauge("requests", 1, home=0))
    assert limiter.shadow_refusals(idle) == 1


def test_what_is_left_of_a_lease_and_a_degraded_row_keep_their_place():
    for keep in (lambda: limiter.grant(one, 5, NOW_US + DAY_US, NOW_US), lambda: limiter.degrade(one, 1)):
        limiter = Limiter(rows=1)
        one = gauge("slots", 9, is_shared=True)
        keep()
        with pytest.raises(OverflowError):
            admit(limiter, gauge("requests", 9))


def test_more_users_than_are_tracked_share_one_row_with_a_users_limit():
    limiter = Limiter(rows=64)
    spare = gauge("requests", 2, tracked=3)
    tracked, others = users(spare, 3), users(spare, 4)
    for user in tracked:
        assert isinstance(admit(limiter, user), Hold)
    assert [isinstance(admit(limiter, user), Hold) for user in others] == [True, True, False, False]
    assert [limiter.read(user, NOW_US)[0] for user in tracked] == [1, 1, 1]
    assert limiter.read(spare, NOW_US)[0] == 2


def test_one_tenants_users_take_nothing_from_anothers():
    limiter = Limiter(rows=64)
    one, other = gauge("requests", 2, tracked=2), gauge("requests", 2, tracked=2)
    for user in users(one, 5):
        admit(limiter, user)
    for user in users(other, 2):
        admit(limiter, user)
        assert limiter.read(user, NOW_US) == (1, 1)
    assert limiter.read(other, NOW_US) == (0, 0)


@pytest.mark.parametrize("window_us", [MINUTE_US, CALENDAR])
def test_as_many_users_as_are_tracked_are_tracked_at_a_time_not_ever(window_us):
    """Those who were here once make room, wherever in the table they stand."""
    limiter = Limiter(rows=1024)
    spare = gauge("requests", 2, window_us, tracked=8)
    now_us = NOW_US
    for _ in range(20):
        crowd = users(spare, 8)
        for user in crowd:
            user.period_start_us, user.period_end_us = now_us, now_us + MINUTE_US
            for _ in range(1024 // 64):  # some turns may pass before an idle row is found
                limiter.read(user, now_us)
            limiter.settle(admit(limiter, user, now_us=now_us), 0, 0, now_us)
        assert [limiter.read(user, now_us)[0] for user in crowd] == [1] * 8
        now_us += 2 * DAY_US
    assert limiter.read(spare, now_us)[0] == 0


def test_a_users_open_request_keeps_its_row_however_many_come():
    limiter = Limiter(rows=8)
    spare = gauge("slots", 50, tracked=4)
    holds = [(user, admit(limiter, user)) for user in users(spare, 4)]
    for user in users(spare, 40):
        limiter.settle(admit(limiter, user), 0, 0, NOW_US)
    for user, hold in holds:
        assert limiter.read(user, NOW_US) == (1, 1)
        limiter.settle(hold, 0, 0, NOW_US)
    assert limiter.read(spare, NOW_US) == (0, 0)


def test_a_full_table_sends_users_to_the_row_that_stands_in():
    limiter = Limiter(rows=2)
    spare = gauge("requests", 3, tracked=100)
    assert [isinstance(admit(limiter, user), Hold) for user in users(spare, 6)] == [True] * 5 + [False]
    assert limiter.read(spare, NOW_US)[0] == 3


def test_users_are_tracked_once_for_all_processes(path):
    segment = Segment(path, 4)
    supervisor = Limiter(segment)
    supervisor.prepare()
    spare = gauge("requests", 1, DAY_US, tracked=10)
    crowd = users(spare, 40)
    admitted = Board(4)

    def work(slot):
        limiter = Limiter(segment, slot)
        for user in crowd:
            admitted[slot] += isinstance(admit(limiter, user, now_us=limiter.now_us()), Hold)

    children = [forked(lambda slot=slot: work(slot)) for slot in range(4)]
    assert [end(pid) for pid in [child.__enter__() for child in children]] == [0] * 4
    assert sum(admitted) == 11, "ten users with a row of their own, and all others as one"


@pytest.mark.parametrize("count", [32, 33])
def test_a_request_has_32_limits_at_most(count):
    limiter = Limiter()
    gauges = tuple(gauge("requests", 9) for _ in range(count))
    if count == 32:
        hold = limiter.admit(gauges[:20], gauges[20:], 0, 0, NOW_US)
        with pytest.raises(OverflowError):
            limiter.switch(hold, gauges[:13], NOW_US)
        assert limiter.read(gauges[25], NOW_US) == (1, 1), "the switch that cannot be changes nothing"
        limiter.settle(hold, 0, 0, NOW_US)
        assert [limiter.read(each, NOW_US) for each in gauges] == [(1, 0)] * 32
        return
    with pytest.raises(OverflowError):
        limiter.admit(gauges[:20], gauges[20:], 0, 0, NOW_US)
    assert limiter.read(gauges[0], NOW_US) == (0, 0)


def test_a_process_has_so_many_requests_in_flight_and_the_next_when_one_is_settled(segment):
    Limiter(segment).prepare()
    one = gauge("slots", 1 << 40)
    for limiter, most in ((Limiter(holds=70), 70), (Limiter(segment, 1), HOLDS_MAX)):
        holds = [admit(limiter, one) for _ in range(most)]
        with pytest.raises(OverflowError):
            admit(limiter, one)
        limiter.settle(holds.pop(), 0, 0, NOW_US)
        holds.append(admit(limiter, one))
        assert limiter.read(one, NOW_US) == (most, most)
        if limiter.segment is not None:
            assert len(Limiter(segment).give_back(1, NOW_US)) == HOLDS_MAX
        else:
            for hold in holds:
                limiter.settle(hold, 0, 0, NOW_US)
        assert limiter.read(one, NOW_US) == (0, 0)


def test_a_request_without_limits_is_a_hold_like_any(segment):
    Limiter(segment).prepare()
    limiter = Limiter(segment, 0)
    hold = limiter.admit((), (), 5, 6, NOW_US)
    assert hold.is_open and (hold.tokens, hold.usd_micro, hold.limit_tokens, hold.lines()) == (5, 6, -1, b"")
    hold.sent(b"names", 9, 5, 0, 0, 0, 17)
    assert Limiter(segment).give_back(0, NOW_US) == [(b"names", 9, True, 5, 0, 0, 17)]


def test_a_settled_hold_is_inert():
    limiter = Limiter()
    hold = admit(limiter, gauge("requests", 1))
    limiter.settle(hold, 0, 0, NOW_US)
    hold.sent(b"x", 1, 1, 1, 1, 1)
    hold.known(1, 1)
    hold.unsent()
    assert (hold.is_open, hold.tokens, hold.usd_micro, hold.progress) == (False, 0, 0, 0)
    with pytest.raises(ValueError):
        limiter.switch(hold, (), NOW_US)


def test_a_shadow_watches_and_tells_clients_nothing():
    limiter = Limiter()
    shadow = gauge("requests", 1, is_shadow=True)
    for _ in range(3):
        hold = admit(limiter, shadow)
        assert isinstance(hold, Hold) and hold.lines() == b""
    assert limiter.shadow_refusals(shadow) == 2


def test_the_lines_tell_the_tightest_limit_as_openai_writes_it():
    limiter = Limiter()
    hold = limiter.admit(
        (
            gauge("requests", 100, HOUR_US),
            gauge("requests", 3, 128_000),
            gauge("tokens", 50, 128 * MINUTE_US),
        ),
        (),
        8,
        0,
        130_000,
    )
    assert hold.lines() == (
        b"x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 2\r\nx-ratelimit-reset-requests: 130ms\r\n"
        b"x-ratelimit-limit-tokens: 50\r\nx-ratelimit-remaining-tokens: 42\r\nx-ratelimit-reset-tokens: 2h9m59.87s\r\n"
    )


def test_a_refusal_prints_what_it_says():
    limiter = Limiter()
    one = gauge("requests", 1, info="rpm of acme")
    admit(limiter, one)
    refusal = admit(limiter, one)
    assert (
        isinstance(refusal, Refusal)
        and "rpm of acme" in repr(refusal)
        and "used 1, requested 1" in repr(refusal)
    )


def test_a_row_is_found_beyond_the_place_of_one_that_is_gone():
    """By whoever looks for the first time: a gauge of another process, or of another configuration."""
    limiter = Limiter(rows=16)
    spare = gauge("slots", 9, tracked=3)
    first, gone, last = users(spare, 3, home=5)
    hold = [admit(limiter, user) for user in (first, gone, last)][1]
    limiter.settle(hold, 0, 0, NOW_US)
    newcomer = users(spare, 1, home=9)[0]
    admit(limiter, newcomer)
    assert limiter.read(spare, NOW_US)[0] == 0, "the newcomer has the place of the one that is gone"
    again = Gauge(last.key, last.unit, last.window_us, last.limit, spare=spare)
    assert limiter.read(again, NOW_US) == (1, 1)
