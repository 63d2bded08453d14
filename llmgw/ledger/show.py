"""Totals as a table for people, as CSV for spreadsheets, as JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Final

from llmgw.ledger.totals import Sum, Totals

FIGURES: Final[dict[str, Callable[[Sum], int | str]]] = {
    "requests": lambda total: total.requests,
    "attempts": lambda total: total.attempts,
    "input_tokens": lambda total: total.input_tokens,
    "output_tokens": lambda total: total.output_tokens,
    "cached_tokens": lambda total: total.cached_tokens,
    "cost_usd": lambda total: usd_text(total.cost_usd_micro),
    "uncharged_usd": lambda total: usd_text(total.uncharged_usd_micro),
    "unpriced": lambda total: total.unpriced,
}
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
NOTHING: Final = "-"  # in a table, for a user or tag that no request named


def usd_text(usd_micro: int) -> str:
    """Exact to the micro-dollar: no float has touched it."""
    sign = "-" if usd_micro < 0 else ""
    return f"{sign}{abs(usd_micro) // 1_000_000}.{abs(usd_micro) % 1_000_000:06d}"


def figures(total: Sum) -> dict[str, int | str]:
    return {name: figure(total) for name, figure in FIGURES.items()}


def ordered(totals: Totals) -> Iterator[tuple[dict[str, str], Sum]]:
    """Each group as {word: value}, sorted by its values."""
    for group in sorted(totals.rows):
        yield dict(zip(totals.by, group, strict=True)), totals.rows[group]


def to_table(totals: Totals) -> str:
    rows = [
        [*map(shown, group.values()), *map(grouped, figures(row).values())] for group, row in ordered(totals)
    ]
    last = ["total", *[""] * (len(totals.by) - 1), *map(grouped, figures(totals.total).values())]
    lines = aligned([[*totals.by, *FIGURES], *rows, last], len(totals.by))
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], *([rule] if rows else []), lines[-1], ""])


def aligned(rows: list[list[str]], words: int) -> list[str]:
    """Words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(padded(row, widths, words)).rstrip() for row in rows]


def padded(row: list[str], widths: list[int], words: int) -> Iterator[str]:
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if index < words else cell.rjust(width)


def shown(value: str) -> str:
    """A client chose it: nothing in it may steer a terminal."""
    safe = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return safe or NOTHING


def grouped(figure: int | str) -> str:
    """Thousands apart."""
    if isinstance(figure, int):
        return f"{figure:,}"
    whole, _, decimals = figure.partition(".")
    return f"{int(whole):,}.{decimals}"


def to_csv(totals: Totals) -> str:
    """Without a line of totals, which would be counted again by whoever adds a column up."""
    text = io.StringIO()
    table = csv.DictWriter(text, [*totals.by, *FIGURES], lineterminator="\n")
    table.writeheader()
    for group, row in ordered(totals):
        table.writerow({**{word: harmless(value) for word, value in group.items()}, **figures(row)})
    return text.getvalue()


def harmless(value: str) -> str:
    """A client chose it: a spreadsheet must not take it for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value


def to_json(totals: Totals) -> str:
    rows = [{**group, **figures(row)} for group, row in ordered(totals)]
    return json.dumps({"rows": rows, "total": figures(totals.total)}, indent=2) + "\n"


FORMATS: Final = {"table": to_table, "csv": to_csv, "json": to_json}
