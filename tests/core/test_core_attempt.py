"""An attempt, as its target's health hears of it."""

from __future__ import annotations

import time
from types import SimpleNamespace

from llmgw._core.ask import Attempt, Way
from llmgw._core.estimate import Estimator
from llmgw._core.health import CLOSED, FAILED, HALF_OPEN, OK, OPEN, PROBE, Board, Health, Policy
from llmgw._core.segment import Segment
from llmgw._wire.call import Call

KEY = b"target of a test"
QUICK = Policy(failures=1, open_us=1_000, max_open_us=1_000, probe_every_us=1_000, successes=2)


def way_to(health: Health, board: Board, tmp_path) -> Way:
    upstream = SimpleNamespace(
        name="up", timeouts=SimpleNamespace(total=60.0), provider=SimpleNamespace(pacing=False)
    )
    estimate = Estimator(Segment(str(tmp_path / "segment"), 1)).find("m")
    return Way(upstream, "m", "m", "up/m", (), health, board.traffic(KEY), estimate, None, -1, -1, "", b"")


def begun(way: Way, board: Board) -> Attempt:
    """Once its health lets one through, which takes milliseconds here."""
    deadline_s = time.monotonic() + 10
    while not way.health.begin(board.now_us()):
        assert time.monotonic() < deadline_s
    attempt = Attempt(way, 0, board.now_us())
    attempt.set_out(Call())
    return attempt


def answer(attempt: Attempt) -> None:
    attempt.outcome = "ok"
    attempt.answered(Call(), time.monotonic())


def test_a_probes_first_byte_is_its_success_and_its_end_is_not_another(tmp_path):
    board = Board()
    health = board.health(KEY, QUICK)
    way = way_to(health, board, tmp_path)
    begun(way, board).end(FAILED)
    assert health.state == OPEN
    first = begun(way, board)
    answer(first)
    first.end(OK)
    assert health.state == HALF_OPEN, "one of two"
    second = begun(way, board)
    answer(second)
    assert health.state == CLOSED, "the second one's stream still runs"
    second.end(OK)
    assert (health.state, health.inflight) == (CLOSED, 0)


def test_a_probe_whose_stream_breaks_opens_it_again(tmp_path):
    board = Board()
    health = board.health(KEY, QUICK)
    way = way_to(health, board, tmp_path)
    begun(way, board).end(FAILED)
    probe = begun(way, board)
    answer(probe)
    assert health.state == HALF_OPEN
    probe.end(FAILED)
    assert health.state == OPEN
    assert health.verdict(board.now_us() + 10_000) == PROBE


def test_where_slow_ones_count_a_probe_is_judged_by_its_end(tmp_path):
    slow_s = 0.02
    board = Board()
    policy = Policy(
        failures=1,
        open_us=1_000,
        max_open_us=1_000,
        probe_every_us=1_000,
        successes=1,
        slow_us=int(slow_s * 1e6),
    )
    health = board.health(KEY, policy)
    way = way_to(health, board, tmp_path)
    begun(way, board).end(FAILED)
    slow = begun(way, board)
    answer(slow)
    time.sleep(2 * slow_s)
    slow.end(OK)
    assert health.state == OPEN
    quick = begun(way, board)
    answer(quick)
    assert health.state == HALF_OPEN
    quick.end(OK)
    assert health.state == CLOSED
