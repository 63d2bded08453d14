"""`llmgw usage`: what was used and what it cost, from the ledger."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from llmgw.config import from_environment, load_file
from llmgw.config.units import duration_s
from llmgw.ledger.reader import Reader
from llmgw.ledger.show import FORMATS
from llmgw.ledger.totals import BY, Totals

DEFAULT_BY: Final = ("tenant",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="whose ledger; default: the environment's")
    parser.add_argument("--ledger", metavar="DIR", help="the directory itself; needs no configuration")
    parser.add_argument(
        "--by",
        type=words,
        action="extend",
        metavar="WORD[,WORD]",
        help=f"{', '.join(BY)}; default: {', '.join(DEFAULT_BY)}",
    )
    parser.add_argument(
        "--since", type=moment, metavar="WHEN", help="7d (ago), 2026-11-01 or 2026-11-01T12:00"
    )
    parser.add_argument("--until", type=moment, metavar="WHEN", help="the first moment that no longer counts")
    parser.add_argument("--tenant", metavar="NAME", help="only this tenant's")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.set_defaults(run=run)


def words(text: str) -> list[str]:
    """ArgumentTypeError for a word that is not in BY."""
    found = text.split(",")
    for word in found:
        if word not in BY:
            raise argparse.ArgumentTypeError(f"found {word!r}, expected {', '.join(BY)}")
    return found


def moment(text: str) -> Callable[[float], float]:
    """A date, a time of a date (both UTC unless it says otherwise), or so long before now."""
    try:
        ago_s = duration_s(text)
    except ValueError:
        at_s = date_to_s(text)
        return lambda now_s: at_s
    return lambda now_s: now_s - ago_s


def date_to_s(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a duration such as 7d, or a date such as 2026-11-01"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    now_s = time.time()
    directory = args.ledger or directory_of(args.config, os.environ)
    since_s = args.since(now_s) if args.since else 0.0
    until_s = args.until(now_s) if args.until else math.inf
    reader = Reader(directory, since_s, until_s)
    totals = Totals(list(dict.fromkeys(args.by or DEFAULT_BY)))
    try:
        for record in reader:
            if args.tenant in (None, record["tenant_id"]):
                totals.add(record)
    except OSError as error:
        print(f"{error.filename or directory}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        print(FORMATS[args.format](totals), end="", flush=True)
    except OSError as error:
        print(f"standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
        return 1
    tell_what_is_missing(reader, totals)
    return 0


def directory_of(path: str | None, environ: Mapping[str, str]) -> str:
    """Where `llmgw serve` with the same words keeps it."""
    config = load_file(path, environ) if path is not None else from_environment(environ)[0]
    return config.ledger.path


def tell_what_is_missing(reader: Reader, totals: Totals) -> None:
    if totals.total.unpriced:
        print(f"attempts that used tokens at an unknown price: {totals.total.unpriced}", file=sys.stderr)
    if reader.torn_lines:
        print(f"lines that are not whole and were left out: {reader.torn_lines}", file=sys.stderr)
