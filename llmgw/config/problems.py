"""What is wrong with a configuration, one line each: `FILE:LINE: path.to.key: found X, expected Y`.

No credential can get into such a line: X is made from the file's own text (never from an
expanded variable), and is hidden wherever a credential may stand, also by mistake.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

HIDDEN = "<hidden>"
SHOWN_MAX = 60
# Below these words a scalar may be a credential, or a mistyped line that holds one.
SECRET_WORDS = frozenset({"keys", "api_keys", "proxy", "url", "webhook"})
# The prefix of most providers' keys, and what precedes or follows a credential in a URL.
KEY_PREFIX = re.compile(r"(?<![A-Za-z0-9])sk-")
SECRET_MARKS = re.compile(r"[@?#]|" + KEY_PREFIX.pattern)
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
LETTERS = re.compile(r"[A-Za-z_-]{1,40}", re.ASCII)
SIMILAR = 0.8  # difflib's ratio from which two words are one with a typo


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and what of it may be shown."""

    line: int
    found: str


@dataclass(slots=True)
class Problems:
    """The mistakes of one file. The first about a path stands; what merely follows from it is dropped.

    Notices are about what is no mistake and may still surprise.
    """

    source: str
    places: Mapping[Path, Place]
    found: list[tuple[int, str]] = field(default_factory=list)
    covered: set[Path] = field(default_factory=set)
    noted: list[tuple[int, str]] = field(default_factory=list)

    def add(
        self,
        path: Path,
        expected: str,
        *,
        found: str | None = None,
        line: int | None = None,
        aside: bool = False,
    ) -> None:
        """An `aside` says something about the file, not about the value at `path`, and hides nothing."""
        if self.covers(path):
            return
        if not aside:
            self.covered.add(path)
        place = self.places.get(path)
        shown = found or (place.found if place else "nothing")
        at = line or self._line(path)
        self.found.append((at, f"{path_text(path)}: found {shown}, expected {expected}"))

    def note(self, path: Path, text: str) -> None:
        self.noted.append((self._line(path), f"{path_text(path)}: notice: {text}"))

    def covers(self, path: Path) -> bool:
        return any(path[:length] in self.covered for length in range(len(path) + 1))

    def any_below(self, path: Path) -> bool:
        return any(covered[: len(path)] == path for covered in self.covered)

    def _line(self, path: Path) -> int:
        """A key that is not there is reported where its mapping begins."""
        above = (path[:length] for length in range(len(path), -1, -1))
        return next((self.places[path].line for path in above if path in self.places), 1)

    def lines(self) -> list[str]:
        return self._lines(self.found)

    def notices(self) -> list[str]:
        return self._lines(self.noted)

    def _lines(self, texts: list[tuple[int, str]]) -> list[str]:
        return [one_line(f"{self.source}:{line}: {text}") for line, text in sorted(texts)]


def path_text(path: Path) -> str:
    """`models."gpt-4.1".targets[0].provider`; what is no plain word is quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + shown_step(step)
    return text or "(file)"


def shown_step(step: str) -> str:
    if KEY_PREFIX.search(step):
        return HIDDEN
    return step if PLAIN_KEY.fullmatch(step) else quoted(step)


def quoted(text: str) -> str:
    """In double quotes, on one line, not too long."""
    short = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"
    return '"' + one_line(short.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown_scalar(path: Path, text: str) -> str:
    if SECRET_WORDS.intersection(path) or SECRET_MARKS.search(text):
        return HIDDEN
    return quoted(text)


def shown_key(key: str, allowed: Iterable[str]) -> str:
    """A missing blank after a colon makes `key:sk-123` a key; a word or a near miss is safe to show."""
    if LETTERS.fullmatch(key) or any(similarity(key, word) >= SIMILAR for word in allowed):
        return key
    return HIDDEN


def similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def nearest_first(word: str, allowed: Iterable[str]) -> list[str]:
    return sorted(allowed, key=lambda candidate: -similarity(word, candidate))
