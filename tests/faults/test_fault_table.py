"""The table leaves out no fault of the mock, and the docs say what the table says."""

from __future__ import annotations

from dataclasses import fields

import pytest
from faultdocs import PAGE, in_page
from faulttable import CASES, SECTIONS, Row

from llmgw.mock import Fault
from llmgw.mock.fault import GARBAGE, LENGTHS, SSE_STYLES

ROWS: list[Row] = [row for rows in SECTIONS.values() for row in rows]
# What an answer says, and not how it goes wrong.
CONTENT = {"text", "cached_tokens"}
POINTS = ("before-head", "after-head", "events", "bytes")


def test_every_fault_of_the_mock_is_in_the_table() -> None:
    used = {name for row in ROWS for name in row.fault}
    assert {field.name for field in fields(Fault)} - used == CONTENT


@pytest.mark.parametrize(
    ("name", "kinds"), [("garbage", GARBAGE[1:]), ("duplicate_length", LENGTHS[1:]), ("sse", SSE_STYLES)]
)
def test_every_kind_of_a_fault_is_in_the_table(name: str, kinds: tuple[str, ...]) -> None:
    assert {row.fault[name] for row in ROWS if name in row.fault} == set(kinds)


@pytest.mark.parametrize("end", ["stall", "reset", "close"])
def test_every_end_is_tried_at_every_point(end: str) -> None:
    assert {row.fault[end].partition(":")[0] for row in ROWS if end in row.fault} == set(POINTS)


def test_the_table_is_long_and_names_each_case_once() -> None:
    assert len(ROWS) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_docs_show_this_table() -> None:
    """Else: python tests/faults/faultdocs.py."""
    page = PAGE.read_text()
    assert in_page(page) == page
