"""How the share of refused requests follows the lateness of the loop."""

from __future__ import annotations

from llmgw.config import Overload as Settings
from llmgw.overload import FALL_PER_S, LATE_S, SHARE_MAX, Overload, Shedding

MAX_S = 0.5
BEAT_S = 0.05


class Loop:
    """Beats on a clock of its own: each is as late as the test says."""

    def __init__(self) -> None:
        self.shedding = Shedding()
        self.now_s = 1000.0

    def run(self, seconds: float, late_s: float, max_s: float = MAX_S) -> list[float]:
        """The share after each beat."""
        shares = []
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += BEAT_S + late_s
            shares.append(self.shedding.look(late_s, max_s, self.now_s))
        return shares


def test_a_loop_in_time_has_nothing_refused() -> None:
    assert set(Loop().run(60.0, MAX_S)) == {0.0}


def test_one_long_turn_is_no_overload_however_long() -> None:
    loop = Loop()
    for _ in range(20):
        assert loop.run(0.01, 30.0) == [0.0]
        assert set(loop.run(1.0, 0.0)) == {0.0}


def test_lateness_that_lasts_has_a_share_refused_that_rises_step_by_step() -> None:
    shares = Loop().run(10.0, 0.6)
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert max(after - before for before, after in zip(shares, shares[1:], strict=False)) < 0.5
    assert shares[-1] == SHARE_MAX


def test_some_are_let_in_however_late_the_loop_is() -> None:
    assert max(Loop().run(600.0, 5.0)) == SHARE_MAX < 1


def test_the_share_falls_to_nothing_bit_by_bit_when_the_loop_is_in_time_again() -> None:
    loop = Loop()
    loop.run(10.0, 0.6)
    shares = loop.run(SHARE_MAX / FALL_PER_S + 1, 0.0)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0
    assert max(before - after for before, after in zip(shares, shares[1:], strict=False)) < 0.05


def test_a_share_that_has_not_gone_yet_rises_at_once_when_the_loop_is_late_again() -> None:
    loop = Loop()
    loop.run(3.0, 0.6)
    low = loop.run(1.0, 0.0)[-1]
    assert 0 < low < loop.run(0.01, 0.6)[-1]


def test_a_very_late_loop_has_more_refused_sooner() -> None:
    slightly, very = Loop(), Loop()
    slightly.run(LATE_S + 2.0, 0.6)
    very.run(LATE_S + 2.0, 1.5)
    assert very.shedding.share > slightly.shedding.share > 0


def test_a_bound_of_zero_is_none() -> None:
    assert set(Loop().run(60.0, 10.0, max_s=0.0)) == {0.0}


def test_load_that_is_a_third_too_much_settles_without_a_swing_between_all_and_nothing() -> None:
    """Each turn of the loop has the work that came during the turn before."""
    shedding = Shedding()
    turn_s, now_s, shares, turns = BEAT_S, 0.0, [], []
    while now_s < 300.0:
        now_s += turn_s
        share = shedding.look(turn_s - BEAT_S, MAX_S, now_s)
        turn_s = max(1.33 * (1 - share) * turn_s, BEAT_S)
        shares.append(share)
        turns.append(turn_s)
    settled = shares[len(shares) // 2 :]
    assert 0.1 < sum(settled) / len(settled) < 0.5
    assert max(settled) < 0.7
    assert max(turns) < 4 * MAX_S


def test_beats_that_come_late_have_the_gate_refuse_and_beats_in_time_end_it() -> None:
    overload = Overload(Settings(), 0, lambda _: None, lambda: 0, lambda: None)
    now_s = 1000.0
    for _ in range(10):
        now_s += MAX_S + 2 * BEAT_S
        overload.look(now_s)
    share = overload.gate.shed_share
    assert share > 0.5
    for _ in range(int(share / FALL_PER_S / BEAT_S) + 2):
        now_s += BEAT_S
        overload.look(now_s)
    assert overload.gate.shed_share == 0.0
