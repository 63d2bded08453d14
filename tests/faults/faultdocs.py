"""The table of docs/faults.md from that of the tests. Run as a program it writes it there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from faulttable import CLOSED, SECTIONS, Outcome, Row

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
HEAD = (
    *("fault", "as the mock is told", "request", "client gets", "within", "requests: first, second"),
    *("next asks first", "circuit", "charged", "alone: error", "requests", "retry", "charged"),
)


def text() -> str:
    return "\n".join(line for title, rows in SECTIONS.items() for line in section(title, rows)) + "\n"


def section(title: str, rows: list[Row]) -> Iterator[str]:
    yield from (f"\n### {title}\n", line_of(HEAD), "|---" * len(HEAD) + "|")
    for row in rows:
        if row.whole == row.stream and row.whole is not None:
            yield line_of((*fault_of(row), "any", *cells(row.whole)))
            continue
        for word, outcome in (("whole", row.whole), ("stream", row.stream)):
            if outcome is not None:
                yield line_of((*fault_of(row), word, *cells(outcome)))


def fault_of(row: Row) -> tuple[str, str]:
    words = ", ".join(f"{name}: {shown(value)}" for name, value in row.fault.items())
    return f"{row.does} (`{row.name}`)", f"`{words}`" if words else ""


def shown(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def cells(outcome: Outcome) -> Iterator[str]:
    yield {"second": "the second's answer", "cut": "a part, and"}.get(outcome.gets, answer_of(outcome)) + (
        f" {outcome.code or 'a visible cut'}" if outcome.gets == "cut" else ""
    )
    yield f"{outcome.within_s:g} s"
    yield f"{outcome.first}, {outcome.second}"
    yield "" if outcome.again is None else "yes" if outcome.again else "no"
    yield "" if outcome.circuit is None else "closed" if outcome.circuit == CLOSED else "open"
    yield outcome.charged or "nothing"
    if outcome.alone is None:
        yield from ("the same" if outcome.gets == "first" else "", "", "", "")
        return
    yield " ".join(map(str, outcome.alone))
    yield "" if outcome.alone_first is None else str(outcome.alone_first)
    yield f"{'yes' if outcome.alone_retry else 'no'}" + (
        f", after {outcome.alone_after_s} s" if outcome.alone_after_s else ""
    )
    yield "if it was sent" if outcome.alone_charged is None else outcome.alone_charged or "nothing"


def answer_of(outcome: Outcome) -> str:
    return "the first's answer" + (f", {outcome.status}" if outcome.status != 200 else "")


def line_of(texts: tuple[str, ...]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def in_page(page: str) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, f"{PAGE} has no place for the table"
    return before + BEGIN + text() + END + after


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text()))
