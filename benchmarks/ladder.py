"""The benchmark ladder: the gateway beside nginx and the bare upstream, in one run.

    python benchmarks/ladder.py             all rungs, about five minutes
    python benchmarks/ladder.py --quick     the same in one minute, for a look
    python benchmarks/ladder.py --only P1,P7 --candidates nginx,direct

Rounds are interleaved (nginx, gateway, direct, and again in another order), a figure is the
median of its rounds, and a ratio is the median of the ratios within each round, so that a
machine that speeds up or slows down meanwhile does not show as a difference. A single failed or
wrong answer voids everything: exit code 1, and no result is written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import rig
import uvloop
from machine import describe
from render import table
from rungs import COSTS, Cost, Void, added_latency, silent_streams

from llmgw.bench.cli import raise_open_files

RESULTS = Path(__file__).with_name("results")
MEASURED = ("nginx", "gateway")
METHOD = (
    "nginx and the gateway (one worker) on the first core, load generator and mock upstreams on the second; "
    "closed loop, openai-python's headers, every body checked; CPU is user+system of the whole process tree "
    "over completed requests (events for streams); medians of interleaved rounds, ratios taken within a round"
)

RUNGS = {"P1", "P2", "P3", "P5", "P6", "P7", "P8"}

Rounds = list[dict[str, Any]]


class Ladder:
    """One run of the ladder; `rows` and `raw` are what it found."""

    def __init__(self, args: argparse.Namespace, room: Path) -> None:
        self._rounds = args.rounds
        self._seconds = args.seconds
        self._only = args.only
        self._names = args.candidates
        self._room = room
        self.at = "nothing measured"  # what is being measured at this moment
        self.raw: dict[str, dict[str, Rounds]] = {}
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        with rig.upstreams(self._room) as behind:
            with ExitStack() as stack:
                candidates = [self._start(stack, name, behind) for name in self._names]
                for cost in COSTS:
                    if self._wants(cost.name):
                        self._cost(cost, candidates, behind)
                alone = next((one for one in candidates if one.name == "gateway"), None)
                if self._wants("P6") and alone is not None and rig.redis_binary() is not None:
                    self._shared(alone, behind)
                if self._wants("P7") and "direct" in self._names:
                    self._added_latency(candidates)
            if self._wants("P8"):
                self._memory(behind)

    def _start(self, stack: ExitStack, name: str, behind: rig.Upstreams) -> rig.Candidate:
        if name == "direct":
            return rig.direct(behind)
        starter = rig.nginx if name == "nginx" else rig.gateway
        return stack.enter_context(starter(self._room, behind))

    def _wants(self, rung: str) -> bool:
        return not self._only or rung in self._only

    def _cost(self, cost: Cost, candidates: list[rig.Candidate], behind: rig.Upstreams) -> None:
        rounds = self._interleaved(
            cost.name, candidates, lambda candidate: cost.measure(candidate, behind, self._seconds)
        )
        key = f"cpu_us_per_{cost.unit}"
        figures = {
            name: [measured["trees"][name][key] for measured in rounds[name]]
            for name in MEASURED
            if name in rounds
        }
        self._row(cost.name, cost.title, cost.promise, figures, note=_rate_note(cost, rounds))

    def _shared(self, alone: rig.Candidate, behind: rig.Upstreams) -> None:
        """The gateway whose limits are in Redis beside the one whose limits are its machine's."""
        cost = COSTS[0]
        with rig.redis(self._room) as port, rig.gateway(self._room, behind, port) as shared:
            before = rig.redis_calls(port)
            rounds = self._interleaved(
                "P6", [alone, shared], lambda candidate: cost.measure(candidate, behind, self._seconds)
            )
            calls = rig.redis_calls(port) - before
        figures = {
            name: [measured["trees"][name]["cpu_us_per_request"] for measured in found]
            for name, found in rounds.items()
        }
        requests = sum(measured["ways"]["shared"]["completed"] for measured in rounds["shared"])
        alone_us, shared_us = median(figures["gateway"]), median(figures["shared"])
        pairs = zip(figures["shared"], figures["gateway"], strict=True)
        self.rows.append(
            {
                "rung": "P6",
                "measure": "CPU per chat request, limits shared through Redis, µs",
                "gateway": round(shared_us, 2),
                "ratio": round(median(ours / theirs for ours, theirs in pairs), 2),
                "of": "alone",
                "promise": "≤ 1.15 × alone, ≤ 0.1 commands",
                "note": f"alone {alone_us:.1f} µs; {calls / requests:.3f} Redis commands a request",
            }
        )

    def _added_latency(self, candidates: list[rig.Candidate]) -> None:
        rounds: Rounds = []
        for number in range(self._rounds):
            self._say("P7", number, "all at once")
            rounds.append(uvloop.run(added_latency(candidates, self._seconds)))
        self.raw["P7"] = {"all": rounds}
        for quantile in ("p50", "p99"):
            figures = {
                name: [measured["added_us"][name][quantile] for measured in rounds]
                for name in MEASURED
                if name in rounds[0]["added_us"]
            }
            latency = median(measured["ways"]["direct"]["latency_us"][quantile] for measured in rounds)
            title = f"added latency at concurrency 1, {quantile}, µs"
            self._row(
                "P7", title, "≤ nginx + 60 µs", figures, note=f"direct {latency:.0f} µs", is_ratio=False
            )

    def _memory(self, behind: rig.Upstreams) -> None:
        """Each round in fresh processes: memory once taken is rarely given back."""
        rounds: dict[str, Rounds] = {name: [] for name in MEASURED if name in self._names}
        for number in range(self._rounds):
            for name, measured in rounds.items():
                self._say("P8", number, name)
                with ExitStack() as stack:
                    candidate = self._start(stack, name, behind)
                    measured.append(uvloop.run(silent_streams(candidate, self._seconds / 3)))
        self.raw["P8"] = rounds
        figures = {name: [measured["kib_per_stream"] for measured in rounds[name]] for name in rounds}
        self._row(
            "P8", "resident memory per open, silent stream, KiB", "≤ 24 KB", figures, note="", is_ratio=False
        )

    def _interleaved(
        self,
        rung: str,
        candidates: list[rig.Candidate],
        measure: Callable[[rig.Candidate], Coroutine[Any, Any, dict[str, Any]]],
    ) -> dict[str, Rounds]:
        rounds: dict[str, Rounds] = {candidate.name: [] for candidate in candidates}
        for number in range(self._rounds):
            turn = number % len(candidates)
            for candidate in candidates[turn:] + candidates[:turn]:
                self._say(rung, number, candidate.name)
                rounds[candidate.name].append(uvloop.run(measure(candidate)))
        self.raw[rung] = rounds
        return rounds

    def _row(
        self,
        rung: str,
        title: str,
        promise: str,
        figures: dict[str, list[float]],
        note: str,
        is_ratio: bool = True,
    ) -> None:
        row: dict[str, Any] = {"rung": rung, "measure": title, "promise": promise, "note": note}
        for name, values in figures.items():
            row[name] = round(median(values), 2)
            row[f"{name}_range"] = [min(values), max(values)]
        if len(figures) == len(MEASURED):
            pairs = zip(figures["gateway"], figures["nginx"], strict=True)
            compared = [ours / theirs if is_ratio else ours - theirs for ours, theirs in pairs]
            row["ratio" if is_ratio else "difference"] = round(median(compared), 2)
        self.rows.append(row)

    def _say(self, rung: str, number: int, name: str) -> None:
        self.at = f"{rung} round {number + 1}/{self._rounds} {name}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{self.at}")
            sys.stderr.flush()


def main() -> int:
    args = _arguments()
    if args.one_core:
        rig.TESTED_CORE = rig.OTHER_CORE
    os.sched_setaffinity(0, {rig.OTHER_CORE})
    raise_open_files()
    with tempfile.TemporaryDirectory(prefix="llmgw-bench-") as room:
        ladder = Ladder(args, Path(room))
        try:
            ladder.run()
        except Void as void:
            print(f"\nVOID, {ladder.at}: {void}", file=sys.stderr)
            return 1
        except rig.NotStarted as silent:
            print(f"\n{silent}", file=sys.stderr)
            return 1
        finally:
            if sys.stderr.isatty():
                sys.stderr.write("\r\x1b[K")
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **describe(),
        "method": METHOD,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "quick": args.quick,
        "rows": ladder.rows,
        "raw": ladder.raw,
    }
    print(table(result))
    print(f"\nwritten to {_write(result, args.output)}")
    return 0


def _arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 1 s; the README is not rendered from it"
    )
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="measured time of one run, default 3")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="rungs, such as P1,P3")
    parser.add_argument(
        "--candidates", type=lambda text: text.split(","), default=["nginx", "gateway", "direct"]
    )
    parser.add_argument("--one-core", action="store_true", help="all on one core, which is then always busy")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the result file")
    args = parser.parse_args(given)
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (1.0 if args.quick else 3.0)
    if "nginx" in args.candidates and rig.nginx_binary() is None:
        print("nginx is not installed: its columns and the ratios are left out", file=sys.stderr)
        args.candidates.remove("nginx")
    return args


def _write(result: dict[str, Any], directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    is_odd = result["quick"] or result["machine"]["core_under_test"] == result["machine"]["core_of_the_rest"]
    partial = is_odd or {row["rung"] for row in result["rows"]} != RUNGS
    name = f"{result['date'][:10]}-{result['commit']}{'-partial' if partial else ''}.json"
    path = directory / name
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _rate_note(cost: Cost, rounds: dict[str, Rounds]) -> str:
    """At which load the figure was taken, for CPU per request depends on it."""
    rates = {
        name: median(_rate(cost, name, measured) for measured in found) for name, found in rounds.items()
    }
    units = "events/s" if cost.is_stream else "/s"
    said = ", ".join(f"{name} {rate:,.0f} {units}" for name, rate in rates.items())
    return f"{cost.concurrency} connections; {said}"


def _rate(cost: Cost, name: str, measured: dict[str, Any]) -> float:
    way = measured["ways"][name]
    return float(way["events"] / measured["measured_s"] if cost.is_stream else way["per_s"])


if __name__ == "__main__":
    sys.exit(main())
