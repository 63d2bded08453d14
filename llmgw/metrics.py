"""The metrics: what a worker counts with, and the page that Prometheus reads.

`Metrics(segment, slot)` is the worker's counter (compiled: `_core.meter`), `render(segment)` the
text of all workers together, whichever of them is asked. A family is one line in FAMILIES. What
is no count but a state of now (what is left of budgets and limits) is read while the page is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from llmgw import __version__
from llmgw._core import meter
from llmgw._core.health import Health
from llmgw._core.meter import Meter as Metrics
from llmgw._core.segment import Segment
from llmgw._core.series import OVERFLOW, labels_of, merged

__all__ = ["CONTENT_TYPE", "FAMILIES", "Metrics", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Row = tuple[tuple[str, ...], list[int]]  # label values, stored integers
Budgets = Callable[[], Iterable[tuple[str, str, int]]]  # tenant, budget, what is left of it in micro-USD
Limits = Callable[[], Iterable[tuple[str, str, float]]]  # tenant, limit, used / limit
Targets = Callable[[], Iterable[tuple[str, str, Health]]]  # provider, model


class Family(NamedTuple):
    """How a family of the segment is shown. A stored integer is `value / per_unit` in the shown unit."""

    number: int
    name: str
    help: str
    labels: tuple[str, ...] = ()
    per_unit: int = 1
    bounds: tuple[int, ...] = ()  # of a histogram, in stored integers
    split: tuple[str, ...] = ()  # where a record has several counters: the last label's value for each


FAMILIES: Final = (
    Family(
        meter.REQUESTS,
        "llm_requests_total",
        "Requests that have ended, refused and broken ones included. Status is what the client got.",
        ("tenant", "model", "provider", "status"),
    ),
    Family(
        meter.DURATION,
        "llm_request_duration_seconds",
        "From the request read whole to its answer's last byte.",
        ("model", "provider"),
        per_unit=1_000_000,
        bounds=meter.DURATION_BOUNDS_US,
    ),
    Family(
        meter.FIRST_TOKEN,
        "llm_time_to_first_token_seconds",
        "From the request read whole to its answer's first byte; streams only.",
        ("model", "provider"),
        per_unit=1_000_000,
        bounds=meter.DURATION_BOUNDS_US,
    ),
    Family(
        meter.OVERHEAD,
        "llm_gateway_overhead_seconds",
        "The gateway's own part of a request: its duration without the waiting for a provider.",
        per_unit=1_000_000_000,
        bounds=meter.OVERHEAD_BOUNDS_NS,
    ),
    Family(
        meter.TOKENS,
        "llm_tokens_used_total",
        "Tokens, reported or estimated. Cached ones are input tokens too.",
        ("tenant", "model", "direction"),
        split=("input", "output", "cached"),
    ),
    Family(
        meter.COST,
        "llm_cost_usd_total",
        "Cost of the requests whose price is known.",
        ("tenant", "model"),
        per_unit=1_000_000,
    ),
    Family(
        meter.ATTEMPTS,
        "llm_upstream_attempts_total",
        "Calls to a provider, by what became of them.",
        ("provider", "outcome"),
    ),
    Family(
        meter.PRICE_UNKNOWN,
        "llm_price_unknown_total",
        "Requests that used tokens of a model without a price: llm_cost_usd_total lacks them.",
        ("model",),
    ),
    Family(
        meter.LINES_DROPPED,
        "llm_log_lines_dropped_total",
        "Request log lines given up because the log's sink was full, slow or gone.",
    ),
    Family(
        meter.REFUSED,
        "llm_rate_limit_exceeded_total",
        "Requests that a limit or a budget refused, by the one that would have taken longest to wait for.",
        ("tenant", "limit"),
    ),
    Family(
        meter.SHADOW_REFUSED,
        "llm_rate_limit_shadow_exceeded_total",
        "Requests that went on although a limit or a budget in shadow mode was exceeded.",
        ("tenant", "limit"),
    ),
    Family(
        meter.QUEUE_WAIT,
        "llm_queue_wait_seconds",
        "Waiting of the requests that had to wait, also of those that were refused in the end.",
        per_unit=1_000_000,
        bounds=meter.WAIT_BOUNDS_US,
    ),
    Family(
        meter.LEDGER_LOST,
        "llm_ledger_lines_lost_total",
        "Ledger lines that could not be written: sums of the ledger lack them.",
    ),
    Family(
        meter.REDIS_COMMANDS,
        "llm_redis_commands_total",
        "Commands that Redis answered, and exchanges with it that failed or were sent again, by why.",
        ("result",),
    ),
    Family(
        meter.REDIS_DEGRADED,
        "llm_redis_degraded_seconds_total",
        "Time in which workers held to the machine's share because Redis was away, summed over them.",
        per_unit=1_000_000,
    ),
    Family(
        meter.LEASE_STRANDED,
        "llm_lease_stranded_total",
        "Amounts leased that can never be returned: nobody knows whether the lease took effect.",
        ("unit",),
    ),
    Family(
        meter.ALERTS,
        "llm_alerts_sent_total",
        "Budget alerts, by what became of them.",
        ("result",),
    ),
    Family(
        meter.MIRRORED,
        "llm_mirror_requests_total",
        "Copies of requests, by what became of them beside the request itself.",
        ("model", "outcome"),
    ),
    Family(
        meter.MIRROR_LATENCY,
        "llm_mirror_latency_seconds",
        "From sending to the first byte, of requests and their copies where both were answered well.",
        ("model", "side"),
        per_unit=1_000_000,
        bounds=meter.DURATION_BOUNDS_US,
    ),
    Family(
        meter.OVERLOADED,
        "llm_overload_refused_total",
        "Requests that a worker turned away because it had no room for them.",
        ("reason",),
    ),
    Family(
        meter.HEALTH_CHECKS,
        "llm_health_checks_total",
        "Active health checks, by what became of them.",
        ("provider", "outcome"),
    ),
)


def render(
    segment: Segment,
    budgets: Budgets | None = None,
    limits: Limits | None = None,
    targets: Targets | None = None,
) -> bytes:
    """The metrics of all workers, merged, in Prometheus' text format (CONTENT_TYPE).

    `budgets`, `limits` and `targets` are asked here and now; without them their families are absent. Takes
    some milliseconds for each thousand series: to be called off the event loop, as those three then are.
    """
    return generate_latest(_SegmentCollector(segment, budgets, limits, targets))


class _SegmentCollector(Collector):
    def __init__(
        self, segment: Segment, budgets: Budgets | None, limits: Limits | None, targets: Targets | None
    ) -> None:
        self._segment = segment
        self._budgets = budgets
        self._limits = limits
        self._targets = targets

    def collect(self) -> Iterator[Metric]:
        rows = _rows_by_family(self._segment)
        for family in FAMILIES:
            show = _histogram if family.bounds else _counter
            yield show(family, rows.get(family.number, []))
        yield from _gateway_metrics(self._segment)
        yield from _limit_metrics(self._segment)
        if self._budgets is not None:
            yield _remaining(self._budgets())
        if self._limits is not None:
            yield _used_ratio(self._limits())
        if self._targets is not None:
            yield from _target_metrics(self._targets())
        yield from _process_metrics(self._segment)


def _rows_by_family(segment: Segment) -> dict[int, list[Row]]:
    """The merged series in order; overflow series only where something has gone into them."""
    rows: dict[int, list[Row]] = {}
    for (number, key), values in sorted(merged(segment).items()):
        labels = labels_of(key)
        if any(values) or OVERFLOW not in labels:
            rows.setdefault(number, []).append((labels, values))
    return rows


def _counter(family: Family, rows: Sequence[Row]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, values in rows:
        if family.split:
            for label, value in zip(family.split, values, strict=True):
                metric.add_metric((*labels, label), value / family.per_unit)
        else:
            metric.add_metric(labels, values[0] / family.per_unit)
    return metric


def _histogram(family: Family, rows: Sequence[Row]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    names = [str(bound / family.per_unit) for bound in family.bounds] + ["+Inf"]
    for labels, values in rows:
        count, buckets = 0, []
        for name, value in zip(names, values[:-1], strict=True):
            count += value
            buckets.append((name, float(count)))
        metric.add_metric(labels, buckets, values[-1] / family.per_unit)
    return metric


def _gateway_metrics(segment: Segment) -> Iterator[Metric]:
    """What is no counter of requests: gauges of now, and what the supervisor counted."""
    slots = range(segment.slots)
    yield GaugeMetricFamily(
        "llm_inflight_requests", "Requests being served.", sum(segment.inflight(slot) for slot in slots)
    )
    yield GaugeMetricFamily(
        "llm_event_loop_lag_seconds",
        "The worst delay of any worker's event loop in the last 15 to 30 s.",
        max(segment.lag_s(slot) for slot in slots),
    )
    yield CounterMetricFamily(
        "llm_worker_restarts_total",
        "Worker processes replaced after they died or were ended for being stuck.",
        sum(segment.restarts(slot) for slot in slots),
    )
    reloads = CounterMetricFamily(
        "llm_config_reloads_total", "Reloads of the configuration (SIGHUP).", labels=["result"]
    )
    for result, count in zip(("applied", "refused"), segment.reloads(), strict=True):
        reloads.add_metric([result], count)
    yield reloads
    build = GaugeMetricFamily("llm_build_info", "The version that runs.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build


def _limit_metrics(segment: Segment) -> Iterator[Metric]:
    """What queues and Redis are like now, and what the supervisor settled."""
    slots = range(segment.slots)
    depth = GaugeMetricFamily("llm_queue_depth", "Requests that wait for a limit.", labels=["priority"])
    waiting = [segment.waiting(slot) for slot in slots]
    for priority, counts in zip(("interactive", "batch"), zip(*waiting, strict=True), strict=True):
        depth.add_metric([priority], sum(counts))
    yield depth
    yield CounterMetricFamily(
        "llm_reservations_recovered_total",
        "Reservations of worker processes that died, settled by the supervisor.",
        segment.recovered(),
    )
    answers = [is_up for slot in slots if (is_up := segment.is_redis_up(slot)) is not None]
    if answers:
        yield GaugeMetricFamily("llm_redis_up", "1 while Redis answers every worker.", all(answers))


def _remaining(budgets: Iterable[tuple[str, str, int]]) -> Metric:
    """Where several budgets have the same labels (of a tenant's keys, say), the one with the least left."""
    least: dict[tuple[str, str], int] = {}
    for tenant, budget, left_usd_micro in budgets:
        least[tenant, budget] = min(left_usd_micro, least.get((tenant, budget), left_usd_micro))
    metric = GaugeMetricFamily(
        "llm_budget_remaining_usd",
        "What is left of a budget in its window or period now.",
        labels=["tenant", "budget"],
    )
    for labels, left_usd_micro in sorted(least.items()):
        metric.add_metric(labels, left_usd_micro / 1_000_000)
    return metric


def _used_ratio(limits: Iterable[tuple[str, str, float]]) -> Metric:
    """Where several limits have the same labels, the one that is used most."""
    most: dict[tuple[str, str], float] = {}
    for tenant, limit, ratio in limits:
        most[tenant, limit] = max(ratio, most.get((tenant, limit), ratio))
    metric = GaugeMetricFamily(
        "llm_limit_used_ratio",
        "Used and reserved part of a limit, 1 where it is reached.",
        labels=["tenant", "limit"],
    )
    for labels, ratio in sorted(most.items()):
        metric.add_metric(labels, ratio)
    return metric


def _target_metrics(targets: Iterable[tuple[str, str, Health]]) -> Iterator[Metric]:
    labels = ["provider", "target"]
    circuit = GaugeMetricFamily(
        "llm_circuit_state",
        "Breaker of a target: 0 closed, 1 open, 2 half-open.",
        labels=labels,
    )
    inflight = GaugeMetricFamily(
        "llm_target_inflight", "Attempts at a target that are under way on this machine.", labels=labels
    )
    for provider, model, health in sorted(targets, key=lambda target: target[:2]):
        circuit.add_metric((provider, model), health.state)
        inflight.add_metric((provider, model), health.inflight)
    yield circuit
    yield inflight


class _Process(NamedTuple):
    cpu_s: float
    resident_bytes: int
    fds: int
    start_s: float  # Unix time


def _process_metrics(segment: Segment) -> Iterator[Metric]:
    """The usual process metrics, with a label for the process, since any worker may be asked."""
    labels = ["process"]
    cpu = CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time.", labels=labels)
    resident = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", labels=labels)
    fds = GaugeMetricFamily("process_open_fds", "Open file descriptors.", labels=labels)
    start = GaugeMetricFamily("process_start_time_seconds", "Unix time of its start.", labels=labels)
    pids = {"supervisor": segment.supervisor_pid()}
    pids |= {f"worker-{slot}": segment.pid(slot) for slot in range(segment.slots)}
    for name, pid in pids.items():
        process = _read_process(pid) if pid else None
        if process is not None:
            cpu.add_metric([name], process.cpu_s)
            resident.add_metric([name], process.resident_bytes)
            fds.add_metric([name], process.fds)
            start.add_metric([name], process.start_s)
    return iter((cpu, resident, fds, start))


def _read_process(pid: int) -> _Process | None:
    """From /proc (man 5 proc_pid_stat); None where there is none, or the process has just gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name, which may itself hold spaces and parentheses; field 3 comes first.
            fields = file.read().rpartition(b")")[2].split()
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        boot_s = _boot_time_s()
    except OSError:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return _Process(
        cpu_s=(int(fields[11]) + int(fields[12])) / tick,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        fds=fds,
        start_s=boot_s + int(fields[19]) / tick,
    )


def _boot_time_s() -> float:
    with open("/proc/stat", "rb") as file:
        return next((float(line.split()[1]) for line in file if line.startswith(b"btime ")), 0.0)
