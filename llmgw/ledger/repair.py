"""What the supervisor does with a ledger: ends the files of dead workers, writes what they could not, and
deletes what is old. A file that is locked has a writer that lives, and is left alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import orjson

from llmgw._core.record import RECORD_MAX_BYTES
from llmgw._core.statefile import private_directory
from llmgw.ledger.mapped import create, sync_data, sync_directory
from llmgw.ledger.names import BLOCK_BYTES, SUPERVISOR, UNWRITTEN, LedgerPath, files_in, moment_of

CRASHED_MAX_BYTES: Final = 16 << 20  # of a file of the supervisor
NUL: Final = b"\0"


class Recovery(NamedTuple):
    files: int  # that a dead process left unfinished
    torn_lines: int  # that were cut off: their attempts have no record, and their holds are still open


def recover(directory: str) -> Recovery:
    """Cuts the unwritten end of every file without a writer, and a last line that is not whole.

    Raises OSError. Can run at any time, again too. Files of a ledger that does not exist yet are none.
    """
    if not os.path.isdir(directory):
        return Recovery(0, 0)
    files = torn_lines = 0
    for file in files_in(directory):
        with _unwritten(file.path) as fd:
            if fd >= 0:
                cut, torn = _end_as_left(file.path, fd)
                files += cut
                torn_lines += torn
    return Recovery(files, torn_lines)


def append_crashed(directory: str, *lines: bytes) -> None:
    """Writes records of attempts whose worker died, and syncs them: all or, with an OSError, none.

    They go into files of the supervisor's own, where readers look for `recovered` records.
    """
    private_directory(directory)
    fd = _crash_file(directory)
    try:
        _append_whole(fd, b"".join(lines))
    finally:
        os.close(fd)
    sync_directory(directory)


def expire(directory: str, retention_s: float, now_s: float) -> int:
    """Deletes the files whose last record is older than `retention_s`; how many they were. OSError."""
    gone = 0
    for file in files_in(directory):
        if file.start_s >= now_s - retention_s:
            continue
        with _unwritten(file.path) as fd:
            if fd >= 0 and _last_moment(fd) < now_s - retention_s:
                os.unlink(file.path)
                gone += 1
    return gone


@contextmanager
def _unwritten(path: str) -> Iterator[int]:
    """The file, locked as long as the block runs; -1 where it has a writer or is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield -1
        return
    try:
        yield fd if _is_lockable(fd) else -1
    finally:
        os.close(fd)


def _is_lockable(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_as_left(path: str, fd: int) -> tuple[bool, bool]:
    """Whether the file was cut, and whether a torn line was. It keeps the time of its last write."""
    found = os.fstat(fd)
    end, torn = whole_end(fd, found.st_size)
    if end == 0:
        os.unlink(path)
    elif end < found.st_size:
        os.ftruncate(fd, end)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.fsync(fd)
    return end < found.st_size, torn


def whole_end(fd: int, size_bytes: int) -> tuple[int, bool]:
    """Where the last whole line ends, and whether a torn one begins there.

    A line that holds a NUL byte is not whole: a copy that was broken off may have set its end first.
    """
    end = _written_end(fd, size_bytes)
    start = max(0, end - 2 * RECORD_MAX_BYTES)
    lines = os.pread(fd, end - start, start).splitlines(keepends=True)
    if not lines or _is_whole(lines[-1]):
        return end, False
    return end - len(lines[-1]), True


def _is_whole(line: bytes) -> bool:
    """Also behind a hole that a power cut left before it."""
    line = line.lstrip(NUL)
    return line.startswith(b"{") and line.endswith(b"}\n") and NUL not in line


def _written_end(fd: int, size_bytes: int) -> int:
    """Behind the last byte that is not NUL."""
    at = size_bytes
    while at > 0:
        start = max(0, at - BLOCK_BYTES)
        block = os.pread(fd, at - start, start)
        if block != UNWRITTEN and (written := block.rstrip(NUL)):
            return start + len(written)
        at = start
    return 0


def _last_moment(fd: int) -> float:
    """Of the last record; where none can be read, of the last write."""
    found = os.fstat(fd)
    end, _ = whole_end(fd, found.st_size)
    start = max(0, end - 2 * RECORD_MAX_BYTES)
    try:
        last = os.pread(fd, end - start, start).splitlines()[-1]
        return moment_of(orjson.loads(last)["ts"])
    except (IndexError, KeyError, TypeError, ValueError):
        return found.st_mtime


def _crash_file(directory: str) -> int:
    """The supervisor's newest file, or a new one; locked. OSError."""
    fd = _reopened(files_in(directory))
    return fd if fd >= 0 else create(directory, SUPERVISOR, time.time())[1]


def _reopened(files: list[LedgerPath]) -> int:
    for file in reversed(files):
        if file.writer == SUPERVISOR:
            fd = os.open(file.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_size < CRASHED_MAX_BYTES:
                return fd
            os.close(fd)
            break
    return -1


def _append_whole(fd: int, data: bytes) -> None:
    size_bytes = os.fstat(fd).st_size
    end, _ = whole_end(fd, size_bytes)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], end + written)
        os.ftruncate(fd, end + len(data))  # a torn line that was there may have been longer
        sync_data(fd)
    except OSError:
        os.ftruncate(fd, end)
        raise
