"""The supervisor's loop: messages, signals, deaths and the clock, one after the other, until the end."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from llmgw._core.segment import Segment
from llmgw.supervisor.channel import Kind, Message
from llmgw.supervisor.crew import Crew, Current, Death, WorkerMain
from llmgw.supervisor.estate import Estate
from llmgw.supervisor.listen import Addresses, Listening
from llmgw.supervisor.reload import Reloads
from llmgw.supervisor.wakeup import Wakeup
from llmgw.supervisor.worker import Limits, Worker

if TYPE_CHECKING:
    from llmgw.config import Config

logger = logging.getLogger(__name__)

Taken = TypeVar("Taken", Listening, Segment)

START_ATTEMPTS: Final = 5  # deaths of one slot before the gateway was ever ready; then it gives up
SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TAKE_S: Final = 1.0
DEFAULT_LIMITS: Final = Limits()


def run(
    config: Config,
    *,
    reload: Callable[[], Config],
    worker_main: WorkerMain,
    on_ready: Callable[[Addresses], object],
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Runs the gateway until a signal ends it; returns the exit code.

    0: drained. 1: it could not start, or what was still open at the end of the drain was cut off.
    128 + signal: a second signal ended it at once. To be called in the main thread of a process
    that has no other and no event loop. `on_ready` is called once, when all workers serve.
    """
    try:
        listening = _patiently(lambda: Listening(config.server))
    except OSError as error:
        logger.error("%s", error.strerror)
        return 1
    try:
        path = _segment_path(config, listening)
        segment = _patiently(lambda: Segment(path, config.server.workers))
    except OSError as error:
        where = error.filename or config.server.state_dir
        logger.error("state directory: %s: %s", where, error.strerror)
        listening.close()
        return 1
    try:
        return _oversee(config, reload, worker_main, on_ready, limits, listening, segment)
    finally:
        listening.close()
        if config.server.port == 0:
            _forget(segment)


def _oversee(
    config: Config,
    reload: Callable[[], Config],
    worker_main: WorkerMain,
    on_ready: Callable[[Addresses], object],
    limits: Limits,
    listening: Listening,
    segment: Segment,
) -> int:
    if segment.notice:
        logger.warning("%s", segment.notice)
    _raise_file_limit()
    gc.collect()
    gc.freeze()  # what workers inherit stays shared with them
    current = Current(config)
    estate = Estate(config, segment)
    with Wakeup(SIGNALS) as wakeup:
        crew = Crew(current, worker_main, listening, segment, limits, wakeup, estate)
        reloads = Reloads(current, reload, crew, segment, limits.reload_s)
        overseer = Overseer(current, crew, reloads, listening, on_ready, wakeup, limits, estate)
        try:
            return overseer.run()
        finally:
            crew.kill()
            crew.close()
            estate.close()
            gc.unfreeze()


def _patiently(take: Callable[[], Taken]) -> Taken:
    """Tries for a second: the workers of a supervisor that was just killed may still be letting go."""
    until_s = time.monotonic() + TAKE_S
    while True:
        try:
            return take()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EWOULDBLOCK) or time.monotonic() >= until_s:
                raise
        time.sleep(0.02)


def _segment_path(config: Config, listening: Listening) -> str:
    """A file for each address: two gateways with one state directory are two gateways."""
    host, port = listening.addresses.data
    return os.path.join(config.server.state_dir, f"segment-{host}-{port}")


def _forget(segment: Segment) -> None:
    """On a port of chance nobody will look for these counters again."""
    for path in (segment.path, segment.path + ".lock"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _raise_file_limit() -> None:
    """A stream is two descriptors; the usual soft limit of 1024 would be 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS: the hard limit is more than the kernel gives
            logger.info("open files stay limited to %d", soft)


class Overseer:
    def __init__(
        self,
        current: Current,
        crew: Crew,
        reloads: Reloads,
        listening: Listening,
        on_ready: Callable[[Addresses], object],
        wakeup: Wakeup,
        limits: Limits,
        estate: Estate,
    ) -> None:
        self._estate = estate
        self._current = current
        self._crew = crew
        self._reloads = reloads
        self._listening = listening
        self._on_ready = on_ready
        self._wakeup = wakeup
        self._limits = limits
        self._was_ready = False
        self._drain_until_s: float | None = None  # None: it serves
        self._exit_code = 0

    def run(self) -> int:
        while self._drain_until_s is None or self._crew.alive:
            if self._drain_until_s is None:
                self._crew.start_due()
            for worker, message in self._crew.wait(self._until_s()):
                self._on_message(worker, message)
            for number in self._wakeup.take():
                self._on_signal(number)
            for death in self._crew.reap():
                self._on_death(death)
            self._on_time()
        return self._exit_code

    def _until_s(self) -> float | None:
        return self._reloads.deadline_s if self._drain_until_s is None else self._drain_until_s

    def _on_message(self, worker: Worker, message: Message) -> None:
        if message.kind is not Kind.READY:
            self._reloads.on_message(worker, message)
            return
        worker.ready_s = time.monotonic()
        if self._drain_until_s is None:
            self._reloads.on_ready(worker)
        if not self._was_ready and len(self._crew.ready) == len(self._crew.workers):
            self._was_ready = True
            logger.info(
                "ready: %s:%d, admin %s:%d", *self._listening.addresses.data, *self._listening.addresses.admin
            )
            self._on_ready(self._listening.addresses)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._on_stop(number)
        elif number == signal.SIGHUP and self._drain_until_s is None:
            for worker in self._crew.ready:
                self._crew.send(worker, Kind.REOPEN)
            self._reloads.request()

    def _on_stop(self, number: int) -> None:
        if self._drain_until_s is None:
            logger.info("draining; a second signal ends at once")
            self._drain()
        else:
            logger.warning("ended at once by a second signal")
            self._crew.kill()
            self._exit_code = 128 + number

    def _drain(self) -> None:
        """Workers hold their own copies of the sockets, and close them once their queues are served."""
        self._listening.close()
        self._reloads.give_up()
        for worker in self._crew.alive:
            self._crew.send(worker, Kind.DRAIN)
        allowed_s = self._current.config.server.drain + self._limits.drain_margin_s
        self._drain_until_s = time.monotonic() + allowed_s

    def _on_death(self, death: Death) -> None:
        for message in death.last_words:
            if message.kind is not Kind.READY:
                self._reloads.on_message(death.worker, message)
        self._reloads.on_death(death.worker)
        if self._drain_until_s is not None:
            self._exit_code = self._exit_code or int(death.exit_code != 0)
            return
        _log_death(death)
        if not self._was_ready and death.worker.deaths >= START_ATTEMPTS:
            logger.error("worker %d does not start; giving up", death.worker.index)
            self._drain()
            self._exit_code = 1

    def _on_time(self) -> None:
        self._crew.end_stuck()
        self._estate.on_time(self._current.config.ledger.retention_s)
        if self._drain_until_s is None:
            self._reloads.on_time()
        elif time.monotonic() >= self._drain_until_s and self._crew.alive:
            logger.error("not drained in time; what is open is cut off")
            self._crew.kill()
            self._exit_code = 1


def _log_death(death: Death) -> None:
    how = f"signal {-death.exit_code}" if death.exit_code < 0 else f"exit code {death.exit_code}"
    level = logging.WARNING if death.was_ready or death.exit_code else logging.INFO
    wait_s = max(0.0, death.worker.respawn_at_s - time.monotonic())
    logger.log(
        level,
        "worker %d (process %d) ended by %s; the next one starts in %.1f s",
        death.worker.index,
        death.pid,
        how,
        wait_s,
    )
