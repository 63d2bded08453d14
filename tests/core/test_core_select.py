"""Which target a request goes to: every strategy, over who is available."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw._core.health import FAILED, GO, IS_COOLING, IS_OPEN, IS_PACED, OK, PROBE, Board, Policy
from llmgw._core.select import (
    COST,
    HASH,
    LATENCY,
    LEAST_BUSY,
    ORDERED,
    ROUND_ROBIN,
    SCORE,
    WEIGHTED,
    Tier,
)

SECOND_US = 1_000_000
NOW_US = 1_000 * SECOND_US
ALL = (1 << 64) - 1
STRATEGIES = (WEIGHTED, ROUND_ROBIN, ORDERED, LEAST_BUSY, LATENCY, COST, HASH, SCORE)


class World:
    """A tier on a board of its own, seeded."""

    def __init__(
        self, strategy, weights=(1, 1), prices=None, qualities=None, score=(0, 0, 0), keys=None, **policy
    ):
        self.board = Board(rows=64)
        names = keys or range(1, len(weights) + 1)
        self.healths = tuple(self.board.health(bytes([name] * 16), Policy(**policy)) for name in names)
        self.tier = Tier(
            self.board,
            b"the tier in test",
            strategy,
            self.healths,
            weights=weights,
            prices=prices or ((-1, -1),) * len(weights),
            qualities=qualities or (0.5,) * len(weights),
            score=score,
        )
        self.tier.seed(7)

    def shares(self, count, mask=ALL, now_us=NOW_US, **more):
        return Counter(self.tier.pick(mask, now_us, **more) for _ in range(count))

    def take(self, number, count=1):
        for _ in range(count):
            assert self.healths[number].begin(NOW_US)

    def learn(self, number, latency_us):
        self.healths[number].first_byte(latency_us, NOW_US)

    def cool(self, number, until_us=NOW_US + SECOND_US):
        self.healths[number].pause(-1, until_us)

    def open(self, number, good=0, now_us=NOW_US):
        """After so many that went well."""
        for outcome in [OK] * good + [FAILED] * 5:
            self.healths[number].end(outcome, now_us, 0)


# -- whatever the strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_what_is_asked_for_and_available_is_picked(strategy):
    world = World(strategy, (3, 1, 2, 5), ((1, 2),) * 4, score=(1, 1, 1))
    world.cool(2)
    for mask, allowed in ((0b1111, {0, 1, 3}), (0b0110, {1}), (0b0101, {0}), (0b1010, {1, 3})):
        assert set(world.shares(300, mask, affinity=0)) <= allowed
    for mask in (0, 0b0100, 0b10000):
        assert world.tier.pick(mask, NOW_US) == -1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picking_takes_nothing(strategy):
    world = World(strategy, (1,) * 3, score=(1, 1, 1))
    world.shares(50)
    assert [one.inflight for one in world.healths] == [0, 0, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_target_of_weight_0_is_never_picked_nor_waited_for(strategy):
    world = World(strategy, (0, 1))
    assert set(world.shares(50)) == {1}
    assert world.tier.pick(0b01, NOW_US) == -1 and world.tier.wait_us(0b01, NOW_US) == -1
    assert world.tier.verdicts(0b11, NOW_US) == [-1, GO]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(
    mask=st.integers(0, ALL),
    now_us=st.integers(0, 2**63 - 1),
    affinity=st.integers(0, ALL),
    tokens=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2),
)
def test_any_numbers_give_a_target_that_was_asked_for(strategy, mask, now_us, affinity, tokens):
    world = World(strategy, (1, 0, 1_000_000), ((2**60, 2**60), (1, 1), (0, 0)), score=(1e300, 1, 1))
    picked = world.tier.pick(mask, now_us, affinity, *tokens)
    assert picked == -1 if mask & 0b101 == 0 else mask >> picked & 1 and picked != 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sixty_four_targets_and_no_more(strategy):
    world = World(strategy, (1,) * 64, ((1, 1),) * 64)
    assert world.tier.pick(1 << 63, NOW_US) == 63
    assert 0 <= world.tier.pick(ALL, NOW_US) < 64
    with pytest.raises(ValueError, match="64"):
        World(strategy, (1,) * 65)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_qualities_and_scores_that_are_none_count_nothing(wrong):
    world = World(SCORE, (1, 1), ((1, 1), (9, 9)), (wrong, 0.5), (1.0, wrong, 0.0))
    assert set(world.shares(20)) == {0}


@pytest.mark.parametrize(
    "wrong",
    [{"strategy": 8}, {"strategy": -1}, {"weights": (1, -1)}, {"weights": (1, 1_000_001)}, {"weights": (1,)}],
)
def test_what_is_no_tier_is_an_error(wrong):
    board = Board()
    healths = tuple(board.health(bytes([name] * 16), Policy()) for name in (1, 2))
    asked = {"strategy": ORDERED, "weights": (1, 1)} | wrong
    strategy = asked.pop("strategy")
    with pytest.raises(ValueError):
        Tier(board, b"k" * 16, strategy, healths, prices=((1, 1),) * 2, qualities=(0.5, 0.5), **asked)


def test_a_tier_keeps_its_targets_alive():
    world = World(ORDERED, (1, 1))
    tier = world.tier
    del world
    assert tier.pick(ALL, NOW_US) == 0 and tier.healths[0].begin(NOW_US)


# -- until when


def test_the_wait_is_that_of_the_first_to_be_available():
    world = World(ORDERED, (1, 1, 1))
    world.cool(0, NOW_US + 70)
    world.cool(1, NOW_US + 50)
    assert world.tier.wait_us(0b111, NOW_US) == 0
    assert world.tier.wait_us(0b011, NOW_US) == 50
    assert world.tier.wait_us(0b001, NOW_US) == 70
    assert world.tier.wait_us(0b1000, NOW_US) == world.tier.wait_us(0, NOW_US) == -1
    assert world.tier.pick(0b011, NOW_US + 49) == -1 and world.tier.pick(0b011, NOW_US + 50) == 1


def test_the_verdicts_say_why():
    world = World(ORDERED, (1,) * 5)
    world.open(1, now_us=NOW_US - 5 * SECOND_US)
    world.cool(2)
    for _ in range(10):
        world.healths[3].begin(NOW_US)
    world.healths[3].throttled(NOW_US)
    world.open(4)
    assert world.tier.verdicts(0b11111, NOW_US) == [GO, PROBE, IS_COOLING, IS_PACED, IS_OPEN]
    assert world.tier.verdicts(0b00101, NOW_US) == [GO, -1, IS_COOLING, -1, -1]


def test_a_target_that_is_due_gets_a_probe_and_no_more():
    world = World(ROUND_ROBIN, (1, 1))
    world.open(0)
    due_us = NOW_US + 5 * SECOND_US
    assert set(world.shares(10, now_us=due_us - 1)) == {1}
    assert set(world.shares(10, now_us=due_us)) == {0, 1}
    assert world.healths[0].begin(due_us)
    assert set(world.shares(10, now_us=due_us)) == {1}


# -- at most half is ejected, unless all are


@pytest.mark.parametrize(
    ("size", "opened", "available"),
    [
        (1, 1, 0),
        (2, 1, 1),
        (2, 2, 0),
        (3, 1, 2),
        (3, 2, 2),
        (3, 3, 0),
        (4, 2, 2),
        (4, 3, 2),
        (4, 4, 0),
        (5, 4, 3),
        (8, 7, 4),
    ],
)
def test_at_most_half_of_a_tier_is_ejected_unless_all_is(size, opened, available):
    world = World(ROUND_ROBIN, (1,) * size)
    for number in range(opened):
        world.open(number)
    verdicts = world.tier.verdicts(ALL, NOW_US)
    assert verdicts.count(GO) == available and verdicts.count(IS_OPEN) == size - available
    assert len(set(world.shares(100)) - {-1}) == available
    assert world.tier.wait_us(ALL, NOW_US) == (0 if available else 5 * SECOND_US)


def test_the_one_that_failed_least_is_spared_and_begins():
    world = World(ROUND_ROBIN, (1, 1, 1))
    world.open(0, good=1)
    world.open(1, good=15)
    assert world.tier.verdicts(ALL, NOW_US) == [IS_OPEN, GO, GO]
    spared = world.healths[1]
    assert spared.verdict(NOW_US) == IS_OPEN and not spared.begin(NOW_US), "nobody has chosen it"
    picked = [world.tier.pick(ALL, NOW_US) for _ in range(2)]
    assert sorted(picked) == [1, 2]
    assert spared.begin(NOW_US + 10) and spared.inflight == 1
    assert not spared.begin(NOW_US + 10), "chosen once, it begins once"


def test_a_choice_in_spite_of_the_breaker_is_for_now():
    world = World(ORDERED, (1, 1, 1))
    world.open(0, good=9)
    world.open(1)
    assert world.tier.pick(ALL, NOW_US) == 0
    assert not world.healths[0].begin(NOW_US + SECOND_US)


def test_when_the_share_has_left_the_window_that_of_the_opening_counts():
    world = World(ORDERED, (1, 1, 1), open_us=60 * SECOND_US)
    world.open(0, good=1)
    world.open(1, good=15)
    assert world.tier.verdicts(ALL, NOW_US + 50 * SECOND_US) == [IS_OPEN, GO, GO]


def test_one_that_goes_on_failing_gives_way_to_another():
    world = World(ORDERED, (1, 1, 1))
    world.open(0, good=6)
    world.open(1, good=5)
    for _ in range(4):
        assert world.tier.pick(0b011, NOW_US + 1) in {0, 1}
        world.healths[0].end(FAILED, NOW_US + 1, 0)
    assert world.tier.verdicts(0b011, NOW_US + 1) == [IS_OPEN, GO, -1]


def test_the_rule_is_about_the_whole_tier_and_not_what_is_left_of_it():
    world = World(ORDERED, (1, 1, 1, 1))
    world.open(0)
    world.open(1)
    assert world.tier.pick(0b0011, NOW_US) == -1, "two of four, though all that is asked for"


def test_all_that_fail_stay_ejected_when_one_of_them_is_due():
    world = World(ORDERED, (1, 1, 1))
    world.open(0)
    world.open(1, now_us=NOW_US + SECOND_US)
    world.open(2, now_us=NOW_US + SECOND_US)
    assert world.tier.verdicts(ALL, NOW_US + 5 * SECOND_US) == [PROBE, IS_OPEN, IS_OPEN]


def test_one_that_is_spared_still_cools():
    world = World(ORDERED, (1, 1, 1))
    world.open(0, good=9)
    world.open(1)
    world.cool(0)
    assert world.tier.verdicts(ALL, NOW_US) == [IS_COOLING, IS_OPEN, GO]
    assert world.tier.wait_us(0b001, NOW_US) == SECOND_US


# -- weighted, round_robin, ordered


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.lists(st.integers(0, 255), max_size=40))
def test_weighted_picks_as_the_plain_algorithm_does_for_any_weights_and_masks(weights, masks):
    tier = World(WEIGHTED, tuple(weights)).tier
    assert [tier.pick(mask, NOW_US) for mask in masks] == smooth(weights, masks)


@given(st.integers(2, 9), st.integers(1, 100))
def test_round_robin_goes_round_whatever_the_weights(size, count):
    world = World(ROUND_ROBIN, tuple(range(1, size + 1)))
    assert [world.tier.pick(ALL, NOW_US) for _ in range(count)] == [number % size for number in range(count)]


def test_one_that_comes_back_is_not_given_what_it_missed():
    world = World(ROUND_ROBIN, (1, 1))
    world.cool(0)
    assert world.shares(100) == {1: 100}
    assert world.shares(10, now_us=NOW_US + SECOND_US) == {0: 5, 1: 5}


def test_ordered_takes_the_first():
    world = World(ORDERED, (1, 9, 9))
    assert world.shares(9) == {0: 9}
    world.cool(0)
    assert world.shares(9) == {1: 9}


# -- least_busy


def test_least_busy_never_takes_the_busiest_of_several_and_the_less_busy_of_two():
    world = World(LEAST_BUSY, (1, 1, 1))
    world.take(0, 3)
    world.take(1, 1)
    assert world.shares(300, 0b011) == {1: 300}
    shares = world.shares(3_000)
    assert shares[0] == 0 and shares[2] == pytest.approx(2_000, rel=0.1), (
        "of three pairs two have the least busy"
    )


def test_least_busy_shares_evenly_among_equals_and_by_weight():
    assert all(
        share == pytest.approx(1_000, rel=0.15)
        for share in World(LEAST_BUSY, (1,) * 4).shares(4_000).values()
    )
    world = World(LEAST_BUSY, (4, 1))
    for _ in range(100):
        world.take(world.tier.pick(ALL, NOW_US))
    assert world.healths[0].inflight == pytest.approx(80, abs=2)


# -- latency


def test_latency_takes_the_fastest_for_its_load():
    world = World(LATENCY, (1, 1))
    world.learn(0, 100_000)
    world.learn(1, 350_000)
    for _ in range(40):
        world.take(world.tier.pick(ALL, NOW_US))
    assert world.healths[0].inflight == pytest.approx(40 * 350 / 450, abs=2)


def test_latency_spreads_equals_and_those_of_which_nothing_is_known():
    shares = World(LATENCY, (1,) * 4).shares(4_000)
    assert all(share == pytest.approx(1_000, rel=0.15) for share in shares.values())


def test_one_without_a_sample_counts_as_the_mean_and_is_not_flooded():
    world = World(LATENCY, (1, 1, 1))
    world.learn(0, 100_000)
    world.learn(1, 300_000)
    for _ in range(60):
        world.take(world.tier.pick(ALL, NOW_US))
    assert 10 <= world.healths[2].inflight <= 20


def test_a_target_that_was_slow_is_tried_again_once_and_not_flooded_before_it_has_answered():
    world = World(LATENCY, (1, 1))
    world.learn(0, 10_000_000)
    for second in range(60):
        now_us = NOW_US + second * SECOND_US
        world.healths[1].begin(now_us)
        world.healths[1].first_byte(200_000, now_us)
    assert world.healths[1].inflight == 60
    for _ in range(60):
        world.healths[1].end(OK, now_us)
    assert world.tier.pick(ALL, now_us) == 0, "what was known of it has faded"
    assert world.healths[0].begin(now_us)
    assert world.shares(100, now_us=now_us) == {1: 100}
    world.healths[0].first_byte(100_000, now_us)
    world.healths[0].end(OK, now_us)
    assert world.tier.pick(ALL, now_us) == 0


# -- cost


@pytest.mark.parametrize(
    ("prices", "tokens", "best"),
    [
        (((5, 5), (4, 4), (6, 6)), (10, 10), 1),
        (((1, 9), (9, 1)), (100, 10), 0),
        (((1, 9), (9, 1)), (10, 100), 1),
        (((-1, -1), (9, 9)), (10, 10), 1),
        (((0, -1), (9, 9)), (10, 10), 1),
        (((9, 9), (0, 0)), (10, 10), 1),
        (((9, 9), (8, 8)), (0, 0), 1),
        (((9, 9), (8, 8)), (-5, -5), 1),
        (((2**62, 2**62), (2**61, 2**61)), (2**62, 2**62), 1),
    ],
)
def test_cost_takes_the_least_price_of_the_request_and_unknown_ones_last(prices, tokens, best):
    world = World(COST, (1,) * len(prices), prices)
    assert world.tier.pick(ALL, NOW_US, 0, *tokens) == best


@pytest.mark.parametrize("price", [(3, 3), (-1, -1)])
def test_of_equal_prices_the_least_busy_is_taken(price):
    world = World(COST, (1, 1, 1), (price,) * 3)
    world.take(0, 2)
    world.take(1, 1)
    assert world.tier.pick(ALL, NOW_US, 0, 10, 10) == 2


# -- hash


def homes(world, mask=ALL, count=2_000):
    return [world.tier.pick(mask, NOW_US, affinity) for affinity in range(1, count + 1)]


def test_a_hash_is_stable_and_the_same_in_every_process_and_order():
    one, turned = World(HASH, (1,) * 4), World(HASH, (1,) * 4, keys=(4, 3, 2, 1))
    assert homes(one) == homes(one) == [3 - number for number in homes(turned)]


def test_when_a_target_goes_only_its_share_moves_and_comes_back_with_it():
    world = World(HASH, (1,) * 5)
    before = homes(world)
    world.cool(2)
    gone = homes(world)
    assert all(now == then for then, now in zip(before, gone) if then != 2)
    assert 2 not in gone and len({now for then, now in zip(before, gone) if then == 2}) == 4
    world.healths[2].pause(-1, NOW_US)
    assert [world.tier.pick(ALL, NOW_US + SECOND_US, affinity) for affinity in range(1, 2_001)] == before


def test_a_hash_shares_by_weight():
    shares = Counter(homes(World(HASH, (1, 2, 5)), count=16_000))
    assert [shares[number] for number in range(3)] == [
        pytest.approx(share, rel=0.08) for share in (2_000, 4_000, 10_000)
    ]


def test_a_heavier_target_takes_from_all_and_nobody_else_moves():
    light, heavy = homes(World(HASH, (1, 1, 1))), homes(World(HASH, (1, 1, 3)))
    assert all(now in {then, 2} for then, now in zip(light, heavy))


def test_without_an_affinity_a_hash_is_at_random_by_weight():
    shares = World(HASH, (1, 3)).shares(8_000, affinity=0)
    assert shares[1] == pytest.approx(6_000, rel=0.05)


# -- score


def test_a_score_of_one_thing_is_that_thing():
    prices, qualities = ((4, 4), (2, 2), (8, 8)), (0.9, 0.5, 1.0)
    for score, best in (((1, 0, 0), 1), ((0, 1, 0), 0), ((0, 0, 1), 2)):
        world = World(SCORE, (1,) * 3, prices, qualities, score)
        for number, latency_us in enumerate((100_000, 200_000, 900_000)):
            world.learn(number, latency_us)
        assert world.tier.pick(ALL, NOW_US, 0, 10, 10) == best


def test_a_mix_weighs_how_far_each_is_behind_the_best_available():
    world = World(SCORE, (1, 1), ((10, 10), (20, 20)), (0.5, 1.0), (0.5, 0.0, 0.4))
    assert world.tier.pick(ALL, NOW_US, 0, 10, 10) == 0, "0.4 * 0.5 of quality against 0.5 * 0.5 of price"
    world = World(SCORE, (1, 1), ((10, 10), (20, 20)), (0.5, 1.0), (0.5, 0.0, 0.6))
    assert world.tier.pick(ALL, NOW_US, 0, 10, 10) == 1


def test_in_a_mix_an_unknown_price_is_the_worst_and_a_price_of_nothing_the_best():
    for prices, best in ((((-1, -1), (99, 99)), 1), (((1, 1), (0, 0)), 1)):
        assert World(SCORE, (1, 1), prices, None, (1, 0, 0)).tier.pick(ALL, NOW_US, 0, 10, 10) == best


def test_a_mix_of_equals_goes_to_the_least_busy():
    world = World(SCORE, (1, 1), ((1, 1),) * 2, None, (1, 0, 1))
    world.take(0)
    assert world.tier.pick(ALL, NOW_US, 0, 10, 10) == 1


def test_the_load_counts_in_a_mix_so_that_no_target_takes_all():
    world = World(SCORE, (1, 1), ((1, 1), (2, 2)), None, (0.5, 0.3, 0.2))
    for _ in range(70):
        world.take(world.tier.pick(ALL, NOW_US, 0, 10, 10))
    assert 5 < world.healths[1].inflight < 15


# -- the choice by itself


def smooth(weights, masks):
    """The algorithm in plain Python: the judge."""
    credit = [0] * len(weights)
    picks = []
    for mask in masks:
        open_ = [index for index, weight in enumerate(weights) if weight and mask >> index & 1]
        for index in open_:
            credit[index] += weights[index]
        best = max(open_, key=lambda index: (credit[index], -index), default=-1)
        if best >= 0:
            credit[best] -= sum(weights[index] for index in open_)
        picks.append(best)
    return picks
