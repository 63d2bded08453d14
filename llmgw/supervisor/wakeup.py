"""Signals as something a selector can wait for.

Python's handlers run between two bytecodes of the main thread, so a loop that waits in the kernel
would miss one that came just before. The wake-up descriptor closes that gap; the handlers only note.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self


class Wakeup:
    """While entered, the given signals make `fileno` readable and are kept for `take`."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._taken: list[int] = []
        self._before: dict[signal.Signals, Any] = {}
        self._read, self._write = socket.socketpair()

    def __enter__(self) -> Self:
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._taken.append(number)

    def fileno(self) -> int:
        return self._read.fileno()

    def take(self) -> list[int]:
        """The signals since the last call, in order; several equal ones stay several."""
        try:
            while self._read.recv(4096):
                pass
        except BlockingIOError:
            pass
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        """Closes the descriptors without touching handlers: for a child."""
        self._read.close()
        self._write.close()
