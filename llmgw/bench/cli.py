"""`llmgw bench`: the load generator."""

from __future__ import annotations

import argparse
import json
import resource
import ssl
import sys
from pathlib import Path
from typing import Any

import uvloop

from llmgw.bench.job import Job, Target
from llmgw.bench.load import Result
from llmgw.bench.load import run as run_job
from llmgw.bench.progress import Bar
from llmgw.bench.report import DIRECT, to_json, to_text
from llmgw.mock.fault import FaultError, to_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the gateway's base URL, such as http://127.0.0.1:8080/v1")
    parser.add_argument(
        "--direct", metavar="URL2", help="send each request at random here instead, and compare"
    )
    parser.add_argument("--key", default="sk-demo", help="API key for URL (default sk-demo)")
    parser.add_argument("--direct-key", default="sk-direct", help="API key for URL2")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust for https")
    _add_pace(parser.add_argument_group("pace"))
    shape = "requests (what the answer should be like is asked of llmgw's mock provider)"
    _add_shape(parser.add_argument_group(shape))
    report = parser.add_argument_group("report")
    report.add_argument(
        "--pid",
        action="append",
        default=[],
        metavar="[NAME=]PID",
        help="a process tree: its CPU for each request through URL, and its memory; may be repeated",
    )
    report.add_argument("--json", metavar="FILE", help="write the report here too")


def _add_pace(pace: argparse._ArgumentGroup) -> None:
    pace.add_argument(
        "--rate", type=float, metavar="N", help="open loop: requests a second, from when each was due"
    )
    pace.add_argument(
        "--arrivals", choices=("constant", "poisson"), default="poisson", help="of the open loop"
    )
    pace.add_argument(
        "--concurrency", type=int, metavar="N",
        help="users of the closed loop (default 32), or most connections of the open one (default 1000)",
    )  # fmt: skip
    pace.add_argument(
        "--duration", type=_duration, default=10.0, metavar="TIME", help="measured time (default 10s)"
    )
    pace.add_argument("--warmup", type=_duration, default=1.0, metavar="TIME", help="before it (default 1s)")
    pace.add_argument(
        "--timeout", type=_duration, default=60.0, metavar="TIME", help="for one answer (default 60s)"
    )
    pace.add_argument("--seed", type=int, help="of the arrivals and of the choice between URL and URL2")


def _add_shape(shape: argparse._ArgumentGroup) -> None:
    shape.add_argument(
        "--body-bytes", type=int, default=1100, metavar="N", help="of each request (default 1100)"
    )
    shape.add_argument("--answer-bytes", type=int, metavar="N", help="of each answer's text")
    shape.add_argument("--stream", action="store_true")
    shape.add_argument("--usage", action="store_true", help="ask for usage in streams")
    shape.add_argument(
        "--events", type=int, metavar="N", help="content events in each stream; all must arrive"
    )
    shape.add_argument("--interval", type=_duration, metavar="TIME", help="between the events")


def run(args: argparse.Namespace) -> int:
    """Exit code 0: every answer was right; 1: the run is void; 2: it could not be started."""
    try:
        job = _job(args)
    except (ValueError, OSError) as wrong:
        print(f"llmgw bench: {wrong}", file=sys.stderr)
        return 2
    raise_open_files()
    bar = Bar()
    try:
        result = uvloop.run(run_job(job, bar.tick))
    except ProcessLookupError as wrong:
        print(f"llmgw bench: {wrong}", file=sys.stderr)
        return 2
    finally:
        bar.clear()
    return _report(result, args.json)


def raise_open_files() -> None:
    """As many connections as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _report(result: Result, path: str | None) -> int:
    print(to_text(result))
    if path:
        Path(path).write_text(json.dumps(to_json(result), indent=2) + "\n")
    return 1 if result.is_void or not result.completed else 0


def _job(args: argparse.Namespace) -> Job:
    targets = [Target("gateway", args.url, args.key)]
    if args.direct:
        targets.append(Target(DIRECT, args.direct, args.direct_key))
    is_tls = any(target.is_tls for target in targets)
    if (args.events or args.interval) and not args.stream:
        raise ValueError("--events and --interval belong to --stream")
    if args.rate is not None and args.rate <= 0:
        raise ValueError("--rate must be above 0")
    return Job(
        targets=tuple(targets),
        model=args.model,
        body_bytes=args.body_bytes,
        is_stream=args.stream,
        wants_usage=args.usage,
        wishes=_wishes(args),
        events=args.events,
        concurrency=args.concurrency or (32 if args.rate is None else 1000),
        rate=args.rate,
        arrivals=args.arrivals,
        duration_s=args.duration,
        warmup_s=args.warmup,
        timeout_s=args.timeout,
        pids=dict(_named_pid(text) for text in args.pid),
        seed=args.seed,
        tls=ssl.create_default_context(cafile=args.ca_file) if is_tls else None,
    )


def _wishes(args: argparse.Namespace) -> dict[str, Any]:
    wishes = {"text_bytes": args.answer_bytes, "events": args.events, "interval_s": args.interval}
    return {name: value for name, value in wishes.items() if value is not None}


def _named_pid(text: str) -> tuple[str, int]:
    name, _, pid = text.rpartition("=")
    if not pid.isdigit():
        raise ValueError(f"--pid: not a process id: {text!r}")
    return name or f"pid {pid}", int(pid)


def _duration(text: str) -> float:
    try:
        return to_seconds(text)
    except FaultError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None
