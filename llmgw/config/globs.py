"""Globs over names that clients send: `*` is any run of characters, `?` is one; case counts.

The names come from outside, so nothing here grows with them: a memo has a bound, and a name
longer than any real one matches nothing before a pattern is even tried.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

# The longest identifiers in use, those of fine-tuned models and of files inside URLs, stay under 200.
NAME_MAX = 512
# One memo is at most 512 KB in the worst case, at names of the maximal length.
MEMO_MAX = 1024

T = TypeVar("T")


def is_glob(name: str) -> bool:
    return "*" in name or "?" in name


def glob_to_regex(glob: str) -> str:
    """`[` is an ordinary character here. The translation of the standard library has atomic groups,
    so a pattern with many stars cannot be made to backtrack by the name that it is tried on."""
    return fnmatch.translate(glob.replace("[", "[[]"))


class GlobSet:
    """An allow-list: does any of the globs match?"""

    __slots__ = ("_memo", "_regex", "globs")

    def __init__(self, globs: Iterable[str]) -> None:
        self.globs = tuple(globs)
        # An empty alternation would match the empty name; `(?!)` matches nothing.
        self._regex = re.compile("|".join(map(glob_to_regex, self.globs)) or "(?!)")
        self._memo: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        known = self._memo.get(name)
        return self._match(name) if known is None else known

    def _match(self, name: str) -> bool:
        if len(name) > NAME_MAX:
            return False
        if len(self._memo) >= MEMO_MAX:
            self._memo.clear()
        found = self._memo[name] = self._regex.match(name) is not None
        return found


class GlobMap(Generic[T]):
    """A table whose keys may be globs: an exact key beats a glob, a longer glob beats a shorter one.

    Globs of one length are tried in the order of the table.
    """

    __slots__ = ("_exact", "_globs", "_memo")

    def __init__(self, table: Mapping[str, T]) -> None:
        self._exact = {name: value for name, value in table.items() if not is_glob(name)}
        by_length = sorted(filter(is_glob, table), key=len, reverse=True)
        self._globs = [(re.compile(glob_to_regex(glob)), table[glob]) for glob in by_length]
        self._memo: dict[str, T | None] = {}

    def get(self, name: str) -> T | None:
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return self._memo[name] if name in self._memo else self._match(name)

    def _match(self, name: str) -> T | None:
        if len(name) > NAME_MAX:
            return None
        if len(self._memo) >= MEMO_MAX:
            self._memo.clear()
        found = self._memo[name] = next((value for regex, value in self._globs if regex.match(name)), None)
        return found
