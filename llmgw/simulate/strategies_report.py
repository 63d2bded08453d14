"""What strategies came to, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from llmgw.simulate.report import Row, quantile, ratio, table
from llmgw.simulate.strategies import ANSWERED, Book, TargetBook, Traffic

COLUMNS: Final = ("p50_ms", "p99_ms", "errors", "attempts", "usd_per_1000", "openings")
TARGET_COLUMNS: Final = ("share", "attempts", "failed", "429", "openings", "p50_ms", "p99_ms")


def document(traffic: Traffic, books: Sequence[Book]) -> Row:
    return {
        "scenario": {
            "requests_per_s": traffic.requests_per_s,
            "seconds": traffic.length_s,
            "seed": traffic.seed,
        },
        "strategies": [strategy_row(book) for book in books],
    }


def strategy_row(book: Book) -> Row:
    answered = book.ends[ANSWERED]
    return {
        "strategy": book.strategy,
        "offered": book.offered,
        "answered": answered,
        **quantiles(book.first_tokens_us),
        "errors": ratio(book.errors, book.offered),
        "codes": {code: count for code, count in sorted(book.ends.items()) if code != ANSWERED},
        "attempts": ratio(sum(one.attempts for one in book.targets.values()), book.offered),
        "usd_per_1000": round(book.cost_pusd / answered / 1e9, 6) if answered else 0.0,
        "openings": sum(one.openings for one in book.targets.values()),
        "targets": [
            {"strategy": book.strategy, "target": name} | target_row(one, answered)
            for name, one in book.targets.items()
        ],
    }


def target_row(book: TargetBook, answered: int) -> Row:
    return {
        "share": ratio(book.answered, answered),
        "attempts": book.attempts,
        "failed": book.failed,
        "429": book.refused,
        "openings": book.openings,
        **quantiles(book.first_tokens_us),
    }


def quantiles(values_us: list[int]) -> Row:
    found = sorted(values_us)
    return {"p50_ms": round(quantile(found, 0.5) / 1e3), "p99_ms": round(quantile(found, 0.99) / 1e3)}


def to_json(traffic: Traffic, books: Sequence[Book]) -> str:
    return json.dumps(document(traffic, books), indent=2) + "\n"


def to_table(traffic: Traffic, books: Sequence[Book]) -> str:
    rows = document(traffic, books)["strategies"]
    targets = [
        target | {name: percent(target[name]) for name in ("share",)}
        for row in rows
        for target in row["targets"]
    ]
    summary = [
        row
        | {
            "errors": percent(row["errors"]),
            "attempts": f"{row['attempts']:.3f}",
            "usd_per_1000": f"{row['usd_per_1000']:.3f}",
        }
        for row in rows
    ]
    return "\n".join(
        [table(("strategy",), COLUMNS, summary), table(("strategy", "target"), TARGET_COLUMNS, targets)]
    )


def percent(share: float) -> str:
    return f"{share:.2%}"
