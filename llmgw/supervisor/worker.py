"""What the supervisor knows of one slot's worker, and what follows from the clock. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmgw.supervisor.channel import Channel

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
ABORT_S: Final = 1.0  # from SIGABRT, for a traceback, to SIGKILL


@dataclass(frozen=True)
class Limits:
    """How long is too long, and how long is long enough."""

    heartbeat_s: float = 10.0  # a worker that serves may be silent; then it is stuck
    start_s: float = 60.0  # from its fork until it serves
    reload_s: float = 10.0  # for all to prepare a configuration
    healthy_s: float = 30.0  # of service make its death a first one again
    drain_margin_s: float = 5.0  # beyond server.drain: a worker cuts off at server.drain, then closes up


@dataclass
class Worker:
    index: int
    pid: int = 0  # 0: none runs
    channel: Channel | None = None
    generation: int = 0  # of the configuration that it serves
    started_s: float = 0.0
    ready_s: float | None = None
    deaths: int = 0  # in a row
    respawn_at_s: float = 0.0
    kill_at_s: float | None = None  # it was told to end by then

    @property
    def is_alive(self) -> bool:
        return self.pid != 0

    @property
    def is_ready(self) -> bool:
        return self.is_alive and self.ready_s is not None

    def on_start(self, pid: int, channel: Channel, generation: int, now_s: float) -> None:
        self.pid, self.channel, self.generation = pid, channel, generation
        self.started_s, self.ready_s, self.kill_at_s = now_s, None, None

    def on_death(self, now_s: float, healthy_s: float) -> None:
        """Sets when the next one may start: at once after the first death, then ever later."""
        if self.ready_s is not None and now_s - self.ready_s >= healthy_s:
            self.deaths = 0
        self.respawn_at_s = now_s + backoff_s(self.deaths)
        self.deaths += 1
        self.pid, self.channel = 0, None

    def is_stuck(self, heartbeat_s: float, now_s: float, limits: Limits) -> bool:
        """`heartbeat_s`: its last beat. Until it serves it may be silent for the longer limit."""
        if not self.is_alive or self.kill_at_s is not None:
            return False
        if self.ready_s is None:
            return now_s - self.started_s > limits.start_s
        return now_s - max(heartbeat_s, self.ready_s) > limits.heartbeat_s


def backoff_s(deaths_before: int) -> float:
    """0, 100 ms, 200 ms … 10 s."""
    if deaths_before == 0:
        return 0.0
    return min(BACKOFF_FIRST_S * 2.0 ** min(deaths_before - 1, 30), BACKOFF_MAX_S)
