"""The worker's queue in its loop: pumped when something is due, or was released here or by another worker."""

from __future__ import annotations

import asyncio
import os

from llmgw._core.limiter import Gauge, Limiter, Refusal
from llmgw.limits.line import Gauge as AnyGauge
from llmgw.limits.queue import Joined, Queue, Waiter
from llmgw.metrics import Metrics

AFTER_A_FAULT_US = 100_000


class WaitingRoom:
    """`wake_fds`: an eventfd for each worker slot, which whoever releases something writes to."""

    def __init__(self, queue: Queue, limiter: Limiter, metrics: Metrics, wake_fds: tuple[int, ...]) -> None:
        self.queue = queue
        self._limiter = limiter
        self._metrics = metrics
        self._wake_fds = wake_fds
        self._own_fd = wake_fds[limiter.slot] if wake_fds else -1
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self._loop = asyncio.get_running_loop()
        limiter.wake_slot = self.wake
        queue.on_line = self.on_line
        if self._own_fd >= 0:
            self._loop.add_reader(self._own_fd, self.on_wake)

    def join(self, waiter: Waiter, refusal: Refusal, now_us: int) -> Joined:
        joined = self.queue.join(waiter, refusal, now_us)
        if joined is Joined.WAITS:
            self.pump_soon()
        return joined

    def leave(self, waiter: Waiter) -> None:
        self.queue.leave(waiter)
        self.pump_soon()

    def on_line(self, gauge: AnyGauge, is_batch: bool, is_waiting: bool) -> None:
        """Newcomers of all workers yield while somebody stands in line here."""
        assert isinstance(gauge, Gauge)
        if is_waiting:
            self._limiter.mark(gauge, is_batch, self._limiter.now_us())
        else:
            self._limiter.unmark(gauge, is_batch, self._limiter.now_us())

    def wake(self, slot: int) -> None:
        """Something was released where somebody waits in that slot's worker."""
        if slot == self._limiter.slot:
            self.on_release()
        elif slot < len(self._wake_fds):
            try:
                os.eventfd_write(self._wake_fds[slot], 1)
            except BlockingIOError:  # it is told already, many times over
                pass

    def on_wake(self) -> None:
        try:
            os.eventfd_read(self._own_fd)
        except BlockingIOError:
            return
        self.on_release()

    def on_release(self) -> None:
        if len(self.queue):
            self.queue.woken(self._limiter.now_us())
            self.pump_soon()

    def pump_soon(self) -> None:
        """Once in this turn of the loop, for all that happened in it."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What fails must not end the waiting of all others.
        next_us = self._limiter.now_us() + AFTER_A_FAULT_US
        try:
            next_us = self.queue.pump(self._limiter.now_us()) if len(self.queue) else 0
        finally:
            if next_us:
                delay_s = max(next_us - self._limiter.now_us(), 0) / 1e6
                self._timer = self._loop.call_later(delay_s, self.pump)
        self._metrics.queue_depth(self.queue.depth(False), self.queue.depth(True))

    def close(self) -> None:
        self._limiter.wake_slot = None
        if self._timer is not None:
            self._timer.cancel()
        if self._own_fd >= 0:
            self._loop.remove_reader(self._own_fd)
