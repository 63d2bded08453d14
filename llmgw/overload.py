"""What a worker takes on before it refuses: requests in flight, memory, and how late its loop may be.

The gate (`_wire.gate`) is asked at each request's head, before its body is read; here its bounds are set
anew with every beat of the worker. Requests are bounded by their number. Memory is the worker's resident set
and the bodies that are still to come. A late loop has a share of the requests refused, which rises while it
is late.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import random
from typing import Final

from llmgw import config
from llmgw._wire.deadline import TICK_SECONDS
from llmgw._wire.gate import REASONS, Gate
from llmgw.config.machine import groups, maybe_text
from llmgw.errors import Overloaded

logger = logging.getLogger("llmgw")

# A loop is late for that long before anybody is refused: one long turn of it is no overload.
LATE_S: Final = 0.5
# Of the share, a second: by a loop that is as late as it may be, and by one that is in time.
RISE_PER_S: Final = 0.2
FALL_PER_S: Final = 0.2
# Some always come through, since nothing else shows that the loop has become faster.
SHARE_MAX: Final = 0.95
# A loop that stood still for long is not to be judged by that as if it had been looked at all the time.
STEP_MAX_S: Final = 1.0
# A loop that is many times too late counts as so many times too late.
TIMES_MAX: Final = 4.0

# Below this part of its bound, what is left is worth asking the allocator for what it keeps.
SPARE: Final = 0.25
TRIM_EVERY_S: Final = 0.1
TRIM_EVERY_MAX_S: Final = 60.0
WORTH: Final = 1 / 16

# Whoever is refused comes back after 1 to 2 s, not all at once.
RETRY_S: Final = 1.0
UNBOUNDED_BYTES: Final = 1 << 60
PART_OF_MACHINE: Final = 0.8
SENTENCES: Final = {
    "inflight": "The gateway has as many requests in flight as it can hold.",
    "memory": "The gateway has no memory left for a request of this size.",
    "lag": "The gateway is overloaded.",
}


class Shedding:
    """The share of requests to refuse, from how late the loop is; seconds of any one clock.

    As CoDel has it, what counts is lateness that lasts. Unlike there it is a share that rises and falls, so
    that load which fits is let in all the time, and the loop does not swing between idle and late.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self.late_since_s: float | None = None
        self.seen_s: float | None = None

    def look(self, late_s: float, max_late_s: float, now_s: float) -> float:
        """`max_late_s` 0: it may be as late as it likes."""
        step_s = min(now_s - self.seen_s, STEP_MAX_S) if self.seen_s is not None else 0.0
        self.seen_s = now_s
        if not max_late_s or late_s <= max_late_s:
            self.late_since_s = None
            self.share = max(self.share - FALL_PER_S * step_s, 0.0)
            return self.share
        if self.late_since_s is None:
            self.late_since_s = now_s
        if self.share or now_s - self.late_since_s >= LATE_S:
            times = min(late_s / max_late_s, TIMES_MAX)
            self.share = min(self.share + RISE_PER_S * times * step_s, SHARE_MAX)
        return self.share


class Thrift:
    """When to have the allocator give back what it keeps of freed memory.

    It keeps it for the next request, which saves taking it anew; near the bound it would have requests
    refused for no reason.
    """

    def __init__(self) -> None:
        self.every_s = TRIM_EVERY_S
        self.done_s = float("-inf")

    def is_due(self, room_bytes: int, max_bytes: int, now_s: float) -> bool:
        return room_bytes < SPARE * max_bytes and now_s - self.done_s >= self.every_s

    def done(self, gained_bytes: int, max_bytes: int, now_s: float) -> None:
        """What gained little is done less often."""
        self.done_s = now_s
        is_worth_it = gained_bytes >= WORTH * max_bytes
        self.every_s = TRIM_EVERY_S if is_worth_it else min(2 * self.every_s, TRIM_EVERY_MAX_S)


class Overload:
    """One worker's. `resident` and `trim` are the process's; `count` counts refusals by their reason."""

    def __init__(
        self,
        settings: config.Overload,
        max_memory_bytes: int,
        count: Callable[[str], None],
        resident: Callable[[], int],
        trim: Callable[[], None],
    ) -> None:
        self.gate = Gate()
        self.count, self.resident, self.trim = count, resident, trim
        self.shedding, self.thrift = Shedding(), Thrift()
        self.has_warned = False
        self.due_s = 0.0  # the next beat
        self.configure(settings, max_memory_bytes)

    def configure(self, settings: config.Overload, max_memory_bytes: int) -> None:
        """At a start or a reload. `max_memory_bytes` is what `auto` came to, 0: no bound."""
        self.gate.max_inflight = settings.max_inflight
        self.max_late_s = settings.max_lag_s
        self.max_memory_bytes = max_memory_bytes

    def look(self, now_s: float) -> None:
        """With every beat of the worker; what comes later than the next one is due is the loop's lateness."""
        late_s = now_s - self.due_s if self.due_s else 0.0
        self.due_s = now_s + TICK_SECONDS
        share = self.shedding.look(late_s, self.max_late_s, now_s)
        self.gate.look(self.room_bytes(now_s), share)

    def room_bytes(self, now_s: float) -> int:
        if not self.max_memory_bytes:
            return UNBOUNDED_BYTES
        room_bytes = self.max_memory_bytes - self.resident()
        if self.thrift.is_due(room_bytes - self.gate.unread_bytes, self.max_memory_bytes, now_s):
            self.trim()
            before_bytes, room_bytes = room_bytes, self.max_memory_bytes - self.resident()
            self.thrift.done(room_bytes - before_bytes, self.max_memory_bytes, now_s)
        if room_bytes < 0 and not self.gate.inflight and not self.has_warned:
            self.has_warned = True
            logger.warning("this worker alone takes more memory than server.overload.max_memory")
        return room_bytes

    def refusal(self, reason: int) -> Overloaded:
        """What the gate turned away; `reason` is its number."""
        word = REASONS[reason]
        self.count(word)
        return Overloaded(SENTENCES[word], retry_after_s=RETRY_S * (1 + random()))


class Resident:
    """The memory that this process holds, in bytes; 0 where the system does not say. Costs some 2 us."""

    def __init__(self) -> None:
        self.page_bytes = os.sysconf("SC_PAGESIZE")
        try:
            self.fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.fd = -1

    def __call__(self) -> int:
        if self.fd < 0:
            return 0
        return int(os.pread(self.fd, 128, 0).split()[1]) * self.page_bytes


def trim() -> None:
    """Has glibc give back every free page; other allocators are left alone."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)


def memory_bound(settings: config.Overload, workers: int, root: Path = Path("/")) -> int:
    """Bytes for each worker; 0 where none is set and the machine does not say what it has."""
    if settings.max_memory_bytes:
        return settings.max_memory_bytes
    return int(PART_OF_MACHINE * min(limits_of(root), default=0)) // workers


def limits_of(root: Path) -> Iterator[int]:
    """Bytes: of the machine, and of each control group that this process is in."""
    for line in maybe_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            yield int(line.split()[1]) << 10
    for group in groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = maybe_text(group / name).strip()
            if text.isdigit():  # else `max`
                yield int(text)
