"""A file that is written through a mapping: an append is a copy, and the kernel has it at once.

The mapping spans the file's greatest size from the start, and disk is put behind it piece by piece
(`reserve`), always before it is written: a store that finds no space would be a SIGBUS. Pages are made
ready before they are written too (`touch`), so that the writer meets no fault that waits for a disk. The
file has its greatest size until `finish` cuts it; what was never written reads as NUL bytes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from llmgw._core import pages, statefile
from llmgw._core.pages import PAGE_BYTES
from llmgw.ledger.names import name_of

CHUNK_BYTES: Final = 1 << 20  # of disk at a time
MILLISECOND_S: Final = 0.001


class MappedFile:
    """Locked (flock) as long as it is open: what is locked has a writer, and is not for others to cut."""

    def __init__(self, directory: str, writer: str, size_bytes: int, start_s: float) -> None:
        """A new file with one chunk behind it. Raises OSError, and leaves none then."""
        self.start_s = start_s
        self.size_bytes = size_bytes
        self.reserved_bytes = 0  # from the file's beginning; disk is behind so much
        self.path, self.fd = create(directory, writer, start_s)
        self.ready_bytes = 0  # from the file's beginning; so much was touched
        self.synced_bytes = 0
        self._is_listed = False
        try:
            os.ftruncate(self.fd, size_bytes)
            self.reserve()
            self.map = mmap.mmap(self.fd, size_bytes)
        except BaseException:
            os.unlink(self.path)
            os.close(self.fd)
            raise

    def reserve(self) -> None:
        """Puts disk behind one chunk more. Raises OSError: there is no space."""
        chunk_bytes = min(CHUNK_BYTES, self.size_bytes - self.reserved_bytes)
        statefile.reserve(self.fd, self.reserved_bytes, chunk_bytes)
        self.reserved_bytes += chunk_bytes

    def touch(self, start: int, end: int) -> None:
        """Makes reserved pages ready to be written, those too that the kernel wrote to the disk meanwhile."""
        start, end = _page_floor(start), min(end, self.reserved_bytes)
        if start < end:
            pages.touch(self.map, start, end - start)
            self.ready_bytes = max(end, self.ready_bytes)

    def sync(self, end: int) -> None:
        """What is written before `end` onto the disk, and the first time the file's name. Raises OSError.

        Whole pages that are on the disk are given back: the page cache has them, this process needs not.
        """
        start = _page_floor(self.synced_bytes)
        if start < end:
            pages.sync(self.map, start, end - start)
            pages.forget(self.map, start, _page_floor(end) - start)
            self.synced_bytes = end
        if not self._is_listed:
            sync_directory(os.path.dirname(self.path))
            self._is_listed = True

    def finish(self, end_bytes: int) -> None:
        """Cuts what is unused; a file without a record goes. Raises OSError, and is closed then too."""
        try:
            self.map.close()
            if end_bytes:
                os.ftruncate(self.fd, end_bytes)
                sync_data(self.fd)
                sync_directory(os.path.dirname(self.path))
            else:
                os.unlink(self.path)
        finally:
            os.close(self.fd)


def _page_floor(at: int) -> int:
    return at - at % PAGE_BYTES


def create(directory: str, writer: str, start_s: float) -> tuple[str, int]:
    """A new file, locked; where its name is taken, the next free millisecond's. Raises OSError."""
    while True:
        path = os.path.join(directory, name_of(start_s, writer))
        start_s += MILLISECOND_S
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)  # `recover` took it for an empty one that was left, before it was locked


def sync_data(fd: int) -> None:
    """Pages that were written through a mapping too."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # macOS
        os.fsync(fd)


def sync_directory(directory: str) -> None:
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
