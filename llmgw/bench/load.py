"""Drives one job and keeps its books.

Open loop: requests are due at times that do not depend on any answer, and a latency counts from
the moment a request was due; a stalled server is charged for every request that it held up
("coordinated omission" is what hides this). Closed loop: a fixed number of users, each of which
asks again when it has its answer; for capacity and CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from llmgw.bench import proctree
from llmgw.bench.check import Checker, Wrong
from llmgw.bench.client import Due, Pool, Wire
from llmgw.bench.job import Job, Nonces
from llmgw.bench.stats import Samples
from llmgw.bench.timer import Timer

_GIVE_UP = 100  # failures; a run with one is void already
_SWEEP_S = 0.5  # how often overdue requests are looked for

_now_s = time.perf_counter


@dataclass
class Way:
    """What was measured on the way through one target."""

    latency: Samples = field(default_factory=Samples)  # open loop: from when it was due
    first: Samples = field(default_factory=Samples)  # to the first event, or the first byte
    gaps: Samples = field(default_factory=Samples)  # between the events of a stream
    completed: int = 0  # answers that ended inside the measured time
    events: int = 0  # events that came inside the measured time
    bytes: int = 0  # of the bodies of those answers


@dataclass
class Tree:
    """A process tree over the measured time."""

    cpu_s: float
    rss_bytes: int  # at its end
    processes: int


@dataclass
class Result:
    """A run's books. It is void where `failures` is not empty."""

    job: Job
    ways: dict[str, Way]
    lag: Samples  # open loop: how late we ourselves were in sending
    measured_s: float = 0.0
    own_cpu_share: float = 0.0  # of one core; near 1 the generator is the bottleneck
    trees: dict[str, Tree] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def is_void(self) -> bool:
        return bool(self.failures)

    @property
    def completed(self) -> int:
        return sum(way.completed for way in self.ways.values())


class Load:
    """One run of one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result = Result(job, {target.name: Way() for target in job.targets}, Samples())
        self._pools = [Pool(job, target, self._answered, self._failed) for target in job.targets]
        self._checker = Checker(job.is_stream, job.events)
        self._nonces = Nonces()
        self._random = random.Random(job.seed)
        self._is_sending = self._is_measuring = False
        self._started_s = self._due_s = 0.0
        self._timer: Timer | None = None
        self._drained = asyncio.Event()
        self._gave_up = asyncio.Event()

    async def run(self, on_tick: Callable[[Load, float], None] | None = None) -> Result:
        """Warm-up, measured time, and the wait for what is still under way."""
        gc.collect()
        gc.freeze()  # what exists now is not looked at again by the collector
        sweeper = asyncio.get_running_loop().create_task(self._sweep(on_tick))
        try:
            await self._run()
        finally:
            sweeper.cancel()
            if self._timer is not None:
                self._timer.close()
            for pool in self._pools:
                pool.close()
            gc.unfreeze()
        return self.result

    @property
    def progress(self) -> float:
        elapsed_s = _now_s() - self._started_s
        return min(1.0, elapsed_s / (self.job.warmup_s + self.job.duration_s))

    async def _run(self) -> None:
        job = self.job
        self._started_s = _now_s()
        self._is_sending = True
        if job.rate is None:
            for pool in self._pools:
                await pool.warm(job.concurrency)
            for _ in range(job.concurrency):
                self._submit(_now_s())
        else:
            self._timer = Timer(self._send_due)
            self._due_s = _now_s()
            self._send_due()
        await self._pause(job.warmup_s)
        await self._measure()
        self._is_sending = False
        while self._in_flight:
            self._drained.clear()
            await self._drained.wait()

    async def _measure(self) -> None:
        """The processor's books are read at both ends; what completes between counts."""
        before = {name: proctree.usage(pid) for name, pid in self.job.pids.items()}
        events = [pool.events for pool in self._pools]
        begun_s, begun_cpu_s = _now_s(), time.process_time()
        self._is_measuring = True
        await self._pause(self.job.duration_s)
        self._is_measuring = False
        for pool, earlier in zip(self._pools, events, strict=True):
            self.result.ways[pool.target.name].events = pool.events - earlier
        for name, pid in self.job.pids.items():
            after = proctree.usage(pid)
            cpu_s = after.cpu_s - before[name].cpu_s
            self.result.trees[name] = Tree(cpu_s, after.rss_bytes, after.processes)
        self.result.measured_s = _now_s() - begun_s
        self.result.own_cpu_share = (time.process_time() - begun_cpu_s) / self.result.measured_s

    async def _pause(self, seconds: float) -> None:
        """Sleeps, unless so much has failed that there is nothing left to measure."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gave_up.wait(), seconds)

    @property
    def _in_flight(self) -> int:
        return sum(pool.in_flight for pool in self._pools)

    def _submit(self, intended_s: float) -> None:
        pool = self._random.choice(self._pools) if len(self._pools) > 1 else self._pools[0]
        pool.submit(Due(intended_s, self._nonces.take(), self._is_measuring))

    def _send_due(self) -> None:
        """Sends everything that is due by now, however late we woke."""
        assert self._timer is not None
        assert self.job.rate is not None
        while self._is_sending and self._due_s <= _now_s():
            self._submit(self._due_s)
            if self.job.arrivals == "constant":
                self._due_s += 1 / self.job.rate
            else:
                self._due_s += self._random.expovariate(self.job.rate)
        if self._is_sending:
            self._timer.arm(self._due_s)

    def _answered(self, pool: Pool, wire: Wire, due: Due) -> None:
        body = wire.body
        try:
            self._checker.check(wire.status, body, due.nonce.decode())
        except Wrong as wrong:
            self._failed(pool, due, str(wrong))
            return
        way = self.result.ways[pool.target.name]
        if self._is_measuring:
            way.completed += 1
            way.bytes += len(body)
        if due.is_measured:
            self._record(way, wire, due)
        self._ended()

    def _record(self, way: Way, wire: Wire, due: Due) -> None:
        start_s = wire.sent_s if self.job.rate is None else due.intended_s
        way.latency.add(wire.now_s - start_s)
        way.first.add(wire.first_s - start_s)
        if self.job.rate is not None:
            self.result.lag.add(wire.sent_s - due.intended_s)
        for gap in wire.gaps:
            way.gaps.add(gap)

    def _failed(self, pool: Pool, _due: Due | None, reason: str) -> None:
        self.result.failures[f"{pool.target.name}: {reason}"] += 1
        if self.result.failures.total() >= _GIVE_UP:
            self._is_sending = False
            self._gave_up.set()
        self._ended()

    def _ended(self) -> None:
        """A user of a closed loop asks again; the last answer after the end releases the run."""
        if self._is_sending:
            if self.job.rate is None:
                self._submit(_now_s())
        elif not self._in_flight:
            self._drained.set()

    async def _sweep(self, on_tick: Callable[[Load, float], None] | None) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for pool in self._pools:
                pool.fail_overdue(_now_s())
            if on_tick is not None:
                on_tick(self, self.progress)


async def run(job: Job, on_tick: Callable[[Load, float], None] | None = None) -> Result:
    return await Load(job).run(on_tick)
