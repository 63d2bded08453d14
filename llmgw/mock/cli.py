"""`llmgw mock`: the mock provider as a server of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import ssl
import sys
from dataclasses import MISSING, fields
from typing import Any

import uvloop

from llmgw.mock.fault import GARBAGE, LENGTHS, SSE_STYLES, Fault, FaultError, parse_fault
from llmgw.mock.server import Options, start

_HELP = {
    "status": "answer with this status, from 400 on with an error body",
    "message": "the error's message",
    "code": "the error's code",
    "retry_after": "Retry-After header, seconds or a date",
    "retry_after_ms": "retry-after-ms header",
    "headers": "NAME=VALUE, a header to add; may be repeated",
    "headers_bytes": "add headers of this size",
    "duplicate_length": "send Content-Length twice: " + " | ".join(LENGTHS[1:]),
    "connection_close": "close after each answer",
    "hang_up": "end the connection after each answer without having said so",
    "interim": "1xx statuses to answer with first, with commas",
    "content_type": "the answer's content type",
    "early": "answer before the body is read",
    "delay_s": "wait before the head",
    "first_token_s": "wait between the head and the first byte of the body",
    "interval_s": "wait between the events of a stream",
    "drip_bytes": "send the body in pieces of this size",
    "drip_s": "wait between the pieces",
    "split_bytes": "cut every write to this size",
    "split_at": "body offsets at which a new write begins, with commas",
    "stall": "be silent for ever from this point on",
    "reset": "reset the connection at this point",
    "close": "close the connection at this point, the body incomplete",
    "body": "the answer's body, streams too, as it is",
    "text": "the answer's text",
    "text_bytes": "the size of the answer's text",
    "events": "content events in a stream",
    "cached_tokens": "cached prompt tokens to report",
    "no_usage": "report no usage",
    "no_done": "end streams cleanly but without their terminal event",
    "error_event": "after this many events send an error event and end",
    "garbage": "send what is not valid: " + " | ".join(GARBAGE[1:]),
    "sse": "spelling of streams, with commas: " + " ".join(SSE_STYLES),
}
_POINT = "before-head|after-head|events:K|bytes:K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0 takes a free one (default 8081)")
    parser.add_argument("--tls-cert", metavar="FILE", help="serve TLS with this certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--key", action="append", default=[], help="accept this API key; none given = any")
    parser.add_argument("--model", action="append", default=[], help="a name for /v1/models (default: mock)")
    parser.add_argument(
        "--keep", type=int, default=10_000, metavar="N", help="arrivals remembered for /mock/seen"
    )
    group = parser.add_argument_group("faults and pace of every answer", "a point is " + _POINT)
    for name, kind in _kinds().items():
        flag = "--" + name.replace("_", "-").removesuffix("-s")
        group.add_argument(flag, dest=f"fault_{name}", help=_HELP[name], **kind)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM. Exit code 1: it cannot listen; 2: the arguments contradict."""
    try:
        options = _options(args)
        context = _tls(args)
    except (FaultError, OSError, ValueError) as wrong:
        print(f"llmgw mock: {wrong}", file=sys.stderr)
        return 2
    _raise_open_files()
    try:
        uvloop.run(_serve(args.host, args.port, options, context))
    except OSError as error:
        # Where a host is not found, the number is the resolver's own, below 0.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        print(f"llmgw mock: {args.host}:{args.port}: {why}", file=sys.stderr)
        return 1
    return 0


async def _serve(host: str, port: int, options: Options, context: ssl.SSLContext | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    mock = await start(host, port, options, context)
    scheme = "https" if context else "http"
    print(f"mock provider on {scheme}://{host}:{mock.port}/v1", flush=True)
    await stopped.wait()
    await mock.close()


def _options(args: argparse.Namespace) -> Options:
    wishes = {name: getattr(args, f"fault_{name}") for name in _kinds()}
    members = {name: value for name, value in wishes.items() if value is not None and value is not False}
    if "headers" in members:
        members["headers"] = dict(pair.partition("=")[::2] for pair in members["headers"])
    for name in members.keys() & {"split_at", "interim"}:
        members[name] = [int(number) for number in members[name].split(",")]
    if "sse" in members:
        members["sse"] = members["sse"].split(",")
    return Options(
        fault=parse_fault(members),
        keys=frozenset(args.key),
        models=tuple(args.model) or ("mock",),
        keep=args.keep,
    )


def _kinds() -> dict[str, dict[str, Any]]:
    """How each field of `Fault` is written on the command line."""
    return {field.name: _kind(field.name, field.default) for field in fields(Fault)}


def _kind(name: str, default: Any) -> dict[str, Any]:
    assert default is not MISSING
    if name == "headers":
        return {"action": "append", "metavar": "NAME=VALUE"}
    if isinstance(default, bool):
        return {"action": "store_true"}
    if isinstance(default, float):
        return {"metavar": "DURATION"}
    if isinstance(default, int) or name == "error_event":
        return {"type": int, "metavar": "N"}
    return {"metavar": "POINT" if name in ("stall", "reset", "close") else "TEXT"}


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.tls_cert, args.tls_key)
    return context


def _raise_open_files() -> None:
    """Thousands of streams need thousands of descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
