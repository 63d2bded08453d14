"""CPU time and resident memory of process trees, from Linux' /proc (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")  # 100: readings are exact to 10 ms for each process
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat, counted from the one after the command's closing parenthesis.
_PPID, _UTIME, _STIME, _CUTIME, _CSTIME = 1, 11, 12, 13, 14


@dataclass(frozen=True)
class Usage:
    """What a tree has used up to now. `cpu_s` is user and system time of all its threads."""

    cpu_s: float
    rss_bytes: int
    processes: int


def usage(root: int) -> Usage:
    """Sums over the process and its living descendants; the dead are in their parents' books."""
    ticks = rss_bytes = processes = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields:
            ticks += sum(int(fields[i]) for i in (_UTIME, _STIME, _CUTIME, _CSTIME))
            rss_bytes += _rss_bytes(pid)
            processes += 1
    if not processes:
        raise ProcessLookupError(f"no process {root}")
    return Usage(ticks / _TICKS_PER_S, rss_bytes, processes)


def tree(root: int) -> list[int]:
    """`root` and its descendants at this moment."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[_PPID]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _stat(pid: int) -> list[str]:
    """The fields behind the command, which may itself hold spaces and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
