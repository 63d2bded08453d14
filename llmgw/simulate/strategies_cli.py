"""`llmgw simulate strategies`: how each strategy fares over targets that differ."""

from __future__ import annotations

import argparse
from typing import Final

from llmgw.routing.catalog import STRATEGIES
from llmgw.simulate.strategies import Traffic, play
from llmgw.simulate.strategies_report import to_json, to_table
from llmgw.simulate.strategies_targets import built_in, load_targets

RATE_MAX: Final = 10_000.0
LENGTH_MAX_S: Final = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    plain = Traffic()
    parser.add_argument(
        "--requests-per-second",
        type=Between(RATE_MAX),
        default=plain.requests_per_s,
        metavar="R",
        help="default: %(default)g",
    )
    parser.add_argument(
        "--seconds",
        type=Between(LENGTH_MAX_S),
        default=plain.length_s,
        metavar="S",
        help="default: %(default)g",
    )
    parser.add_argument("--targets", metavar="FILE", help="default: five that are built in")
    parser.add_argument(
        "--strategy",
        action="append",
        choices=STRATEGIES,
        metavar="NAME",
        help="may be repeated; default: each",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same figures")
    parser.add_argument("--json", action="store_true", help="instead of tables")
    parser.set_defaults(run=run)


class Between:
    """A number above 0, up to `most`."""

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = 0.0
        if not 0 < found <= self.most:
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected a number above 0, up to {self.most:g}"
            )
        return found


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    targets = load_targets(args.targets) if args.targets else built_in()
    traffic = Traffic(args.requests_per_second, args.seconds, args.seed)
    books = [play(strategy, targets, traffic) for strategy in args.strategy or STRATEGIES]
    print((to_json if args.json else to_table)(traffic, books), end="")
    return 0
