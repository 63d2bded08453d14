"""The rungs of the ladder: what each promise of the contract's section 8 is measured by."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rig import KEY, STREAM_EVENTS, Candidate, Upstreams

from llmgw.bench import Job, Result, Target, proctree, run, to_json
from llmgw.bench.client import Due, Pool
from llmgw.bench.job import Nonces

CONCURRENCY = 32
SILENT_STREAMS = 2000
_SETTLE_S = 0.5  # between opening the streams and reading the memory
_OPEN_S = 30.0


class Void(Exception):
    """A request failed or had a wrong answer; the figures of its run mean nothing."""


@dataclass(frozen=True)
class Cost:
    """A ratio of processor time: P1, P2, P3, P5; and P6, whose other side is the gateway itself."""

    name: str
    title: str
    route: str
    unit: str = "request"
    promise: str = "≤ 1.5 × nginx"
    body_bytes: int = 1100
    concurrency: int = CONCURRENCY
    is_stream: bool = False

    def job(self, candidate: Candidate, behind: Upstreams, seconds: float) -> Job:
        return Job(
            targets=(Target(candidate.name, candidate.urls[self.route], KEY),),
            model=self.route,
            body_bytes=self.body_bytes,
            is_stream=self.is_stream,
            events=STREAM_EVENTS if self.is_stream else None,
            concurrency=self.concurrency,
            duration_s=seconds,
            warmup_s=max(0.3, seconds / 6),
            pids={candidate.name: candidate.pid} if candidate.pid else {},
            tls=behind.tls_context() if self.route == "tls" else None,
        )

    async def measure(self, candidate: Candidate, behind: Upstreams, seconds: float) -> dict[str, Any]:
        return sound(await run(self.job(candidate, behind, seconds)))


COSTS = (
    Cost("P1", "CPU per chat request, µs", "plain"),
    Cost("P2", "CPU per chat request, TLS upstream, µs", "tls"),
    Cost("P3", "CPU per streamed event, µs", "stream", unit="event", concurrency=100, is_stream=True),
    Cost("P5", "CPU per request with a 400 KB prompt, µs", "large", body_bytes=400_000, concurrency=8),
)


async def added_latency(candidates: list[Candidate], seconds: float) -> dict[str, Any]:
    """P7: one request at a time, each at random through one of the candidates, in one run."""
    job = Job(
        targets=tuple(Target(candidate.name, candidate.urls["plain"], KEY) for candidate in candidates),
        model="plain",
        concurrency=1,
        duration_s=seconds,
        warmup_s=max(0.3, seconds / 6),
    )
    return sound(await run(job))


async def silent_streams(candidate: Candidate, seconds: float) -> dict[str, Any]:
    """P8: resident memory before and after `SILENT_STREAMS` streams stopped after their first events."""
    assert candidate.pid is not None
    target = Target(candidate.name, candidate.urls["plain"], KEY)
    sound(await run(Job((target,), model="plain", duration_s=seconds, warmup_s=0.1)))
    before = proctree.usage(candidate.pid)
    wishes = {"events": 3, "stall": "events:2"}
    job = Job((target,), model="plain", is_stream=True, wishes=wishes, concurrency=SILENT_STREAMS)
    failures: list[str] = []
    pool = Pool(job, target, _unexpected, lambda _pool, _due, reason: failures.append(reason))
    nonces = Nonces()
    try:
        for _ in range(SILENT_STREAMS):
            pool.submit(Due(time.perf_counter(), nonces.take(), False))
        await _until(lambda: bool(failures) or pool.events == 2 * SILENT_STREAMS)
        await asyncio.sleep(_SETTLE_S)
        if failures:
            raise Void(f"{candidate.name}: {failures[0]}")
        after = proctree.usage(candidate.pid)
    finally:
        pool.close()
        gc.collect()
    return {
        "streams": SILENT_STREAMS,
        "rss_before_bytes": before.rss_bytes,
        "rss_after_bytes": after.rss_bytes,
        "kib_per_stream": round((after.rss_bytes - before.rss_bytes) / SILENT_STREAMS / 1024, 2),
    }


def sound(result: Result) -> dict[str, Any]:
    """The report of a run in which nothing went wrong and every way was measured."""
    if result.is_void:
        raise Void("; ".join(f"{count}x {reason}" for reason, count in result.failures.items()))
    for name, way in result.ways.items():
        if not (way.events if result.job.is_stream else way.completed):
            raise Void(f"{name}: nothing came within the {result.measured_s:.1f} s measured")
    return to_json(result)


def _unexpected(_pool: Pool, _wire: object, _due: Due) -> None:
    raise Void("a stream that should have gone silent came to its end")


async def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _OPEN_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise Void(f"the streams were not all open within {_OPEN_S:g} s")
        await asyncio.sleep(0.05)
