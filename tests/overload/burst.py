"""An open-loop burst: requests leave when they are due, whatever has become of those before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter

from gatewayrig import DEADLINE_S
from wireclient import Answer, Wire, get

HEALTH = get("/health/live", key=None)
NOTHING = get("/v1/models")


@dataclass(frozen=True)
class Outcome:
    took_s: float
    answer: Answer


class Burst:
    """Its connections are kept and used again; a request that finds none opens one.

    `noise_s` is how long the far end takes for nothing, asked directly and at the same time: what the machine
    and this client add to everything.
    """

    def __init__(self, port: int, far_port: int, request: bytes) -> None:
        self.port, self.far_port, self.request = port, far_port, request
        self.noise_s: list[float] = []
        self.idle: list[Wire] = []
        self.outcomes: list[Outcome] = []
        self.health_s: list[float] = []

    async def run(self, per_s: float, seconds: float) -> None:
        watches = [
            asyncio.create_task(self.watch(self.port, HEALTH, self.health_s)),
            asyncio.create_task(self.watch(self.far_port, NOTHING, self.noise_s)),
        ]
        began_s = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(per_s * seconds)):
                due_s = began_s + number / per_s
                if due_s > perf_counter():
                    await asyncio.sleep(due_s - perf_counter())
                tasks.create_task(self.ask(due_s))
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for wire in self.idle:
            wire.close()

    async def ask(self, due_s: float) -> None:
        """Latency counts from when it was due."""
        wire = self.idle.pop() if self.idle else await Wire.open(self.port)
        wire.send(self.request)
        answer = await wire.answer(DEADLINE_S)
        self.outcomes.append(Outcome(perf_counter() - due_s, answer))
        if answer.keeps_alive:
            self.idle.append(wire)
        else:
            wire.close()

    async def watch(self, port: int, request: bytes, taken_s: list[float]) -> None:
        wire = await Wire.open(port)
        try:
            while True:
                sent_s = perf_counter()
                wire.send(request)
                answer = await wire.answer(DEADLINE_S)
                assert answer.status == 200
                taken_s.append(perf_counter() - sent_s)
                await asyncio.sleep(0.02)
        finally:
            wire.close()

    def of(self, status: int) -> list[float]:
        return [outcome.took_s for outcome in self.outcomes if outcome.answer.status == status]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def told(name: str, values: list[float]) -> str:
    p50, p99 = quantile(values, 0.5) * 1e3, quantile(values, 0.99) * 1e3
    return f"{name}: {len(values)}, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
