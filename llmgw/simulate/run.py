"""A fleet and its traffic, from the first arrival until nobody waits any more."""

from __future__ import annotations

import asyncio
import gc
import random as shared_random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from llmgw._core.estimate import Estimator
from llmgw._core.segment import Segment
from llmgw.config import Config
from llmgw.simulate.clock import Clock, VirtualLoop
from llmgw.simulate.machine import Machine, World
from llmgw.simulate.tally import Tally
from llmgw.simulate.traffic import Request
from llmgw.simulate.wire import Outage, Wire

START_US: Final = round(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
SAMPLE_S: Final = 1.0
GARBAGE: Final = 100_000  # objects
SKEW_US: Final = 500_000  # a machine's clock may be so far from the true one

Progress = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Scenario:
    config: Config
    traffic: Callable[[], Iterable[Request]]  # from the beginning, each time it is called
    length_s: float
    machines: int = 1
    seed: int = 0
    rtt_s: float = 0.001
    redis_loss: float = 0.0
    outages: tuple[Outage, ...] = ()
    start_us: int = START_US

    @property
    def is_shared(self) -> bool:
        """One machine has nobody to share with."""
        return self.config.redis is not None and self.machines > 1

    def central(self) -> Scenario:
        """The same traffic before one machine that shares with nobody: it knows everything at once."""
        config = self.config.model_copy(update={"redis": None})
        return Scenario(config, self.traffic, self.length_s, seed=self.seed, start_us=self.start_us)


@dataclass(slots=True)
class FleetBook:
    """Of the shared memory and the way to it, while requests came."""

    commands: int = 0
    round_trips: int = 0
    peak_commands: int = 0  # in one second
    kinds: Counter[str] = field(default_factory=Counter)  # commands by what they ask
    outages: int = 0  # as machines saw them: each that gave up on Redis, each time
    leased: int = 0
    returned: int = 0
    samples: int = 0
    idle: Counter[bytes] = field(default_factory=Counter)  # by gauge: on lease and not used, over all samples

    def stranded(self, key: bytes, limit: int) -> float:
        """The share of a limit that lies on lease somewhere and is not used, on average."""
        return self.idle[key] / self.samples / limit if self.samples and limit else 0.0


@dataclass(slots=True)
class Outcome:
    scenario: Scenario
    tally: Tally
    fleet: FleetBook
    end_us: int
    shadow_refusals: dict[bytes, int]
    central: Tally | None = None


def simulate(scenario: Scenario, progress: Progress = lambda _: None) -> Outcome:
    """Where machines share their limits, a central limiter is run beside them to compare with."""
    outcome = play(scenario, progress)
    if scenario.is_shared:
        outcome.central = play(scenario.central(), progress).tally
    return outcome


def play(scenario: Scenario, progress: Progress = lambda _: None) -> Outcome:
    loop = VirtualLoop()
    try:
        with tempfile.TemporaryDirectory(prefix="llmgw-simulate-") as directory, seeded(scenario.seed):
            estimator = Estimator(Segment(str(Path(directory) / "state" / "segment"), 1))
            return loop.run_until_complete(Run(scenario, loop, estimator, progress).run())
    finally:
        loop.close()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What the runner of leases does by chance is the same each time."""
    before = shared_random.getstate()
    shared_random.seed(f"{seed}/leases")
    try:
        yield
    finally:
        shared_random.setstate(before)


@contextmanager
def frozen() -> Iterator[None]:
    """A thousand machines are not looked through for garbage again and again: a sixth of a run."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GARBAGE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Run:
    def __init__(
        self, scenario: Scenario, loop: VirtualLoop, estimator: Estimator, progress: Progress
    ) -> None:
        self.scenario = scenario
        self.loop = loop
        self.progress = progress
        self.clock = Clock(loop, scenario.start_us)
        random = Random(f"{scenario.seed}/wire")
        wire = None
        if scenario.is_shared:
            wire = Wire(self.clock, random, scenario.rtt_s, scenario.redis_loss, scenario.outages)
        self.world = World.of(scenario.config, self.clock, estimator, wire, scenario.machines)
        self.wire = wire
        self.skews = Random(f"{scenario.seed}/skews")
        self.fleet = FleetBook()
        self.machines: Sequence[Machine] = ()
        self.open: set[asyncio.Task[None]] = set()

    async def run(self) -> Outcome:
        self.machines = [self.machine(index) for index in range(self.scenario.machines)]
        with frozen():
            await self.play()
        end_us = self.clock.now_us()
        shadows = self.shadow_refusals()
        for machine in self.machines:
            if machine.leases is not None:
                await machine.leases.close()
        return Outcome(self.scenario, self.world.tally, self.fleet, end_us, shadows)

    async def play(self) -> None:
        sampler = self.loop.create_task(self.sample())
        await self.feed()
        self.close_books()
        while self.open:
            await asyncio.wait(self.open)
        sampler.cancel()

    def machine(self, index: int) -> Machine:
        skew_us = self.skews.randint(-SKEW_US, SKEW_US) if self.wire is not None else 0
        clock = Clock(self.loop, self.scenario.start_us, skew_us)
        return Machine(self.world, index, clock)

    async def feed(self) -> None:
        """Each request to its machine when it is time; returns when the scenario's length is over."""
        loop, machines = self.loop, self.machines
        for request in self.scenario.traffic():
            if request.at_us > loop.elapsed_us:
                await asyncio.sleep((request.at_us - loop.elapsed_us) / 1e6)
            task = loop.create_task(machines[request.draw % len(machines)].serve(request))
            self.open.add(task)
            task.add_done_callback(self.close)
        await asyncio.sleep(max(self.scenario.length_s - loop.time(), 0.0))

    def close(self, task: asyncio.Task[None]) -> None:
        self.open.discard(task)
        if not task.cancelled():
            task.result()

    # -- once a second

    async def sample(self) -> None:
        commands = 0
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.progress(self.loop.time() / self.scenario.length_s)
            for machine in self.machines:
                machine.refresh()
            if self.wire is None or self.loop.time() > self.scenario.length_s:
                continue
            self.fleet.peak_commands = max(self.fleet.peak_commands, self.wire.commands - commands)
            commands = self.wire.commands
            self.fleet.samples += 1
            for machine in self.machines:
                for gauge in machine.shared:
                    self.fleet.idle[gauge.key] += machine.leased(gauge)

    def close_books(self) -> None:
        if self.wire is None:
            return
        self.fleet.commands, self.fleet.round_trips = self.wire.commands, self.wire.round_trips
        self.fleet.kinds = self.wire.kinds.copy()
        for machine in self.machines:
            assert machine.leases is not None, "machines share, so that each has its leases"
            counters = machine.leases._store.counters
            self.fleet.outages += counters.outages
            self.fleet.leased += counters.leased
            self.fleet.returned += counters.returned

    def shadow_refusals(self) -> dict[bytes, int]:
        found: Counter[bytes] = Counter()
        for machine in self.machines:
            for gauge in machine.admission.rules.configured():
                if gauge.is_shadow:
                    found[gauge.key] += machine.limiter.shadow_refusals(gauge)
        return found
