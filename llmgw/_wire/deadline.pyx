"""Deadlines of connections, at next to no cost a request.

A timer of the loop for every request would cost more than the request's whole parsing. Here a
connection carries its deadline as a number, which a new request or a new byte just overwrites, and
stands in one slot of a wheel. When the wheel comes to that slot it looks: a deadline that has moved on
is put where it belongs now, one that has passed fires. So a deadline fires up to one tick late, never
early, and a busy connection touches the wheel about once per deadline's length.
"""

import logging
from email.utils import formatdate

from libc.time cimport time as unix_time
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

logger = logging.getLogger("llmgw")

cdef double TICK_S = 0.05
# 51.2 s ahead; a deadline beyond is looked at on the way and put further.
cdef int SLOTS = 1024

TICK_SECONDS = TICK_S


cdef double monotonic_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef class Watched:
    """Something that a wheel ends when its time is over."""

    cdef int on_deadline(self) except -1:
        return 0


cdef class Wheel:
    """One for each loop. `turn` is called every TICK_SECONDS."""

    def __cinit__(self, double now_s=0.0):
        self.now_s = now_s if now_s > 0.0 else monotonic_s()
        self.tick = <long long>(self.now_s / TICK_S)
        self.slots = [set() for _ in range(SLOTS)]
        self.show_date()

    cdef int watch(self, Watched item, double deadline_s) except -1:
        """Sets the deadline of `item`; an earlier one moves it forward, a later one costs nothing."""
        cdef long long due = <long long>(deadline_s / TICK_S) + 1
        item.deadline_s = deadline_s
        if due <= self.tick:
            due = self.tick + 1
        elif due >= self.tick + SLOTS:
            due = self.tick + SLOTS - 1
        if item.due_tick:
            if item.due_tick <= due:
                return 0
            (<set>self.slots[item.due_tick % SLOTS]).discard(item)
        item.due_tick = due
        (<set>self.slots[due % SLOTS]).add(item)
        return 0

    cdef int forget(self, Watched item) except -1:
        item.deadline_s = 0.0
        if item.due_tick:
            (<set>self.slots[item.due_tick % SLOTS]).discard(item)
            item.due_tick = 0
        return 0

    def turn(self, now_s: float | None = None) -> None:
        """Fires what is due at `now_s` (monotonic seconds; the clock's own where none is given)."""
        cdef Watched item
        self.now_s = monotonic_s() if now_s is None else now_s
        cdef long long last = <long long>(self.now_s / TICK_S)
        if last - self.tick > SLOTS:
            self.tick = last - SLOTS
        while self.tick < last:
            self.tick += 1
            due = <set>self.slots[self.tick % SLOTS]
            if not due:
                continue
            self.slots[self.tick % SLOTS] = set()
            for item in due:
                try:
                    self.look_at(item)
                except Exception:
                    # One connection's fault must not stop the clock of all others.
                    logger.exception("a deadline could not be kept")
        self.show_date()

    cdef int look_at(self, Watched item) except -1:
        item.due_tick = 0
        if item.deadline_s == 0.0:
            return 0
        if item.deadline_s > self.now_s:
            return self.watch(item, item.deadline_s)
        item.deadline_s = 0.0
        return item.on_deadline()

    cdef int show_date(self) except -1:
        cdef long long now_s = unix_time(NULL)
        if now_s != self.date_s:
            self.date_s = now_s
            self.date = formatdate(now_s, usegmt=True).encode()
        return 0
