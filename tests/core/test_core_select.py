"""Smooth weighted round robin."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw._core.select import Weighted


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


def test_shares_are_spread_and_not_in_a_row():
    choice = Weighted((5, 1, 1))
    assert [choice.pick() for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.lists(st.integers(0, 255), max_size=40))
def test_it_picks_as_the_plain_algorithm_does_for_any_weights_and_masks(weights, masks):
    choice = Weighted(weights)
    assert [choice.pick(mask) for mask in masks] == smooth(weights, masks)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10), st.integers(1, 300))
def test_any_run_gives_each_its_share_to_within_one_pick(weights, count):
    choice = Weighted(weights)
    picks = Counter(choice.pick() for _ in range(count))
    for index, weight in enumerate(weights):
        assert abs(picks[index] - count * weight / sum(weights)) <= 1


def test_what_is_masked_out_or_weighs_nothing_is_never_picked():
    choice = Weighted([3, 0, 1])
    assert {choice.pick(0b110) for _ in range(10)} == {2}
    assert choice.pick(0b010) == -1
    assert choice.pick(0) == -1
    assert len(choice) == 3


def test_the_last_of_sixty_four_can_be_picked():
    assert Weighted([1] * 64).pick(1 << 63) == 63


@pytest.mark.parametrize("weights", [[], [1] * 65, [-1], [1_000_001]])
def test_what_is_no_choice_is_an_error(weights):
    with pytest.raises(ValueError, match="weight"):
        Weighted(weights)
