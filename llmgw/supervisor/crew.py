"""The workers as processes: started, read from, watched, ended. What it means is the overseer's."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from llmgw._core.segment import Segment
from llmgw.supervisor.channel import Channel, Kind, Message
from llmgw.supervisor.child import fork_worker
from llmgw.supervisor.estate import Estate
from llmgw.supervisor.link import WorkerLink, WorkerSlot
from llmgw.supervisor.listen import Listening
from llmgw.supervisor.wakeup import Wakeup
from llmgw.supervisor.worker import ABORT_S, Limits, Worker

if TYPE_CHECKING:
    from llmgw.config import Config

logger = logging.getLogger(__name__)

TICK_S: Final = 1.0  # the longest wait

WorkerMain = Callable[[WorkerSlot, "Config"], int | None]


@dataclass
class Current:
    """The configuration in force; whoever starts gets it."""

    config: Config
    generation: int = 0


class Death(NamedTuple):
    worker: Worker
    pid: int
    exit_code: int  # negative: the signal that ended it
    was_ready: bool
    last_words: list[Message]


class Crew:
    def __init__(
        self,
        current: Current,
        worker_main: WorkerMain,
        listening: Listening,
        segment: Segment,
        limits: Limits,
        wakeup: Wakeup,
        estate: Estate,
    ) -> None:
        self._estate = estate
        self._current = current
        self._worker_main = worker_main
        self._listening = listening
        self._segment = segment
        self._limits = limits
        self._wakeup = wakeup
        self.workers = [Worker(index) for index in range(current.config.server.workers)]
        self._selector = selectors.PollSelector()  # no kernel object that a child would share
        self._selector.register(wakeup, selectors.EVENT_READ)
        self._awake_s = self._attentive_s = time.monotonic()  # last, and without a gap since

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive]

    @property
    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_ready]

    def start_due(self) -> None:
        for worker in self.workers:
            if not worker.is_alive and time.monotonic() >= worker.respawn_at_s:
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        mine, theirs = Channel.pair()
        if worker.deaths:
            self._segment.count_restart(worker.index)
        pid = fork_worker(
            lambda: self._close_in_child(worker.index, mine),
            lambda: self._worker_main(self._slot(worker.index, theirs), self._current.config),
        )
        theirs.close()
        self._segment.enlist(worker.index, pid)
        worker.on_start(pid, mine, self._current.generation, time.monotonic())
        self._selector.register(mine, selectors.EVENT_READ, worker)
        logger.debug("worker %d started as process %d", worker.index, pid)

    def _slot(self, index: int, channel: Channel) -> WorkerSlot:
        data, admin = self._listening.data[index], self._listening.admin
        link = WorkerLink(channel, self._segment, index)
        estate = self._estate
        return WorkerSlot(index, data, admin, self._segment, link, estate.machine_id, estate.wake_fds)

    def _close_in_child(self, index: int, mine: Channel) -> None:
        mine.close()
        for worker in self.workers:
            if worker.channel is not None:
                worker.channel.close()
        self._listening.keep_only(index)
        self._selector.close()
        self._wakeup.close()

    # What comes in.

    def wait(self, until_s: float | None) -> list[tuple[Worker, Message]]:
        """Sleeps until something happens, `until_s` (monotonic), or a tick; returns what workers said."""
        timeout_s = self._timeout_s(until_s)
        events = self._selector.select(timeout_s)
        self._note_gap(timeout_s)
        said: list[tuple[Worker, Message]] = []
        for key, _ in events:
            if isinstance(key.data, Worker) and key.data.channel is not None:
                said += [(key.data, message) for message in self._read(key.data.channel, key.data)]
        return said

    def _note_gap(self, expected_s: float) -> None:
        """A supervisor that was itself stopped gives the workers, who may have been too, time to beat."""
        before_s, self._awake_s = self._awake_s, time.monotonic()
        if self._awake_s - before_s > expected_s + self._limits.heartbeat_s / 4:
            self._attentive_s = self._awake_s

    def _timeout_s(self, until_s: float | None) -> float:
        now_s = time.monotonic()
        moments = [worker.respawn_at_s for worker in self.workers if not worker.is_alive]
        moments += [worker.kill_at_s for worker in self.workers if worker.kill_at_s is not None]
        if until_s is not None:
            moments.append(until_s)
        tick_s = min(TICK_S, self._limits.heartbeat_s / 4)
        return max(0.0, min([tick_s, *(moment - now_s for moment in moments)]))

    def _read(self, channel: Channel, worker: Worker) -> list[Message]:
        messages = channel.receive()
        channel.flush()
        if not channel.is_open:  # its death follows, or it only closed this: then it will be stuck
            self._selector.unregister(channel)
        else:
            self._watch_channel(channel, worker)
        return messages

    def _watch_channel(self, channel: Channel, worker: Worker) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_write else 0)
        self._selector.modify(channel, events, worker)

    def reap(self) -> Iterator[Death]:
        """Workers that have ended since the last call. Their slots are free again."""
        for worker in self.alive:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                yield self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, exit_code: int) -> Death:
        channel, pid, was_ready = worker.channel, worker.pid, worker.is_ready
        last_words: list[Message] = []
        if channel is not None:
            if channel.is_open:
                last_words = channel.receive()
                self._selector.unregister(channel)
            channel.close()
        self._segment.release(worker.index)
        self._estate.on_death(worker.index)
        worker.on_death(time.monotonic(), self._limits.healthy_s)
        return Death(worker, pid, exit_code, was_ready, last_words)

    # What goes out.

    def send(self, worker: Worker, kind: Kind, body: object = None) -> None:
        if worker.channel is not None and worker.channel.is_open:
            worker.channel.send(kind, body)
            self._watch_channel(worker.channel, worker)

    def end_stuck(self) -> None:
        """SIGABRT, which shows where it stands, then SIGKILL, which always works."""
        now_s = time.monotonic()
        for worker in self.alive:
            beat_s = max(self._segment.heartbeat_ns(worker.index) / 1e9, self._attentive_s)
            if worker.kill_at_s is not None and now_s >= worker.kill_at_s:
                os.kill(worker.pid, signal.SIGKILL)
                worker.kill_at_s = now_s + ABORT_S
            elif worker.is_stuck(beat_s, now_s, self._limits):
                logger.error("worker %d (process %d) is stuck; it is ended", worker.index, worker.pid)
                os.kill(worker.pid, signal.SIGABRT)
                worker.kill_at_s = now_s + ABORT_S

    def kill(self) -> None:
        """Ends all at once, and waits for it."""
        for worker in self.alive:
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self.alive:
            os.waitpid(worker.pid, 0)
            self._bury(worker, -signal.SIGKILL)

    def close(self) -> None:
        self._selector.close()
