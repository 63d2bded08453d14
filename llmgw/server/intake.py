"""A request of the general lane as the gate counts it; the fast lane does the same for itself."""

from __future__ import annotations

from typing import Final

from llmgw._wire.gate import REASONS
from llmgw.overload import Overload

MEMORY: Final = REASONS.index("memory")
# A body that does not say how long it is gets room for so much, then for as much again, and so on. Where
# there is none it gives back all it had, so that of many that grow side by side some come to their end.
UNSAID_BYTES: Final = 1 << 18
# Its pieces, and the whole that is made of them.
COPIES: Final = 2


class Intake:
    def __init__(self, overload: Overload) -> None:
        self.overload = overload
        self.gate = overload.gate
        self.is_open = False
        self.missing_bytes = 0  # what the gate still expects of it
        self.read_bytes = 0
        self.room_bytes: int | None = None  # what may be read of a body of unknown length

    def open(self, body_bytes: int | None, *, is_read: bool = True) -> None:
        """Before the body is read, of which so much will be in memory; None: who knows. Raises Overloaded.

        `is_read`: piece by piece, to its end, and by `on_piece`.
        """
        if body_bytes is None:
            self.room_bytes = UNSAID_BYTES
            body_bytes = COPIES * UNSAID_BYTES
        reason = self.gate.enter(body_bytes)
        if reason:
            raise self.overload.refusal(reason)
        self.is_open = True
        if is_read:
            self.expect(body_bytes)

    def on_piece(self, size: int) -> None:
        """Raises Overloaded where a body that did not say how long it is has become too long."""
        self.read_bytes += size
        while self.room_bytes is not None and self.read_bytes > self.room_bytes:
            self.grow(self.room_bytes)
        self.expect(-size)

    def grow(self, room_bytes: int) -> None:
        if not self.gate.grow(COPIES * room_bytes):
            self.gate.grow(-COPIES * room_bytes)  # all it had
            raise self.overload.refusal(MEMORY)
        self.room_bytes = 2 * room_bytes
        self.expect(COPIES * room_bytes)

    def expect(self, body_bytes: int) -> None:
        self.missing_bytes += body_bytes
        self.gate.expect(body_bytes)

    def done(self) -> None:
        """The body is whole."""
        self.expect(-self.missing_bytes)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.done()
            self.gate.leave()
