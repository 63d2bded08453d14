"""The command line: `llmgw serve | check | usage | simulate | mock | bench`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from llmgw import __version__
from llmgw.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(words[0] if words and words[0] in COMMANDS else None).parse_args(words)
    try:
        code: int = args.run(args)
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 1
    return code


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Only the command that is asked for imports its world: `check` must not wait for an event loop's."""
    parser = argparse.ArgumentParser(prog="llmgw", description="An LLM API gateway.")
    parser.add_argument("--version", action="version", version=f"llmgw {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="serve|check|usage|simulate|mock|bench"
    )
    for name, (add_arguments, help_line) in COMMANDS.items():
        subparser = commands.add_parser(name, help=help_line)
        if command in {None, name}:
            add_arguments(subparser)
    return parser


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="default: made from the environment's provider keys")
    parser.add_argument("--host", help="instead of the configuration's server.host")
    parser.add_argument("--port", type=int, help="instead of server.port")
    parser.add_argument("--workers", metavar="N|auto", help="instead of server.workers")
    parser.set_defaults(run=serve)


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=check)


def serve(args: argparse.Namespace) -> int:
    from llmgw.serve import serve as run

    return run(args.config, os.environ, host=args.host, port=args.port, workers=args.workers)


def check(args: argparse.Namespace) -> int:
    from llmgw.config import check as judge

    problems, notices = judge(args.file, os.environ)
    print(*notices, *(problems or [f"{args.file}: good"]), sep="\n")
    return 1 if problems else 0


def add_usage(parser: argparse.ArgumentParser) -> None:
    from llmgw.ledger import cli as usage

    usage.add_arguments(parser)


def add_simulate(parser: argparse.ArgumentParser) -> None:
    from llmgw.simulate import cli as simulate

    simulate.add_arguments(parser)


def add_mock(parser: argparse.ArgumentParser) -> None:
    from llmgw.mock import cli as mock

    mock.add_arguments(parser)
    parser.set_defaults(run=mock.run)


def add_bench(parser: argparse.ArgumentParser) -> None:
    from llmgw.bench import cli as bench

    bench.add_arguments(parser)
    parser.set_defaults(run=bench.run)


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "serve": (add_serve, "run the gateway"),
    "check": (add_check, "judge a configuration without starting"),
    "usage": (add_usage, "show what was used and what it cost"),
    "simulate": (add_simulate, "try a configuration on traffic that was, or that may come"),
    "mock": (add_mock, "run the mock provider"),
    "bench": (add_bench, "run the load generator"),
}
