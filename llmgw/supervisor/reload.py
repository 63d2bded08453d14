"""SIGHUP: read the configuration, have every worker prepare it, then put it in force everywhere.

Whatever goes wrong before all have prepared leaves everything as it was; `changeover` decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmgw._core.segment import Segment
from llmgw.errors import ConfigError
from llmgw.supervisor.changeover import Changeover, State, needs_restart
from llmgw.supervisor.channel import Kind, Message
from llmgw.supervisor.crew import Crew, Current
from llmgw.supervisor.worker import Worker

if TYPE_CHECKING:
    from llmgw.config import Config

logger = logging.getLogger(__name__)


class Reloads:
    """One at a time; a request that comes while one is under way starts another after it."""

    def __init__(
        self, current: Current, load: Callable[[], Config], crew: Crew, segment: Segment, limit_s: float
    ) -> None:
        self._current = current
        self._load = load
        self._crew = crew
        self._segment = segment
        self._limit_s = limit_s
        self._running: Changeover | None = None
        self._again = False

    @property
    def deadline_s(self) -> float | None:
        return self._running.deadline_s if self._running is not None else None

    def request(self) -> None:
        if self._running is not None:
            self._again = True
            return
        config = self._read()
        if config is None:
            return
        generation = self._current.generation + 1
        self._running = Changeover(generation, config, time.monotonic() + self._limit_s)
        for worker in self._crew.ready:
            self._ask(worker, self._running)
        self._running.settle()
        self._conclude()

    def give_up(self) -> None:
        """The gateway ends: nothing is changed any more."""
        if self._running is not None:
            self._tell(self._running, Kind.ABORT)
        self._running, self._again = None, False

    def _read(self) -> Config | None:
        """The configuration as it is now on disk; None, with the reasons logged, if it cannot be had."""
        try:
            config = self._load()
        except ConfigError as error:
            self._refuse(error.problems)
            return None
        except Exception:  # a fault while reading must not end a gateway that serves
            logger.exception("the configuration could not be read")
            self._refuse(["it could not be read"])
            return None
        problems = needs_restart(self._current.config, config)
        if problems:
            self._refuse(problems)
            return None
        return config

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            logger.error("configuration: %s", problem)
        logger.error("the new configuration was refused; the old one stays in force")
        self._segment.count_reload(False)

    # What workers say, and that they come and go.

    def on_ready(self, worker: Worker) -> None:
        """A worker that began with an older configuration catches up, or takes part in the change."""
        if self._running is not None:
            self._ask(worker, self._running)
        elif worker.generation != self._current.generation:
            generation = worker.generation = self._current.generation
            self._crew.send(worker, Kind.PREPARE, (generation, self._current.config))
            self._crew.send(worker, Kind.COMMIT, generation)

    def on_message(self, worker: Worker, message: Message) -> None:
        if self._running is None:
            return
        match message:
            case Message(Kind.PREPARED, int(generation)):
                self._running.on_prepared(worker.index, generation)
            case Message(Kind.REFUSED, (int(generation), list(problems))):
                self._running.on_refused(worker.index, generation, problems)
        self._conclude()

    def on_death(self, worker: Worker) -> None:
        if self._running is not None:
            self._running.on_death(worker.index)
            self._conclude()

    def on_time(self) -> None:
        if self._running is not None:
            self._running.on_time(time.monotonic())
            self._conclude()
        if self._running is None and self._again:
            self._again = False
            self.request()

    def _ask(self, worker: Worker, change: Changeover) -> None:
        change.ask(worker.index)
        self._crew.send(worker, Kind.PREPARE, (change.generation, change.config))

    def _conclude(self) -> None:
        change = self._running
        if change is None or change.state is State.PREPARING:
            return
        self._running = None
        if change.state is State.ABORTED:
            self._tell(change, Kind.ABORT)
            self._refuse(change.problems)
            return
        self._current.config, self._current.generation = change.config, change.generation
        logging.getLogger().setLevel(change.config.log.level.upper())
        self._tell(change, Kind.COMMIT)
        self._segment.count_reload(True)
        logger.info("configuration reloaded")

    def _tell(self, change: Changeover, kind: Kind) -> None:
        for worker in self._crew.alive:
            if worker.index in change.asked:
                self._crew.send(worker, kind, change.generation)
                if kind is Kind.COMMIT:
                    worker.generation = change.generation
