"""A timer exact enough for an open loop.

libuv's timers have a resolution of 1 ms, which would bunch arrivals at 10,000 a second into
groups of ten and count up to a millisecond of our own making as latency. Linux' timerfd wakes
within some tens of microseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1  # what time.perf_counter reads on Linux
_TFD_TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Calls `callback` at points in time of `time.perf_counter`, one at a time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._descriptor = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._spec = _Itimerspec()
            self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
            if self._descriptor < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            self._loop.add_reader(self._descriptor, self._fired)

    def arm(self, at_s: float) -> None:
        """A moment that has passed fires at once."""
        if self._descriptor < 0:
            self._handle = self._loop.call_later(max(0.0, at_s - time.perf_counter()), self._callback)
            return
        value = self._spec.value
        value.seconds = int(at_s)
        value.nanoseconds = int((at_s - value.seconds) * 1e9)
        self._libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _fired(self) -> None:
        os.read(self._descriptor, 8)
        self._callback()
