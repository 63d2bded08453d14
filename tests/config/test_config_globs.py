"""Globs decide what a key may ask for, on names that clients send."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.config import GlobMap, GlobSet
from llmgw.config.globs import MEMO_MAX, NAME_MAX

GLOBS = st.text(alphabet="aB.*?[]!", max_size=6)
NAMES = st.text(alphabet="aBb.[]!\n", max_size=6)


def matches(glob: str, name: str) -> bool:
    """The definition, letter by letter."""
    if not glob:
        return not name
    if glob[0] == "*":
        return matches(glob[1:], name) or (bool(name) and matches(glob, name[1:]))
    return bool(name) and glob[0] in ("?", name[0]) and matches(glob[1:], name[1:])


@given(st.lists(GLOBS, max_size=3), NAMES)
def test_a_set_matches_what_any_of_its_globs_matches_by_definition(globs: list[str], name: str) -> None:
    allowed = GlobSet(globs)
    assert (name in allowed) is any(matches(glob, name) for glob in globs)
    assert (name in allowed) is any(matches(glob, name) for glob in globs)  # from memory


@given(st.dictionaries(GLOBS, st.integers(), max_size=4), NAMES)
def test_an_exact_key_beats_a_glob_and_a_longer_glob_a_shorter_one(table: dict[str, int], name: str) -> None:
    fitting = [glob for glob in table if matches(glob, name)]
    best = max(
        fitting,
        key=lambda glob: (glob == name and "*" not in glob and "?" not in glob, len(glob)),
        default=None,
    )
    found = GlobMap(table)
    assert found.get(name) == (None if best is None else table[best])
    assert found.get(name) == (None if best is None else table[best])  # from memory


def test_the_memory_of_names_that_clients_send_has_a_bound() -> None:
    allowed, table = GlobSet(["*"]), GlobMap({"gpt-*": 1})
    for number in range(3 * MEMO_MAX):
        assert f"name-{number}" in allowed
        assert table.get(f"name-{number}") is None
    assert len(allowed._memo) <= MEMO_MAX
    assert len(table._memo) <= MEMO_MAX


def test_a_name_beyond_any_real_length_matches_nothing_and_is_not_remembered() -> None:
    allowed, table = GlobSet(["*"]), GlobMap({"*": 1})
    assert "a" * NAME_MAX in allowed
    assert table.get("a" * NAME_MAX) == 1
    assert "a" * (NAME_MAX + 1) not in allowed
    assert table.get("a" * (NAME_MAX + 1)) is None
    assert max(map(len, allowed._memo)) == max(map(len, table._memo)) == NAME_MAX


@pytest.mark.parametrize("glob", ["*a" * 20 + "b", "?*" * 60 + "b"])
def test_no_name_makes_a_glob_backtrack(glob: str) -> None:
    before = time.process_time()
    assert "a" * NAME_MAX not in GlobSet([glob])
    assert time.process_time() - before < 1.0  # seconds; with backtracking it is centuries
