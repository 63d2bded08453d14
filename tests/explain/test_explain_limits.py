"""What a decision tells of the limits it looked at, and what it would be without being made."""

import random

import pytest
from limiterworld import HOUR_US, MINUTE_US, gauge, place

from llmgw._core.limiter import NEVER, UNKNOWN, Hold, Limiter, Refusal
from llmgw._core.segment import ROWS_BYTES
from llmgw.explain.limits import PART

NOW_US = 1_700_000_000 * 1_000_000


def parts(snapshot):
    """[(key, used, limit, asked, wait_us)]"""
    assert len(snapshot) % PART.size == 0
    return list(PART.iter_unpack(snapshot))


def rows_of(segment):
    with open(segment.path, "rb") as file:
        file.seek(place(segment, "rows"))
        return file.read(ROWS_BYTES)


def test_a_hold_tells_what_each_limit_was_before_it():
    limiter = Limiter()
    requests, tokens, slots = gauge("requests", 10), gauge("tokens", 1_000), gauge("slots", 5)
    limiter.admit((requests, slots), (tokens,), 100, 0, NOW_US)
    hold = limiter.admit((requests, slots), (tokens,), 250, 0, NOW_US)
    told = [(requests.key, 1, 10, 1, 0), (slots.key, 1, 5, 1, 0), (tokens.key, 100, 1_000, 250, 0)]
    assert parts(hold.snapshot()) == told
    limiter.settle(hold, 7, 0, NOW_US)
    assert parts(hold.snapshot()) == told, "also when it is settled, and its place is another's"
    limiter.admit((requests, slots), (tokens,), 1, 0, NOW_US)
    assert parts(hold.snapshot()) == told
    assert limiter.admit((), (), 1, 1, NOW_US).snapshot() == b""


def test_after_a_switch_a_hold_tells_of_its_last_target():
    limiter = Limiter()
    mine, first, second, full = (
        gauge("requests", 9),
        gauge("tokens", 500),
        gauge("tokens", 600),
        gauge("tokens", 1),
    )
    hold = limiter.admit((mine,), (first,), 100, 0, NOW_US)
    assert limiter.switch(hold, (second,), NOW_US) is None
    assert parts(hold.snapshot()) == [(mine.key, 0, 9, 1, 0), (second.key, 0, 600, 100, 0)]
    refusal = limiter.switch(hold, (full,), NOW_US)
    assert parts(refusal.snapshot()) == [(full.key, 0, 1, 100, NEVER)]
    assert parts(hold.snapshot()) == [(mine.key, 0, 9, 1, 0)]


def test_a_refusal_tells_of_every_limit_and_which_said_no():
    limiter = Limiter()
    roomy, tokens, slots = gauge("requests", 10), gauge("tokens", 100), gauge("slots", 1)
    limiter.admit((roomy, tokens), (slots,), 90, 0, NOW_US)
    refusal = limiter.admit((roomy, tokens), (slots,), 20, 0, NOW_US)
    assert isinstance(refusal, Refusal) and refusal.gauge is tokens
    assert parts(refusal.snapshot()) == [
        (roomy.key, 1, 10, 1, 0),
        (tokens.key, 90, 100, 20, refusal.wait_us),
        (slots.key, 1, 1, 1, UNKNOWN),
    ]


def test_what_is_foreseen_writes_nothing_and_is_what_then_happens(segment):
    Limiter(segment).prepare()
    limiter = Limiter(segment, 0)
    rng = random.Random(11)
    spare = gauge("requests", 3, tracked=2)
    gauges = [
        gauge("requests", 6),
        gauge("tokens", 900),
        gauge("tokens", 5_000, HOUR_US),
        gauge("slots", 4),
        gauge("usd", 4_000, HOUR_US),
        gauge("requests", 2, is_shadow=True),
        gauge("tokens", 0),
    ]
    users = [gauge("requests", 3, spare=spare) for _ in range(5)]
    now_us, holds, seen = limiter.now_us(), [], {Hold: 0, Refusal: 0}
    for _ in range(600):
        now_us += rng.choice((0, 1_000, 700_000, 5_000_000, MINUTE_US // 3))
        some = rng.sample(gauges, rng.randint(0, 4)) + rng.sample(users, rng.randint(0, 1))
        caller, target = tuple(some[:2]), tuple(some[2:])
        amounts = rng.randint(0, 400), rng.randint(0, 900)
        how = {"is_batch": rng.random() < 0.3, "is_waiter": rng.random() < 0.3}
        looks = rng.random() < 0.03  # 20 MB
        before = rows_of(segment) if looks else b""
        foreseen, snapshot = limiter.foresee(caller, target, *amounts, now_us, **how)
        assert not looks or rows_of(segment) == before
        answer = limiter.admit(caller, target, *amounts, now_us, **how)
        seen[type(answer)] += 1
        assert parts(answer.snapshot()) == parts(snapshot)
        if isinstance(answer, Hold):
            assert foreseen is None
            holds.append(answer)
        else:
            assert [
                getattr(foreseen, name) for name in ("gauge", "used", "requested", "wait_us", "lacking")
            ] == [getattr(answer, name) for name in ("gauge", "used", "requested", "wait_us", "lacking")]
        if holds and rng.random() < 0.6:
            limiter.settle(
                holds.pop(rng.randrange(len(holds))), rng.randint(0, 300), rng.randint(0, 500), now_us
            )
    assert min(seen.values()) > 100


def test_where_only_the_lease_is_short_that_is_foreseen_too(segment):
    Limiter(segment).prepare()
    limiter = Limiter(segment, 0)
    shared = gauge("tokens", 1_000, is_shared=True)
    refusal, snapshot = limiter.foresee((shared,), (), 10, 0, NOW_US)
    assert refusal.lacking == (shared,) and parts(snapshot) == [(shared.key, 0, 1_000, 10, -3)]
    limiter.grant(shared, 10, NOW_US + MINUTE_US, NOW_US)
    assert limiter.foresee((shared,), (), 10, 0, NOW_US)[0] is None


def test_more_limits_than_a_request_may_have_are_not_foreseen():
    with pytest.raises(OverflowError):
        Limiter().foresee(tuple(gauge("requests", 1) for _ in range(33)), (), 1, 1, NOW_US)
    with pytest.raises(TypeError):
        Limiter().foresee((1,), (), 1, 1, NOW_US)
