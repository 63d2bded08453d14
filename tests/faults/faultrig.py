"""Runs every case of the table against one gateway, and notes what came of it at both ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from faultends import FarEnds, arrivals, deaf, nobody
from faulttable import ATTEMPTS, CASES, FAILURES, IN_60_S, Case
from gatewayrig import CLIENT_KEY, Config, Gateway, up, wait_for
from proofkit import records
from wireclient import Answer, chat, exchange, post

from llmgw.mock import Mock

AT_ONCE = 16  # cases under way at the same time
PRICE = {"input": "1.00", "output": "2.00", "cached_input": "0.50"}
RETRY = {"max_attempts": ATTEMPTS, "base_delay": "20ms", "max_delay": "100ms"}
# What ends an answer or spoils it; without these a fault is only a way to answer.
BREAKING = frozenset(
    {"reset", "close", "stall", "no_done", "error_event", "drip_bytes", "drip_s", "interval_s"}
)


@dataclass
class Exchange:
    """One request and its answer; what arrived for it at the first and the second target."""

    answer: Answer
    took_s: float
    first: int | None
    second: int
    age_s: float  # of the far ends, when it began
    log: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def at_first(self) -> int:
        """Where nothing can arrive, the attempts that the gateway's log tells of."""
        return self.first if self.first is not None else self.log["attempts"] - self.second

    @property
    def charged(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["charged"]]

    @property
    def paid(self) -> list[dict[str, Any]]:
        """What came to more than nothing."""
        return [record for record in self.charged if record["cost_usd_micro"]]


@dataclass
class Observed:
    """What was seen of a case."""

    pair: Exchange
    row: list[Exchange] = field(default_factory=list)  # the requests behind it, up to FAILURES
    circuit: float | None = None  # behind these; None: there is no such metric
    after: Exchange | None = None  # one more, then
    alone: Exchange | None = None
    due: bytes = b""  # the body that the client should have got, or the whole of which it got a part

    @property
    def exchanges(self) -> Iterator[Exchange]:
        yield from (one for one in (self.pair, *self.row, self.after, self.alone) if one is not None)


class Bench:
    """The far ends of one case."""

    def __init__(self, case: Case, ends: FarEnds, stack: ExitStack) -> None:
        self.case = case
        self.began_s = time.monotonic()
        self.second = ends.start()
        self.mock: Mock | None = None
        self.count: Callable[[], int | None] = lambda: None
        match case.row.at:
            case "mock":
                self.mock = mock = ends.start(**fault_now(case.row.fault))
                self.port, self.count = mock.port, lambda: mock.seen.requests
            case "resetting":
                resetting = ends.reset_connections()
                self.port, self.count = resetting.port, lambda: resetting.connections
            case "deaf":
                self.port = stack.enter_context(deaf())
            case _:
                self.port = stack.enter_context(nobody())
        kept = {name: value for name, value in case.row.fault.items() if name not in BREAKING}
        self.unbroken = ends.start(**fault_now(kept)) if case.outcome.gets == "cut" else self.mock

    def providers(self) -> Config:
        name, timeouts = self.case.name, self.case.row.timeouts
        bad = up(self.port, timeouts=timeouts, breaker={"open": "60s"})
        return {f"first-{name}": bad, f"alone-{name}": bad, f"second-{name}": up(self.second.port)}

    def models(self) -> Config:
        name = self.case.name
        first, alone = (
            {"provider": f"first-{name}", "model": "m"},
            {"provider": f"alone-{name}", "model": "m"},
        )
        second = {"provider": f"second-{name}", "model": "m"}
        pair: Config = {"targets": [first, second | {"priority": 2}]}
        if self.case.row.via == "fallbacks":
            classes = ("context_length", "content_policy")
            pair = {"targets": [first], "fallbacks": dict.fromkeys(classes, [f"second-{name}"])}
        rows = {
            f"pair-{name}": pair,
            f"alone-{name}": {"targets": [alone]},
            f"second-{name}": {"targets": [second]},
        }
        return {model: {**rest, "price": PRICE, "retry": RETRY} for model, rest in rows.items()}

    def body(self, model: str) -> bytes:
        more: Config = {"stream_options": {"include_usage": True}} if self.case.streams else {}
        return chat("what is due?", model=f"{model}-{self.case.name}", stream=self.case.streams, **more)


class Matrix:
    """All cases, each with its own providers, so that no case knows of another."""

    def __init__(self, home: Path, ends: FarEnds, stack: ExitStack) -> None:
        self.benches = [Bench(case, ends, stack) for case in CASES]
        config: Config = {
            "providers": {name: it for bench in self.benches for name, it in bench.providers().items()},
            "models": {name: it for bench in self.benches for name, it in bench.models().items()},
            "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
        }
        self.gateway = Gateway(home, config)
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> dict[str, Observed]:
        observed = await asyncio.gather(*map(self.fail, self.benches))
        metrics = self.gateway.metrics()
        for bench, seen in zip(self.benches, observed, strict=True):
            wanted = {"provider": f"first-{bench.case.name}"}.items()
            states = [
                s.value
                for s in metrics.samples
                if s.name == "llm_circuit_state" and wanted <= s.labels.items()
            ]
            seen.circuit = max(states, default=None)
        await asyncio.gather(*map(self.go_on, self.benches, observed))
        await self.look_up([one for seen in observed for one in seen.exchanges])
        return {bench.case.name: seen for bench, seen in zip(self.benches, observed, strict=True)}

    async def fail(self, bench: Bench) -> Observed:
        """The first request, and those behind it."""
        outcome = bench.case.outcome
        behind = 0 if outcome.again is None else FAILURES - 1 if outcome.again else 1
        async with self.turns:
            seen = Observed(await self.ask(bench, "pair"))
            seen.row = [await self.ask(bench, "pair") for _ in range(behind)]
        return seen

    async def go_on(self, bench: Bench, seen: Observed) -> None:
        async with self.turns:
            if bench.case.outcome.circuit is not None:
                seen.after = await self.ask(bench, "pair")
            if bench.case.outcome.alone is not None:
                seen.alone = await self.ask(bench, "alone")
            seen.due = await self.due(bench)

    async def ask(self, bench: Bench, model: str) -> Exchange:
        first, second, began_s = bench.count(), bench.second.seen.requests, time.monotonic()
        answer = await exchange(self.gateway.port, post(bench.body(model)))
        took_s = time.monotonic() - began_s
        now = bench.count()
        arrived = None if now is None or first is None else now - first
        return Exchange(answer, took_s, arrived, bench.second.seen.requests - second, began_s - bench.began_s)

    async def due(self, bench: Bench) -> bytes:
        """What the one whose answer it should be says to the same request when it is asked alone."""
        if bench.case.outcome.gets == "second":
            return (await exchange(self.gateway.port, post(bench.body("second")))).body
        assert bench.mock is not None and bench.unbroken is not None
        sent = arrivals(bench.mock)
        if not sent or sent[0].body is None:
            return b"nothing arrived"
        return (await exchange(bench.unbroken.port, post(sent[0].body))).body

    async def look_up(self, exchanges: list[Exchange]) -> None:
        """Log line and ledger records of each request."""
        wanted = {request_id(one): one for one in exchanges}

        def lines() -> dict[str, dict[str, Any]]:
            found = {line["request_id"]: line for line in self.gateway.all_log_lines()}
            return found if found.keys() >= wanted.keys() else {}

        for name, line in (await wait_for("all log lines", lines)).items():
            if name in wanted:
                wanted[name].log = line
        for record in records(self.gateway):
            if record["request_id"] in wanted:
                wanted[record["request_id"]].records.append(record)


def fault_now(fault: dict[str, Any]) -> dict[str, Any]:
    """Dates are made when they are needed."""
    if fault.get("retry_after") != IN_60_S:
        return fault
    return {**fault, "retry_after": formatdate(time.time() + 60, usegmt=True)}


def request_id(one: Exchange) -> str:
    found = one.answer.header("x-request-id")
    assert found is not None
    return found
