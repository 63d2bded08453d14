"""The request log: finished lines in, a file or a pipe out, and the event loop never waits for it.

`write` puts a line into a bounded queue; a thread of its own takes them out in batches. A sink that
is slow fills the queue, one that is dead or full refuses: in both cases lines are dropped and
counted, and the gateway goes on.

Whole lines only: a file is opened for appending and gets a batch in one call; a pipe, which keeps
writes of up to PIPE_BUF bytes apart, gets as many whole lines as fit into that. So lines of several
workers never mix.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

logger = logging.getLogger(__name__)

QUEUE_BYTES: Final = 4 << 20
BATCH_BYTES: Final = 1 << 20  # one call; half that much queued makes the next one due at once
FLUSH_S: Final = 0.05
RETRY_S: Final = 1.0  # between looks at a file that was moved away, or attempts at a broken sink
POLL_S: Final = 0.1
CLOSE_S: Final = 2.0
STDOUT: Final = "-"


def split_batch(lines: list[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Whole lines in pieces of at most `limit_bytes`; a longer line is a piece of its own."""
    piece: list[bytes] = []
    size_bytes = 0
    for line in lines:
        if piece and size_bytes + len(line) > limit_bytes:
            yield b"".join(piece)
            piece, size_bytes = [], 0
        piece.append(line)
        size_bytes += len(line)
    if piece:
        yield b"".join(piece)


class Sink:
    """Where lines go. Used by the writer's thread alone; errors are the caller's to count."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._torn = False  # the last write ended inside a line
        self.piece_bytes = BATCH_BYTES

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def open(self) -> None:
        """Opens anew. Where that fails, what was open stays open. OSError."""
        if self.path == STDOUT:
            fd = os.dup(1)
        else:
            # Non-blocking for a named pipe: without a reader it is ENXIO instead of waiting.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            fd = os.open(self.path, flags, 0o640)
        self.close()
        self._fd, self._torn = fd, False
        self.piece_bytes = BATCH_BYTES if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def was_moved(self) -> bool:
        """Whether the path now names another file, or none: it was rotated."""
        if self.path == STDOUT or not self.is_open:
            return False
        try:
            named, held = os.stat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino)

    def wait_writable(self, timeout_s: float) -> bool:
        """A pipe is writable when PIPE_BUF bytes fit, so the write after this does not block."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(timeout_s * 1000))

    def write(self, piece: bytes) -> int:
        """Writes a piece, and returns how many of its lines are whole in the sink. OSError: none were.

        What a full disk cut short is ended with a newline before the next line.
        """
        if self._torn:
            os.write(self._fd, b"\n")
            self._torn = False
        written = os.write(self._fd, piece)
        while 0 < written < len(piece):
            try:
                written += os.write(self._fd, piece[written:])
            except OSError:
                break
        self._torn = not piece[:written].endswith(b"\n")
        return piece[:written].count(b"\n")


class RequestLog:
    """One for each worker, made in the worker: it starts a thread.

    `write` is for the event loop's thread; `on_drop` is told of dropped lines from either thread.
    Raises OSError where the path cannot be opened at all.
    """

    def __init__(
        self, path: str, on_drop: Callable[[int], object] = lambda lines: None, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._on_drop = on_drop
        self._queue_bytes = queue_bytes
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0  # ever; only the loop's thread writes it
        self._settled_bytes = 0  # ever; only the writer's thread does
        self._wake = threading.Event()
        self._idle = True  # the thread sleeps until it is woken
        self._urgent = False  # it was told that a batch is full
        self._reopen = False
        self._close_at_s = 0.0  # 0: not closing
        self._sink = Sink(path)
        self._broken = False
        self._look_at_s = time.monotonic() + RETRY_S
        self._open_first()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Takes one line with its newline; never blocks, never raises."""
        waiting_bytes = self._queued_bytes - self._settled_bytes
        if waiting_bytes + len(line) > self._queue_bytes or self._close_at_s:
            self._on_drop(1)
            return
        self._queued_bytes += len(line)
        self._lines.append(line)
        if self._idle:
            self._idle = False
            self._wake.set()
        elif waiting_bytes >= BATCH_BYTES // 2 and not self._urgent:
            self._urgent = True
            self._wake.set()

    def reopen(self) -> None:
        """For log rotation: what is written from the next batch on goes to the path's file of then."""
        self._reopen = True
        self._idle = False
        self._wake.set()

    def close(self, deadline_s: float = CLOSE_S) -> None:
        """Writes what is queued, for at most `deadline_s`; what is left then is dropped and counted."""
        self._close_at_s = time.monotonic() + deadline_s
        self._wake.set()
        self._thread.join(deadline_s + 2 * POLL_S)
        if self._thread.is_alive():  # in a write that does not return; it ends with the process
            self._on_drop(len(self._lines))

    # The writer's thread.

    def _run(self) -> None:
        while not self._close_at_s:
            self._wake.wait()
            if not self._close_at_s:
                self._wake.clear()
                self._wake.wait(FLUSH_S)
            self._wake.clear()
            self._flush()
        self._flush()
        self._sink.close()

    def _flush(self) -> None:
        self._urgent = False
        self._maybe_reopen()
        # What is there now, not what comes meanwhile: going on would mean a turn for each line, and each
        # turn costs the loop's thread a hand-over of the interpreter (measured: a tenth of a request).
        left = len(self._lines)
        while left > 0:
            lines = self._take(left)
            left -= len(lines)
            self._write(lines)
            self._settled_bytes += sum(map(len, lines))
        self._idle = True
        if self._lines or self._reopen:  # came in between: their writer saw a thread that was not idle
            self._idle = False
            self._wake.set()

    def _take(self, most: int) -> list[bytes]:
        lines: list[bytes] = []
        size_bytes = 0
        while len(lines) < most and size_bytes < BATCH_BYTES:
            line = self._lines.popleft()
            lines.append(line)
            size_bytes += len(line)
        return lines

    def _write(self, lines: list[bytes]) -> None:
        whole = 0
        try:
            if self._sink.is_open:
                for piece in split_batch(lines, self._sink.piece_bytes):
                    whole += self._write_piece(piece)
        except OSError as error:
            self._note_broken(error)
        else:
            self._note_working(whole)
        if whole < len(lines):
            self._on_drop(len(lines) - whole)

    def _write_piece(self, piece: bytes) -> int:
        """Waits for a slow sink as long as it takes, at the end until the deadline."""
        while not self._close_at_s or time.monotonic() < self._close_at_s:
            if self._sink.wait_writable(POLL_S):
                try:
                    return self._sink.write(piece)
                except BlockingIOError:  # another worker was quicker
                    continue
        return 0

    def _open_first(self) -> None:
        try:
            self._sink.open()
        except OSError as error:
            if error.errno != errno.ENXIO:  # a named pipe whose reader comes later
                raise
            self._note_broken(error)

    def _maybe_reopen(self) -> None:
        now_s = time.monotonic()
        look = now_s >= self._look_at_s
        if look:
            self._look_at_s = now_s + RETRY_S
        if not (self._reopen or (look and (self._broken or self._sink.was_moved()))):
            return
        self._reopen = False
        try:
            self._sink.open()
        except OSError as error:
            self._note_broken(error)

    def _note_broken(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            logger.warning(
                "request log %s: %s; lines are dropped and counted", self._sink.path, error.strerror
            )

    def _note_working(self, whole: int) -> None:
        if self._broken and whole:
            self._broken = False
            logger.warning("request log %s: works again", self._sink.path)
