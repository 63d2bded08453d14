"""A run's books as JSON and as the table that people read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from llmgw.bench.load import Result, Tree, Way
from llmgw.bench.stats import QUANTILES, Samples, name_of

DIRECT = "direct"
_LAGGING_US = 1000.0  # beyond this p99 of our own lateness the open loop was not what it says
_BUSY = 0.9  # of a core


def to_json(result: Result) -> dict[str, Any]:
    """Times in microseconds, memory in bytes."""
    job = result.job
    return {
        "void": result.is_void,
        "failures": dict(result.failures),
        "loop": "closed" if job.rate is None else f"open, {job.arrivals}",
        "rate": job.rate,
        "concurrency": job.concurrency,
        "body_bytes": job.body_bytes,
        "stream": job.is_stream,
        "measured_s": round(result.measured_s, 3),
        "own_cpu_share": round(result.own_cpu_share, 3),
        "send_lag_us": result.lag.summary_us(),
        "ways": {name: _way(result, way) for name, way in result.ways.items()},
        "added_us": added_us(result),
        "trees": {name: {**asdict(tree), **per_unit_us(result, tree)} for name, tree in result.trees.items()},
    }


def added_us(result: Result) -> dict[str, dict[str, float]]:
    """For each way what its quantiles exceed those of the direct one by."""
    direct = result.ways.get(DIRECT)
    if direct is None or not len(direct.latency):
        return {}
    return {
        name: {name_of(q): _difference_us(way.latency, direct.latency, q) for q in QUANTILES}
        for name, way in result.ways.items()
        if name != DIRECT and len(way.latency)
    }


def per_unit_us(result: Result, tree: Tree) -> dict[str, float]:
    """The tree's processor time for each request and event that went its way."""
    way = result.ways[result.job.measured]
    costs = {}
    if way.completed:
        costs["cpu_us_per_request"] = round(tree.cpu_s / way.completed * 1e6, 2)
    if way.events:
        costs["cpu_us_per_event"] = round(tree.cpu_s / way.events * 1e6, 3)
    return costs


def to_text(result: Result) -> str:
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    rate = result.completed / result.measured_s if result.measured_s else 0.0
    job = result.job
    loop = (
        f"closed loop, {job.concurrency} users"
        if job.rate is None
        else f"open loop, {job.rate:g}/s {job.arrivals}"
    )
    yield f"{loop}: {result.completed} answers in {result.measured_s:.1f} s, {rate:.0f}/s, every body checked"
    names = [name_of(q) for q in QUANTILES]
    yield f"{'milliseconds':<24}" + "".join(f"{name:>10}" for name in ["mean", *names, "max"])
    for name, way in result.ways.items():
        yield _row(f"{name} latency", way.latency)
        if job.is_stream:
            yield _row(f"{name} to first event", way.first)
            yield _row(f"{name} between events", way.gaps)
    for name, added in added_us(result).items():
        cells = "".join(f"{value / 1000:>10.3f}" for value in added.values())
        yield f"{name + ' added to direct':<24}{'':>10}{cells}"
    for name, tree in result.trees.items():
        costs = ", ".join(
            f"{key[len('cpu_us_per_') :]}: {us:g} us" for key, us in per_unit_us(result, tree).items()
        )
        memory = f"{tree.rss_bytes / 2**20:.1f} MiB resident in {tree.processes} processes"
        yield f"{name}: {tree.cpu_s:.2f} s of CPU ({costs}), {memory}"
    yield from _warnings(result)
    for reason, count in result.failures.most_common(10):
        yield f"FAILED {count}x {reason}"
    if not result.completed:
        yield "NO ANSWER was complete within the measured time"
    if result.is_void:
        failed = result.failures.total()
        yield f"VOID: {failed} requests failed or had a wrong answer; the figures mean nothing"


def _warnings(result: Result) -> Iterator[str]:
    lag_us = result.lag.quantile(0.99) * 1e6
    if lag_us > _LAGGING_US:
        late = f"up to {lag_us / 1000:.1f} ms late (p99)"
        yield f"WARNING: requests went out {late}: too few connections, or too little CPU here"
    if result.own_cpu_share > _BUSY:
        share = f"{result.own_cpu_share:.0%} of its core"
        yield f"WARNING: the load generator used {share}; it may be the bottleneck"


def _row(label: str, samples: Samples) -> str:
    if not len(samples):
        return f"{label:<24}" + f"{'-':>10}" * (len(QUANTILES) + 2)
    values = [samples.mean(), *(samples.quantile(q) for q in QUANTILES), samples.quantile(1.0)]
    return f"{label:<24}" + "".join(f"{value * 1000:>10.3f}" for value in values)


def _way(result: Result, way: Way) -> dict[str, Any]:
    return {
        "completed": way.completed,
        "per_s": round(way.completed / result.measured_s, 1) if result.measured_s else 0.0,
        "body_bytes": way.bytes,
        "events": way.events,
        "latency_us": way.latency.summary_us(),
        "first_us": way.first.summary_us(),
        "gap_us": way.gaps.summary_us(),
    }


def _difference_us(via: Samples, direct: Samples, q: float) -> float:
    return round((via.quantile(q) - direct.quantile(q)) * 1e6, 1)
