"""`llmgw simulate`: what a configuration would refuse, queue and cost, before it is in force."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from llmgw.config import Config, load_file
from llmgw.config.units import duration_s, positive_duration_s
from llmgw.ledger import Reader
from llmgw.ledger.cli import moment
from llmgw.simulate import strategies_cli
from llmgw.simulate.mix import load_mix
from llmgw.simulate.report import FORMATS
from llmgw.simulate.run import Scenario, simulate
from llmgw.simulate.traffic import of_ledger, of_mix
from llmgw.simulate.wire import Outage

LENGTH_S: Final = 60.0  # of a mix
MACHINES_MAX: Final = 10_000
OUTAGE: Final = re.compile(r"([^+]+)\+([^+:]+)(?::([1-9][0-9]{0,4}))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    strategies_cli.add_arguments(
        parser.add_subparsers(metavar="[strategies]").add_parser(
            "strategies", help="instead: strategies side by side, over targets that differ"
        )
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration to try; required")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--ledger", metavar="DIR", help="replay the requests of this ledger")
    source.add_argument("--mix", metavar="FILE", help="make requests as this file describes them")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="of the ledger: 7d (ago) or 2026-11-01")
    parser.add_argument("--machines", type=machines, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--duration", type=length, metavar="TIME", help="default: 60s of a mix, all of a ledger"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed, the same figures")
    parser.add_argument("--rtt", type=length, default=0.001, metavar="TIME", help="to Redis; default: 1ms")
    parser.add_argument(
        "--redis-loss", type=share, default=0.0, metavar="SHARE", help="of exchanges that get no answer"
    )
    parser.add_argument(
        "--outage",
        type=outage,
        action="append",
        default=[],
        metavar="AFTER+TIME[:N]",
        help="of Redis: 60s+30s",
    )
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.set_defaults(run=partial(run, parser))


def machines(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MACHINES_MAX:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 1 to {MACHINES_MAX}")
    return int(text)


def length(text: str) -> float:
    return duration(text, positive_duration_s)


def duration(text: str, parse: Callable[[object], float]) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {error}") from None


def share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a share from 0 to 1")
    return found


def outage(text: str) -> Outage:
    match = OUTAGE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected two durations such as 60s+30s")
    machines = int(match[3]) if match[3] else None
    return Outage(duration(match[1], duration_s), duration(match[2], positive_duration_s), machines)


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    if args.config is None or (args.ledger is None and args.mix is None):
        parser.error("--config and one of --ledger and --mix are required")  # not by `strategies`
    config = load_file(args.config, os.environ)
    scenario = scenario_of(args, config)
    if scenario is None:
        return 1
    if args.machines > 1 and config.redis is None:
        print("The configuration has no redis: each machine has the limits to itself.", file=sys.stderr)
    bar = Bar()
    outcome = simulate(scenario, bar.show)
    bar.clear()
    print(FORMATS[args.format](outcome), end="")
    return 0


def scenario_of(args: argparse.Namespace, config: Config) -> Scenario | None:
    """None: there is nothing to replay, which was told."""
    bare = Scenario(
        config,
        lambda: (),
        args.duration or LENGTH_S,
        machines=args.machines,
        seed=args.seed,
        rtt_s=args.rtt,
        redis_loss=args.redis_loss,
        outages=tuple(args.outage),
    )
    if args.mix is not None:
        mix = load_mix(args.mix, config, os.environ)
        return replace(bare, traffic=partial(of_mix, mix, bare.length_s, args.seed))
    return of_replay(args, bare)


def of_replay(args: argparse.Namespace, bare: Scenario) -> Scenario | None:
    since_s = args.since(time.time()) if args.since else 0.0
    try:
        requests, start_us = of_ledger(Reader(args.ledger, since_s), args.seed)
    except OSError as error:
        print(f"{error.filename or args.ledger}: {error.strerror}", file=sys.stderr)
        return None
    if not requests:
        print(f"{args.ledger}: no requests", file=sys.stderr)
        return None
    length_s = args.duration or max(requests[-1].at_us / 1e6, 1.0)
    within = [request for request in requests if request.at_us <= length_s * 1e6]
    return replace(bare, traffic=lambda: within, length_s=length_s, start_us=start_us)


class Bar:
    """Shows how far it is, where somebody is watching."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()

    def show(self, done: float) -> None:
        if self._is_on:
            print(f"\r\x1b[K{min(done, 1):4.0%}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
