"""The books: true windows."""

from __future__ import annotations

import random

import pytest

from llmgw.simulate.report import quantile
from llmgw.simulate.tally import Window


@pytest.mark.parametrize("seed", range(30))
def test_the_most_of_a_window_is_what_adding_up_every_window_finds(seed: int) -> None:
    rng = random.Random(seed)
    window, events, at_us = Window(100), [], 0
    for _ in range(200):
        at_us += rng.choice((0, 1, 7, 30, 100, 250))
        events.append((at_us, rng.randrange(1, 9)))
        window.add(*events[-1])
    by_hand = [sum(amount for at, amount in events if end - 100 < at <= end) for end, _ in events]
    assert window.most == max(by_hand)
    assert window.at(at_us) == by_hand[-1]
    assert window.at(at_us + 100) == 0


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([], 0.5), quantile([3], 0.99), quantile(list(range(100)), 0.99)] == [0, 3, 99]
