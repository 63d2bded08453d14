"""What choosing a target and keeping its health cost: `python benchmarks/selection.py`.

Nanoseconds a call from Python, best of several runs on one core. A call that does nothing but come and go
stands first: compiled callers do not pay it.
"""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable, Iterator
from typing import Any

from llmgw._core.health import OK, Board, Health, Policy
from llmgw._core.segment import Segment
from llmgw._core.select import COST, HASH, LATENCY, LEAST_BUSY, ORDERED, ROUND_ROBIN, SCORE, WEIGHTED, Tier

STRATEGIES = {
    "weighted": WEIGHTED,
    "round_robin": ROUND_ROBIN,
    "ordered": ORDERED,
    "least_busy": LEAST_BUSY,
    "latency": LATENCY,
    "cost": COST,
    "hash": HASH,
    "score": SCORE,
}
ALL = 0xFF
REPEATS = 9
NUMBER = 100_000


def best_ns(call: Callable[..., Any], *arguments: Any) -> float:
    names = {"call": call, "arguments": arguments}
    return min(timeit.repeat("call(*arguments)", globals=names, repeat=REPEATS, number=NUMBER)) / NUMBER * 1e9


def tier_of(board: Board, strategy: int, healths: tuple[Health, ...]) -> Tier:
    count = len(healths)
    return Tier(
        board,
        bytes([strategy + 1, count] * 8),
        strategy,
        healths,
        weights=tuple(range(1, count + 1)),
        prices=((100, 400),) * count,
        qualities=(0.5,) * count,
        score=(0.5, 0.3, 0.2),
    )


def figures(board: Board) -> Iterator[tuple[str, float]]:
    now_us = board.now_us()
    healths = tuple(board.health(bytes([number] * 16), Policy(slow_us=10**9), 2) for number in range(1, 9))
    for health in healths:
        health.first_byte(200_000, now_us)
    later_us = now_us + 2_000_000  # so that the averages fade
    yield "nothing: a call with five numbers", best_ns(max, ALL, later_us, 7, 1_000, 300)
    for name, strategy in STRATEGIES.items():
        tier = tier_of(board, strategy, healths)
        yield f"pick of 8, {name}", best_ns(tier.pick, ALL, later_us, 7, 1_000, 300)
    yield "pick of 1", best_ns(tier_of(board, WEIGHTED, healths[:1]).pick, 1, later_us)
    yield "wait_us of 8", best_ns(tier_of(board, ORDERED, healths).wait_us, ALL, later_us)
    health = healths[0]
    yield "verdict", best_ns(health.verdict, later_us)
    yield "maybe_key", best_ns(health.maybe_key, 1, later_us)
    yield "begin + first_byte + end", best_ns(attempt, health, now_us)
    yield "told, with something left", best_ns(health.told, 0, 9, later_us, 9, later_us, now_us)
    yield "quantile_us", best_ns(health.quantile_us, 0.95)
    traffic = board.traffic(b"t" * 16)
    yield "offered", best_ns(traffic.offered, now_us)
    yield "take_retry", best_ns(traffic.take_retry, now_us, 0.2, 10.0)


def attempt(health: Health, now_us: int) -> None:
    health.begin(now_us)
    health.first_byte(200_000, now_us)
    health.end(OK, now_us, 900_000)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        segment = Segment(f"{directory}/state/segment", 1)
        board = Board(segment, 0)
        board.prepare()
        for name, cost_ns in figures(board):
            print(f"{name:36} {cost_ns:7.0f} ns")


if __name__ == "__main__":
    main()
