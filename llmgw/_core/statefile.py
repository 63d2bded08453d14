"""The file behind the shared segment: found or made, locked, checked, never trusted blindly.

    page 0   magic, layout version, file size, table of regions, CRC-32 of it all
    page 1…  the regions, each on a page boundary, each some units of `unit_bytes`

A file whose header does not add up is replaced by an empty one: the counters of a gateway are
worth less than its starting. A sound file with another table (more workers, a newer version with
further regions) is replaced by one that takes over every region both of them know. A symlink, a
foreign owner or a second name for the file is refused, because somebody else could then read or
steer what is written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

MAGIC: Final = b"LLMGWSEG"
LAYOUT_VERSION: Final = 1
PAGE_BYTES: Final = 4096
COPY_BYTES: Final = 64 * 1024

_HEAD = struct.Struct("<8sIIQ")  # magic, layout version, regions, bytes of the file
_REGION = struct.Struct("<16sIIQQ")  # name, version, units, unit_bytes, offset
_CRC = struct.Struct("<I")
_REGIONS_MAX = (PAGE_BYTES - _HEAD.size - _CRC.size) // _REGION.size


class Region(NamedTuple):
    """So many units of `unit_bytes` from `offset` on; `reserved_bytes` of each are on disk from the start."""

    name: str
    version: int
    units: int
    unit_bytes: int
    reserved_bytes: int = 0
    offset: int = 0

    @property
    def shape(self) -> tuple[str, int, int]:
        return (self.name, self.version, self.unit_bytes)


class StateFile(NamedTuple):
    fd: int
    lock_fd: int
    size_bytes: int
    regions: dict[str, Region]
    notice: str  # why earlier counters were given up, or ""


class UnusableError(Exception):
    """The file's content cannot be taken over; says why."""


def open_state(path: str, wanted: Sequence[Region]) -> StateFile:
    """Locks `path` for this gateway and returns it with the wanted regions in it.

    Raises OSError: no space, no right, not ours, or held by another gateway that runs.
    """
    private_directory(os.path.dirname(path) or ".")
    lock_fd = _lock(path + ".lock")
    try:
        fd, regions, notice = _find_or_make(path, wanted)
    except BaseException:
        os.close(lock_fd)
        raise
    return StateFile(fd, lock_fd, _size_of(regions), {region.name: region for region in regions}, notice)


def private_directory(path: str) -> None:
    """Makes the directory (0700), or insists that the one there is ours and nobody else can write to it."""
    path = path.rstrip("/") or "/"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "the state directory must be a directory, not a link", path)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the state directory belongs to another user", path)
    if found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "the state directory can be written by other users", path)


def _lock(path: str) -> int:
    """The lock is on a file of its own, because the state file may be replaced.

    Workers inherit the descriptor: while one of them is left, its slot has a writer.
    """
    fd = _open_ours(path, os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise BlockingIOError(
            errno.EWOULDBLOCK, f"in use by another gateway (process {holder or 'unknown'})", path
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _open_ours(path: str, extra_flags: int = 0) -> int:
    """Opens for reading and writing; OSError where it is a link, no plain file, or not ours alone."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | extra_flags, 0o600)
    found = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "not a plain file"
    elif found.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif found.st_nlink != 1:
        problem = "has a second name"
    if problem:
        os.close(fd)
        raise PermissionError(errno.EPERM, problem, path)
    os.fchmod(fd, 0o600)
    return fd


def _find_or_make(path: str, wanted: Sequence[Region]) -> tuple[int, list[Region], str]:
    old_fd, old, notice = _find(path)
    table = _place(_grown(wanted, old))
    if old_fd >= 0 and _same(old, table):
        _reserve_units(old_fd, table)
        return old_fd, table, notice
    try:
        return _make(path, table, old_fd, old), table, notice
    finally:
        if old_fd >= 0:
            os.close(old_fd)


def _find(path: str) -> tuple[int, list[Region], str]:
    """The descriptor of the file (-1: there is none), its table, and what is wrong with it."""
    try:
        fd = _open_ours(path)
    except FileNotFoundError:
        return -1, [], ""
    try:
        return fd, _read_table(fd), ""
    except UnusableError as reason:
        return fd, [], f"{path}: starting with empty counters: {reason}"
    except BaseException:
        os.close(fd)
        raise


def _same(one: Sequence[Region], other: Sequence[Region]) -> bool:
    return [region._replace(reserved_bytes=0) for region in one] == [
        region._replace(reserved_bytes=0) for region in other
    ]


def _grown(wanted: Sequence[Region], old: Sequence[Region]) -> list[Region]:
    """Never fewer units than before: what a worker counted stays, also when there are fewer workers now."""
    units = {region.shape: region.units for region in old}
    return [region._replace(units=max(region.units, units.get(region.shape, 0))) for region in wanted]


def _place(regions: Sequence[Region]) -> list[Region]:
    placed, offset = [], PAGE_BYTES
    for region in regions:
        placed.append(region._replace(offset=offset))
        offset += -(-region.units * region.unit_bytes // PAGE_BYTES) * PAGE_BYTES
    return placed


def _size_of(regions: Sequence[Region]) -> int:
    last = regions[-1]
    return last.offset + -(-last.units * last.unit_bytes // PAGE_BYTES) * PAGE_BYTES


def _read_table(fd: int) -> list[Region]:
    page = os.pread(fd, PAGE_BYTES, 0)
    if len(page) < PAGE_BYTES or not page.startswith(MAGIC):
        raise UnusableError("it is no llmgw segment")
    _, layout, count, size_bytes = _HEAD.unpack_from(page)
    if layout != LAYOUT_VERSION:
        raise UnusableError(f"its layout is version {layout}, this is version {LAYOUT_VERSION}")
    end = PAGE_BYTES - _CRC.size
    if count > _REGIONS_MAX or _CRC.unpack_from(page, end)[0] != zlib.crc32(page[:end]):
        raise UnusableError("its header is damaged")
    if os.fstat(fd).st_size != size_bytes:
        raise UnusableError(f"it has {os.fstat(fd).st_size} bytes and not {size_bytes}")
    return [_read_region(page, _HEAD.size + index * _REGION.size) for index in range(count)]


def _read_region(page: bytes, at: int) -> Region:
    name, version, units, unit_bytes, offset = _REGION.unpack_from(page, at)
    return Region(name.rstrip(b"\0").decode("ascii", "replace"), version, units, unit_bytes, offset=offset)


def _header(table: Sequence[Region]) -> bytes:
    parts = [_HEAD.pack(MAGIC, LAYOUT_VERSION, len(table), _size_of(table))]
    parts += [
        _REGION.pack(
            region.name.encode("ascii"), region.version, region.units, region.unit_bytes, region.offset
        )
        for region in table
    ]
    page = b"".join(parts).ljust(PAGE_BYTES - _CRC.size, b"\0")
    return page + _CRC.pack(zlib.crc32(page))


def _make(path: str, table: Sequence[Region], old_fd: int = -1, old: Sequence[Region] = ()) -> int:
    """Writes a new file beside `path`, whole, and puts it in its place."""
    draft = path + ".new"
    try:
        os.unlink(draft)
    except FileNotFoundError:
        pass
    fd = _open_ours(draft, os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(fd, _size_of(table))
        _reserve_units(fd, table)
        for region in old:
            _take_over(fd, old_fd, region, table)
        os.pwrite(fd, _header(table), 0)
        os.fsync(fd)
        os.rename(draft, path)
    except BaseException:
        os.close(fd)
        os.unlink(draft)
        raise
    return fd


def _reserve_units(fd: int, table: Sequence[Region]) -> None:
    reserve(fd, 0, PAGE_BYTES)
    for region in table:
        for index in range(region.units):
            reserve(fd, region.offset + index * region.unit_bytes, region.reserved_bytes)


def reserve(fd: int, offset: int, size_bytes: int) -> None:
    """Puts a range on disk: a store into a hole of a mapped file on a full disk is a SIGBUS.

    macOS has no such call; there the hole stays a hole.
    """
    if size_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size_bytes)


def _take_over(fd: int, old_fd: int, region: Region, table: Sequence[Region]) -> None:
    """Copies a region that the new table has in the same shape; holes stay holes."""
    new = next((new for new in table if new.shape == region.shape), None)
    if new is None:
        return
    size_bytes = min(new.units, region.units) * region.unit_bytes
    for at in range(0, size_bytes, COPY_BYTES):
        block = os.pread(old_fd, min(COPY_BYTES, size_bytes - at), region.offset + at)
        if block.strip(b"\0"):
            os.pwrite(fd, block, new.offset + at)
