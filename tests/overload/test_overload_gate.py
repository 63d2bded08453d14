"""What the gate lets in, and what it says to the rest."""

from __future__ import annotations

import pytest

from llmgw._wire.gate import REASONS, Gate

MB = 1_000_000


def word(reason: int) -> str:
    return REASONS[reason]


def test_a_new_gate_lets_everything_in() -> None:
    gate = Gate()
    assert {gate.enter(1000 * MB) for _ in range(100)} == {0}
    assert gate.inflight == 100


def test_as_many_are_let_in_as_may_be_in_flight_and_one_for_each_that_leaves() -> None:
    gate = Gate()
    gate.max_inflight = 2
    assert [word(gate.enter(0)) for _ in range(4)] == ["", "", "inflight", "inflight"]
    gate.leave()
    assert [word(gate.enter(0)) for _ in range(2)] == ["", "inflight"]
    assert gate.inflight == 2


def test_bodies_that_were_let_in_since_the_last_look_use_up_the_room() -> None:
    gate = Gate()
    gate.look(20 * MB, 0.0)
    assert [word(gate.enter(8 * MB)) for _ in range(4)] == ["", "", "memory", "memory"]
    assert word(gate.enter(4 * MB)) == ""
    assert gate.room_bytes == 0


def test_what_is_still_to_come_of_bodies_counts_at_every_look() -> None:
    gate = Gate()
    gate.look(20 * MB, 0.0)
    gate.enter(8 * MB)
    gate.expect(8 * MB)
    gate.expect(-3 * MB)
    gate.look(17 * MB, 0.0)  # 3 MB more are in use
    assert gate.room_bytes == 12 * MB
    gate.expect(-5 * MB)
    gate.look(12 * MB, 0.0)
    assert gate.room_bytes == 12 * MB


def test_the_only_request_is_let_in_whatever_the_memory() -> None:
    gate = Gate()
    gate.look(-MB, 0.0)
    assert [word(gate.enter(8 * MB)) for _ in range(2)] == ["", "memory"]
    assert gate.grow(MB)
    gate.leave()
    assert word(gate.enter(8 * MB)) == ""


def test_a_body_of_unknown_length_grows_as_far_as_there_is_room() -> None:
    gate = Gate()
    gate.look(10 * MB, 0.0)
    gate.enter(0)
    gate.enter(0)
    assert [gate.grow(4 * MB) for _ in range(3)] == [True, True, False]
    assert gate.room_bytes == 2 * MB


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.95])
def test_a_late_loop_has_its_share_refused_and_no_long_run_of_them(share: float) -> None:
    gate = Gate()
    gate.look(MB, share)
    refused = [word(gate.enter(0)) == "lag" for _ in range(1000)]
    assert sum(refused) == pytest.approx(1000 * share, abs=1)
    runs = "".join("x" if each else "." for each in refused).split(".")
    assert max(map(len, runs)) <= share / (1 - share) + 1
