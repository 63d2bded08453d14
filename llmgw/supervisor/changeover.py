"""A reload as a decision: every worker takes the new configuration, or none does. No I/O.

    PREPARING ── all asked have prepared ──► COMMITTED
        └── one refuses, dies or stays silent ──► ABORTED

The verdict is final once given; whoever starts after it starts with the configuration that won.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmgw.config import Config


class State(enum.Enum):
    PREPARING = enum.auto()
    COMMITTED = enum.auto()
    ABORTED = enum.auto()


class Event(enum.Enum):
    ALL_PREPARED = enum.auto()
    REFUSED = enum.auto()
    DIED = enum.auto()
    TIMED_OUT = enum.auto()


TRANSITIONS: Final = {
    (State.PREPARING, Event.ALL_PREPARED): State.COMMITTED,
    (State.PREPARING, Event.REFUSED): State.ABORTED,
    (State.PREPARING, Event.DIED): State.ABORTED,
    (State.PREPARING, Event.TIMED_OUT): State.ABORTED,
}


class Changeover:
    """`asked` are the slots that must agree; `problems` says why it was aborted, a line each."""

    def __init__(self, generation: int, config: Config, deadline_s: float) -> None:
        self.generation = generation
        self.config = config
        self.deadline_s = deadline_s
        self.state = State.PREPARING
        self.asked: set[int] = set()
        self.problems: list[str] = []
        self._open: set[int] = set()

    def ask(self, slot: int) -> None:
        self.asked.add(slot)
        self._open.add(slot)

    def settle(self) -> None:
        """Commits if nobody is left to wait for."""
        if not self._open:
            self._on(Event.ALL_PREPARED)

    def on_prepared(self, slot: int, generation: int) -> None:
        if generation == self.generation:
            self._open.discard(slot)
            self.settle()

    def on_refused(self, slot: int, generation: int, problems: list[str]) -> None:
        if generation == self.generation:
            self._on(Event.REFUSED, *(f"worker {slot}: {problem}" for problem in problems))

    def on_death(self, slot: int) -> None:
        if slot in self.asked:
            self._on(Event.DIED, f"worker {slot} died while preparing it")

    def on_time(self, now_s: float) -> None:
        if now_s >= self.deadline_s:
            silent = ", ".join(str(slot) for slot in sorted(self._open))
            self._on(Event.TIMED_OUT, f"no answer from worker {silent} in time")

    def _on(self, event: Event, *problems: str) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is not None:
            self.state = after
            self.problems.extend(problems)


def needs_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and that only a restart can change: they are bound to sockets or files."""
    pairs = {
        "server.host": (old.server.host, new.server.host),
        "server.port": (old.server.port, new.server.port),
        "server.workers": (old.server.workers, new.server.workers),
        "server.admin.host": (old.server.admin.host, new.server.admin.host),
        "server.admin.port": (old.server.admin.port, new.server.admin.port),
        "server.state_dir": (old.server.state_dir, new.server.state_dir),
        "ledger.path": (old.ledger.path, new.ledger.path),
        "ledger.sync": (old.ledger.sync_s, new.ledger.sync_s),
        "ledger.max_file": (old.ledger.max_file_bytes, new.ledger.max_file_bytes),
    }
    problems = [
        f"{path}: changed from {before!r} to {after!r}, which takes a restart"
        for path, (before, after) in pairs.items()
        if before != after
    ]
    if old.redis != new.redis:  # its URL may hold a password
        problems.append("redis: changed, which takes a restart")
    return problems
