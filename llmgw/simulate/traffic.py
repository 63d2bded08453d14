"""What arrives when, from whom, and what it will have come to: known beforehand, as nowhere else."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from operator import attrgetter
from random import Random
from typing import Final

from llmgw.ledger import Record
from llmgw.simulate.mix import Mix, Stream

# Of requests whose time no record and no stream tells: until the first token, and for each of them.
FIRST_TOKEN_S: Final = 0.5
TOKEN_S: Final = 0.02
BYTES_PER_TOKEN: Final = 4.0  # of a ledger's prompts: English in JSON
DRAWS: Final = 1 << 30


@dataclass(slots=True)
class Request:
    """`at_us` counts from the beginning. `draw` chooses a machine, by whatever their number is."""

    at_us: int
    tenant: str
    key: str
    model: str
    endpoint: str
    prompt_tokens: int
    output_tokens: int
    draw: int
    cached_tokens: int = 0
    prompt_bytes: int = 0
    max_tokens: int = -1  # not sent
    duration_us: int = 0
    leaves_us: int = 0  # the caller does not stay longer; 0: it stays
    user: str = ""
    tags: tuple[str, ...] = ()
    max_wait: bytes | None = None
    priority: bytes | None = None

    def used(self) -> tuple[int, int]:
        """(prompt, output) tokens that are billed: an answer ends where its caller leaves."""
        if not 0 < self.leaves_us < self.duration_us:
            return self.prompt_tokens, self.output_tokens
        return self.prompt_tokens, self.output_tokens * self.leaves_us // self.duration_us


def duration_us(output_tokens: int) -> int:
    return round((FIRST_TOKEN_S + TOKEN_S * output_tokens) * 1e6)


# -- streams


def of_mix(mix: Mix, length_s: float, seed: int) -> Iterator[Request]:
    """In the order of arrival. A stream's requests do not depend on which others there are."""
    streams = [
        _of_stream(stream, length_s, Random(f"{seed}/{index}")) for index, stream in enumerate(mix.streams)
    ]
    return heapq.merge(*streams, key=attrgetter("at_us"))


def _of_stream(stream: Stream, length_s: float, random: Random) -> Iterator[Request]:
    tenant, _, key = stream.key.partition("/")
    for at_s in _arrivals(stream, min(stream.until_s, length_s), random):
        prompt = stream.prompt_tokens.draw(random)
        output = stream.output_tokens.draw(random)
        if stream.max_tokens is not None:
            output = min(output, stream.max_tokens)
        lasts_us = (
            duration_us(output) if stream.duration is None else round(stream.duration.value(random) * 1e6)
        )
        leaves = random.random() < stream.cancel
        yield Request(
            round(at_s * 1e6),
            tenant,
            key,
            stream.model,
            stream.endpoint,
            prompt,
            output,
            random.randrange(DRAWS),
            prompt_bytes=round(prompt * stream.bytes_per_token),
            max_tokens=-1 if stream.max_tokens is None else stream.max_tokens,
            duration_us=lasts_us,
            leaves_us=max(round(lasts_us * random.random()), 1) if leaves else 0,
            user=f"user-{random.randrange(stream.users)}" if stream.users else "",
            tags=stream.tags,
            max_wait=None if stream.max_wait_s is None else f"{stream.max_wait_s:.6f}s".encode(),
            priority=None if stream.priority is None else stream.priority.encode(),
        )


def _arrivals(stream: Stream, until_s: float, random: Random) -> Iterator[float]:
    if stream.arrivals == "poisson":
        at_s = stream.from_s + random.expovariate(stream.rate)
        while at_s < until_s:
            yield at_s
            at_s += random.expovariate(stream.rate)
        return
    size = round(stream.rate * stream.every_s) if stream.arrivals == "bursts" else 1
    gap_s = stream.every_s if stream.arrivals == "bursts" else 1 / stream.rate
    for turn in count():
        at_s = stream.from_s + turn * gap_s
        if at_s >= until_s:
            return
        for _ in range(size):
            yield at_s


# -- a ledger


def of_ledger(records: Iterable[Record], seed: int) -> tuple[list[Request], int]:
    """In the order of arrival, and the moment of the first one in microseconds.

    One request for each that somebody paid for. Of what was refused a ledger knows nothing.
    """
    found = sorted(
        (record for record in records if record["charged"]),
        key=lambda record: (record["ts"], record["attempt_id"]),
    )
    if not found:
        return [], 0
    random = Random(f"{seed}/ledger")
    start_us = moment_us(found[0]["ts"])
    return [_of_record(record, start_us, random) for record in found], start_us


def _of_record(record: Record, start_us: int, random: Random) -> Request:
    output_tokens = record["output_tokens"]
    return Request(
        moment_us(record["ts"]) - start_us,
        record["tenant_id"],
        record["key_name"],
        record["model_requested"],
        record.get("endpoint", "/v1/chat/completions"),
        record["input_tokens"],
        output_tokens,
        random.randrange(DRAWS),
        cached_tokens=record["cached_tokens"],
        prompt_bytes=math.ceil(record["input_tokens"] * BYTES_PER_TOKEN),
        duration_us=duration_us(output_tokens),
        user=record["user"] or "",
        tags=tuple(record["tags"]),
    )


def moment_us(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1e3) * 1000
