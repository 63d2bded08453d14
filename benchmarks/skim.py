"""What the JSON skimmer and the event scanner cost: `python benchmarks/skim.py`.

Best of several runs on one core, the call from Python included; orjson.loads of the same bytes
stands beside it. The figures in docs/wire.md come from here.
"""

from __future__ import annotations

import json
import random
import timeit
from collections.abc import Callable
from typing import Any

import orjson

from llmgw._wire.skim import skim, skim_answer, splice
from llmgw._wire.sse import EventScanner

PROMPT_BYTES = 400_000
REPEATS = 15
RUN_S = 0.01


def best_ns(call: Callable[..., Any], *arguments: Any) -> float:
    """Nanoseconds of one call."""
    timer = timeit.Timer(lambda: call(*arguments))
    number = max(1, int(RUN_S / min(timer.repeat(3, 1))))
    return min(timer.repeat(REPEATS, number)) / number * 1e9


def chat(content: str, dumps: Callable[[Any], bytes] = orjson.dumps, **more: Any) -> bytes:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": content},
    ]
    return dumps({"model": "gpt-4o-mini", "messages": messages, **more})


def prompt(text: str, dumps: Callable[[Any], bytes] = orjson.dumps) -> bytes:
    return chat(text * (PROMPT_BYTES // len(text.encode())), dumps)


def escaped(value: Any) -> bytes:
    return json.dumps(value).encode()


def event(**more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": " hello"}, "logprobs": None, "finish_reason": None}
    data = {
        "id": "chatcmpl-BkGGkkQ2bcdefghij",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "system_fingerprint": "fp_34a54ae93c",
        "choices": [choice],
    }
    return b"data: " + orjson.dumps({**data, **more}) + b"\n\n"


def row(name: str, size: int, ns: float, judge_ns: float | None = None) -> None:
    rate = f"{size / ns:7.2f} GB/s {judge_ns / ns:8.1f}" if judge_ns else ""
    print(f"{name:44} {size:8,} B {ns / 1000:10.2f} us {rate}")


def print_bodies() -> None:
    numbers = random.Random(1)
    bodies = {
        "chat request": chat("x" * 850, temperature=0.7, max_tokens=256, stream=False, user="u-1234"),
        "400 KB, one ASCII string": prompt("x"),
        "400 KB, a newline every 60 bytes": prompt("x" * 59 + "\n"),
        "400 KB, the same with an accent and a quote": prompt("x" * 50 + "é\nyou’re good"),
        "400 KB, Russian lines": prompt("Съешь же ещё этих мягких французских булок\n"),
        "400 KB, Chinese": prompt("你好世界这是一个测试，"),
        "400 KB, Chinese as \\u escapes": prompt("你好世界这是一个测试，", escaped),
        "10,000 short messages": orjson.dumps({"messages": [{"role": "user", "content": "hi"}] * 10_000}),
    }
    print(f"{'skim':44} {'':10} {'':13} {'':12} x orjson")
    for name, body in bodies.items():
        row(name, len(body), best_ns(skim, body), best_ns(orjson.loads, body))
    vector = [numbers.uniform(-1, 1) for _ in range(1536)]
    answers = {
        "chat answer, skim_answer": escaped(
            {"choices": [{"message": {"content": "word " * 130}}], "usage": {}}
        ),
        "embedding of 1,536 numbers, skim_answer": orjson.dumps(
            {"data": [{"embedding": vector}], "usage": {}}
        ),
    }
    for name, body in answers.items():
        row(name, len(body), best_ns(skim_answer, body), best_ns(orjson.loads, body))


def print_splices() -> None:
    for name, body in {"chat request": chat("x" * 850), "400 KB": prompt("x")}.items():
        ns = best_ns(splice, body, skim(body), "other-model", True)
        row(f"splice of model and usage, {name}", len(body), ns)


def print_events() -> None:
    delta = event()
    for name, piece, count in (
        ("event, alone in its chunk", delta, 1),
        ('event with "usage":null to take out', event(usage=None), 1),
        ("event, eight to a chunk", delta * 8, 8),
    ):
        scanner = EventScanner(b"[DONE]", strip_usage=True)
        row(name, len(piece) // count, best_ns(scanner.feed, piece) / count)
    scanner = EventScanner(b"[DONE]", strip_usage=True)
    row("event, in two chunks", len(delta), best_ns(feed_both, scanner, delta[:100], delta[100:]))


def feed_both(scanner: EventScanner, first: bytes, second: bytes) -> None:
    scanner.feed(first)
    scanner.feed(second)


if __name__ == "__main__":
    print_bodies()
    print_splices()
    print_events()
