"""Many callers while providers fail: load is not multiplied, nobody is hammered, nobody notices what need not show."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from clients import Load, Session
from faultends import FarEnds, arrivals
from gatewayrig import CLIENT_KEY, Config, Gateway, Metrics, default_config, up, wait_for
from proofkit import most_in_window
from stormkit import Sample, Storm, moments, sendings, statuses

RATIO, PER_S, BUDGET_S = 0.2, 10.0, 10.0  # of the default retry budget, and the time it looks back on
WINDOW_S = 0.1
PAUSE_S, GRACE_S = 2, 0.1
RESTARTS, AT_ONCE = 20, 2

# What the gateway has by default.
BUDGET: dict[str, Any] = {"retry_budget": {"ratio": 0.2, "per_second": 10}}


def config_of(providers: Config, targets: list[Config], **more: Any) -> Config:
    return {
        "providers": providers,
        "models": {"mock": {"targets": targets, "price": {"input": "1", "output": "1"}, **more}},
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }


class Shape(NamedTuple):
    """`breaker` as configured; None: the defaults."""

    rate: float
    fails_s: float
    recovers_s: float
    breaker: Any


Begun = tuple[Load, asyncio.Event, asyncio.Task[None]]
QUICK = {"open": "1s", "max_open": "1s", "probe_every": "200ms"}
SHAPES = [
    pytest.param(Shape(200, 5, 3, QUICK), id="short"),
    pytest.param(Shape(200, 3, 1, "off"), id="no-breaker"),
    pytest.param(Shape(300, 30, 15, None), id="full", marks=pytest.mark.soak),
]


@pytest.fixture
async def storms() -> AsyncIterator[Callable[..., Storm]]:
    """storms(gateway, rate): callers whose connections end with the test."""
    begun: list[Storm] = []

    def begin(gateway: Gateway, rate: float) -> Storm:
        begun.append(Storm(gateway, rate))
        return begun[-1]

    yield begin
    for storm in begun:
        await storm.close()


@pytest.fixture
async def loads() -> AsyncIterator[Callable[[Gateway, float], Begun]]:
    """loads(gateway, rate): callers over kept and over new connections, until the event is set."""
    running: list[asyncio.Task[None]] = []

    def begin(gateway: Gateway, rate: float) -> Begun:
        load, is_over = Load(gateway.port, rate), asyncio.Event()
        running.append(asyncio.ensure_future(load.run(is_over)))
        return load, is_over, running[-1]

    yield begin
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for session in Session.opened:
        session.close()
    Session.opened.clear()


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_provider_that_only_fails_gets_no_more_than_its_load_and_the_retry_budget(
    far_ends: FarEnds,
    start_gateway: Callable[..., Gateway],
    storms: Callable[..., Storm],
    shape: Shape,
) -> None:
    """And when it is well again it is served again, without a stampede."""
    mock = far_ends.start(keep=100_000)
    breaker = {"breaker": shape.breaker or {}}
    targets = [{"provider": "up", "model": name} for name in ("one", "two")]
    gateway = start_gateway(config_of({"up": up(mock.port, **(BUDGET | breaker))}, targets), workers=2)
    storm = storms(gateway, shape.rate)
    far_ends.script(mock, {"status": 503, "times": 10**9})
    failed = await storm.run(shape.fails_s)
    took_s = time.monotonic() - failed[0].sent_s
    attempts = len(arrivals(mock))
    assert attempts <= (1 + RATIO) * len(failed) + PER_S * max(took_s, BUDGET_S)
    assert set(statuses(failed)) <= {502, 503}
    assert all(sample.header("x-should-retry") in ("true", "false") for sample in failed)
    if shape.breaker != "off":
        assert attempts < len(failed) / 4, "an open circuit lets probes through, and no more"

    sound_s = time.monotonic()
    far_ends.script(mock)
    recovering = await storm.run(shape.recovers_s)
    last = [sample for sample in recovering if sample.sent_s > recovering[-1].sent_s - 0.5]
    assert set(statuses(last)) == {200}
    offered = max(shape.rate * WINDOW_S, most_in_window(sendings(recovering), WINDOW_S))
    assert most_in_window(moments(arrivals(mock), sound_s), WINDOW_S) <= 1.5 * offered + 10


async def test_a_target_that_dies_under_load_is_not_noticed(
    far_ends: FarEnds, start_gateway: Callable[..., Gateway], storms: Callable[..., Storm]
) -> None:
    """Attempts at it are within the retry budget until its circuit opens; then there are none."""
    dying, other = far_ends.start(), far_ends.start(keep=100_000)
    port = dying.port
    providers = {"a": up(port, breaker={"open": "60s"}, **BUDGET), "b": up(other.port, **BUDGET)}
    gateway = start_gateway(config_of(providers, [{"provider": "a"}, {"provider": "b"}]), workers=2)
    storm = storms(gateway, 150)
    before = await storm.run(1.0)
    assert set(statuses(before)) == {200}
    assert len(arrivals(dying)) > len(before) / 4

    going_on = storm.begin(3.0)
    await asyncio.sleep(0.2)
    died_s = time.monotonic()
    far_ends.stop(dying)
    dead = far_ends.reset_connections(port)
    opened_s = await opened(gateway, "a")
    attempts = dead.connections
    samples = await going_on

    assert [sample for sample in samples if sample.sent_s > opened_s and not sample.is_good] == []
    assert dead.connections <= attempts + len(gateway.worker_pids()), "asked though its circuit was open"
    budget = RATIO * len(storm.samples) + PER_S * (opened_s - died_s)
    assert attempts <= budget
    assert len(arrivals(other)) + len(arrivals(dying)) + attempts <= len(storm.samples) + budget


async def opened(gateway: Gateway, provider: str) -> float:
    """The moment when its circuit was seen to be open."""

    def is_open(metrics: Metrics) -> bool:
        return metrics.total("llm_circuit_state", provider=provider) == 1

    until_s = time.monotonic() + 2.5
    while not is_open(await asyncio.to_thread(gateway.metrics)):
        assert time.monotonic() < until_s, "no circuit opened"
        await asyncio.sleep(0.02)
    return time.monotonic()


@pytest.mark.parametrize("count", [1, 2])
async def test_who_says_retry_after_is_left_alone_for_so_long_by_every_worker(
    far_ends: FarEnds, start_gateway: Callable[..., Gateway], storms: Callable[..., Storm], count: int
) -> None:
    """With another target nobody notices; without one, callers hear how long."""
    limited, *others = mocks = [far_ends.start(keep=100_000) for _ in range(count)]
    providers = {f"p{number}": up(mock.port, pacing=False) for number, mock in enumerate(mocks)}
    gateway = start_gateway(config_of(providers, [{"provider": name} for name in providers]), workers=2)
    storm = storms(gateway, 100)
    assert set(statuses(await storm.run(0.5))) == {200}
    far_ends.script(limited, {"status": 429, "retry_after": PAUSE_S, "times": 10**9})
    samples = await storm.run(PAUSE_S + 1.0)

    first_s, *later_s = (arrival.started_s for arrival in arrivals(limited) if arrival.status == 429)
    assert [at_s - first_s for at_s in later_s if GRACE_S < at_s - first_s < PAUSE_S] == []
    assert [at_s for at_s in later_s if at_s - first_s >= PAUSE_S], "and then it is asked again"
    if others:
        assert [sample for sample in samples if not sample.is_good] == []
    else:
        assert_refusals_are_honest(samples)


def assert_refusals_are_honest(samples: list[Sample]) -> None:
    refused = [sample for sample in samples if not sample.is_good]
    assert set(statuses(refused)) == {503}
    assert {sample.header("x-should-retry") for sample in refused} == {"true"}
    assert {int(sample.header("retry-after") or 0) for sample in refused} <= set(range(1, PAUSE_S + 1))


async def test_workers_that_are_replaced_under_load_cost_no_caller_an_error(
    far_ends: FarEnds, start_gateway: Callable[..., Gateway], loads: Callable[[Gateway, float], Begun]
) -> None:
    """Each is told to end, serves what it has, and another takes its place; twenty times."""
    gateway = start_gateway(default_config(far_ends.start().port), workers=4)
    load, is_over, running = loads(gateway, 100)
    for _ in range(RESTARTS // AT_ONCE):
        leaving = sorted(gateway.worker_pids())[:AT_ONCE]
        for pid in leaving:
            os.kill(pid, signal.SIGTERM)
        await wait_for("others took their places", lambda leaving=leaving: are_replaced(gateway, leaving))
    is_over.set()
    await running
    assert load.lost == []
    assert load.ends["refused"] == 0
    assert load.ends["good"] > 100


def are_replaced(gateway: Gateway, leaving: list[int]) -> bool:
    """And the new ones serve."""
    now = gateway.worker_pids()
    return len(now) == gateway.workers and not set(leaving) & set(now)
