"""Who waits is not overtaken, in no worker of the machine; and nobody yields to who is not there."""

import pytest
from limiterworld import MINUTE_US, SECOND_US, gauge

from llmgw._core.limiter import UNKNOWN, Hold, Limiter, Refusal
from llmgw._core.segment import Segment

MARK_US = 2 * SECOND_US


@pytest.fixture
def crew(path):
    """A supervisor and the limiters of three workers."""
    segment = Segment(path, 3)
    supervisor = Limiter(segment)
    supervisor.prepare()
    return supervisor, *(Limiter(segment, slot) for slot in range(3))


@pytest.fixture
def now_us(crew):
    return crew[0].now_us()


def asks(limiter, one, now_us, **how):
    """Whether there is room for it; what it took goes back."""
    answer = limiter.admit((one,), (), 1, 1, now_us, **how)
    if isinstance(answer, Hold):
        limiter.settle(answer, 0, 0, now_us, 0)
        return True
    assert answer.lacking is None
    return False


@pytest.mark.parametrize("unit", ["requests", "slots"])
def test_newcomers_of_all_workers_yield_while_somebody_waits_and_not_a_moment_longer(crew, now_us, unit):
    _, one, other, _ = crew
    limit = gauge(unit, 5)
    one.mark(limit, False, now_us)
    for newcomer in (one, other):
        refusal = newcomer.admit((limit,), (), 0, 0, now_us)
        assert isinstance(refusal, Refusal)
        assert (refusal.gauge, refusal.used, refusal.requested, refusal.wait_us) == (limit, 0, 1, UNKNOWN)
        assert asks(newcomer, limit, now_us, is_waiter=True), "who waits itself need not"
    one.unmark(limit, False, now_us)
    assert asks(one, limit, now_us) and asks(other, limit, now_us)


def test_an_admission_of_one_who_waits_lets_nobody_pass_the_others(crew, now_us):
    _, one, other, _ = crew
    limit = gauge("requests", 5)
    one.mark(limit, False, now_us)
    assert asks(other, limit, now_us, is_waiter=True)
    assert not asks(other, limit, now_us)


def test_a_worker_speaks_for_itself_alone(crew, now_us):
    _, one, other, third = crew
    limit = gauge("requests", 5)
    one.mark(limit, False, now_us)
    other.mark(limit, False, now_us)
    one.unmark(limit, False, now_us)
    assert not asks(third, limit, now_us)
    other.unmark(limit, False, now_us)
    assert asks(third, limit, now_us)


def test_who_waits_at_one_limit_holds_up_nobody_at_another(crew, now_us):
    _, one, other, _ = crew
    one.mark(gauge("requests", 5), False, now_us)
    assert asks(other, gauge("requests", 5), now_us)


def test_a_mark_that_is_not_renewed_lapses(crew, now_us):
    _, one, other, _ = crew
    limit = gauge("requests", 5)
    one.mark(limit, False, now_us)
    assert not asks(other, limit, now_us + MARK_US - 1)
    assert asks(other, limit, now_us + MARK_US)
    one.mark(limit, False, now_us + SECOND_US)
    assert not asks(other, limit, now_us + MARK_US)


def test_a_dead_workers_waiters_hold_up_nobody_from_when_it_is_known(crew, now_us):
    supervisor, one, other, _ = crew
    limit = gauge("requests", 5)
    one.mark(limit, False, now_us)
    supervisor.give_back(0, now_us)
    assert asks(other, limit, now_us)


def test_what_a_dead_worker_left_marked_is_gone_when_the_next_one_in_its_place_has_waiters(crew, now_us):
    supervisor, one, other, _ = crew
    limit, elsewhere = gauge("requests", 5), gauge("requests", 5)
    one.mark(limit, False, now_us)
    supervisor.give_back(0, now_us)
    later_us = now_us + MARK_US
    one.mark(elsewhere, False, later_us)
    assert asks(other, limit, later_us)
    other.mark(limit, False, later_us)
    other.unmark(limit, False, later_us)
    assert asks(other, limit, later_us)


def test_batch_waits_for_all_and_interactive_for_interactive_only(crew, now_us):
    _, one, other, _ = crew
    limit = gauge("requests", 5)

    def who_may(at_us=now_us):
        return [
            (is_batch, is_waiter)
            for is_batch in (False, True)
            for is_waiter in (False, True)
            if asks(other, limit, at_us, is_batch=is_batch, is_waiter=is_waiter)
        ]

    one.mark(limit, True, now_us)
    assert who_may() == [(False, False), (False, True), (True, True)]
    one.mark(limit, False, now_us)
    assert who_may() == [(False, True)]
    one.unmark(limit, True, now_us)
    assert who_may() == [(False, True)]
    one.unmark(limit, False, now_us)
    assert len(who_may()) == 3, "an interactive newcomer was just refused"
    assert len(who_may(now_us + 5 * SECOND_US)) == 4


@pytest.mark.parametrize(
    ("window_us", "yields_us"),
    [(SECOND_US, 100_000), (MINUTE_US, 8 * MINUTE_US // 128), (60 * MINUTE_US, 5 * SECOND_US)],
)
def test_batch_leaves_room_for_a_while_where_an_interactive_caller_was_refused(
    crew, now_us, window_us, yields_us
):
    _, one, other, _ = crew
    limit = gauge("tokens", 1, window_us)
    hold = one.admit((limit,), (), 1, 0, now_us)
    assert not asks(one, limit, now_us, is_batch=True)
    one.settle(hold, 0, 0, now_us)
    assert asks(other, limit, now_us, is_batch=True), "a batch caller's refusal is nobody's hunger"
    hold = one.admit((limit,), (), 1, 0, now_us)
    assert not asks(one, limit, now_us)
    one.settle(hold, 0, 0, now_us)
    assert not asks(other, limit, now_us + yields_us - 1, is_batch=True)
    assert asks(other, limit, now_us + yields_us - 1)
    assert asks(other, limit, now_us + yields_us, is_batch=True)


def test_a_batch_request_that_goes_to_another_target_is_batch_there(crew, now_us):
    _, one, other, _ = crew
    target = gauge("slots", 1)
    taken = one.admit((target,), (), 0, 0, now_us)
    hold = one.admit((gauge("slots", 9),), (), 0, 0, now_us, is_batch=True)
    assert isinstance(one.switch(hold, (target,), now_us), Refusal)
    one.settle(taken, 0, 0, now_us)
    assert asks(other, target, now_us, is_batch=True), "its refusal is nobody's hunger"
    other.mark(target, True, now_us)
    assert isinstance(one.switch(hold, (target,), now_us), Refusal)


def test_a_shadow_keeps_nobody_waiting(crew, now_us):
    _, one, other, _ = crew
    shadow = gauge("requests", 5, is_shadow=True)
    one.mark(shadow, False, now_us)
    assert asks(other, shadow, now_us)


def test_whoever_frees_something_wakes_those_workers_where_somebody_waits_for_it(crew, now_us):
    _, one, other, third = crew
    limit, elsewhere = gauge("slots", 5), gauge("slots", 5)
    woken = []
    third.wake_slot = woken.append
    hold = third.admit((limit,), (), 0, 0, now_us)
    bystander = third.admit((elsewhere,), (), 0, 0, now_us)
    one.mark(limit, False, now_us)
    other.mark(limit, True, now_us)
    third.settle(bystander, 0, 0, now_us)
    assert woken == []
    other.unmark(limit, True, now_us)
    third.settle(hold, 0, 0, now_us)
    assert woken == [0]
    hold = third.admit((elsewhere,), (), 0, 0, now_us)
    other.mark(elsewhere, True, now_us)
    third.settle(hold, 0, 0, now_us + MARK_US)
    assert woken == [0], "nobody is there any more"


def test_going_to_another_target_wakes_who_waits_for_the_first(crew, now_us):
    _, one, other, _ = crew
    limit, woken = gauge("slots", 1), []
    other.wake_slot = woken.append
    hold = other.admit((), (limit,), 0, 0, now_us)
    one.mark(limit, False, now_us)
    assert other.switch(hold, (), now_us) is None
    assert woken == [0]


def test_the_supervisor_has_no_waiters(crew, now_us):
    supervisor = crew[0]
    for change in (supervisor.mark, supervisor.unmark):
        with pytest.raises(ValueError):
            change(gauge("requests", 1), False, now_us)


def test_a_mark_in_a_full_table_is_left_out(now_us):
    limiter = Limiter(rows=1)
    limiter.admit((gauge("slots", 1),), (), 0, 0, now_us)
    limiter.mark(gauge("slots", 1), False, now_us)
    limiter.unmark(gauge("slots", 1), False, now_us)


def test_a_restart_forgets_who_waited(path, now_us):
    segment = Segment(str(path) + "2", 1)
    supervisor = Limiter(segment)
    supervisor.prepare()
    limiter, limit = Limiter(segment, 0), gauge("requests", 5)
    at_us = limiter.now_us()
    limiter.mark(limit, False, at_us)
    supervisor.prepare()
    assert asks(limiter, limit, at_us)
