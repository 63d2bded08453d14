"""Callers that are many, sums over windows, and what the ledger of a machine says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from farend import FarEnd
from gatewayrig import CLIENT_KEY, DEADLINE_S, ONCE, Config, Gateway, up
from wireclient import Answer, Wire, chat, post

from llmgw.ledger import Reader
from llmgw.mock import Arrival

CENT_USD_MICRO = 10_000
A_CENT_EACH = {"request": "0.01", "input": "0", "output": "0"}

# The far end reads of a connection that was cut a turn of its loop later than a request on another one, and
# that may take so long where a machine is busy.
HEARD_S = 0.03

TEXT = "0123456789abcdef"  # 4 tokens at the mock, by its rule of four bytes each


def one_tenant(far: FarEnd, tenant: dict[str, Any], **sections: Any) -> Config:
    """The mock as the only provider, `acme` as the only tenant, with one key unless `tenant` has its own."""
    return {
        "providers": {"up": up(far.port)},
        "models": {"mock": ONCE | {"targets": [{"provider": "up"}], "price": A_CENT_EACH}},
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}], **tenant}},
        **sections,
    }


class Caller:
    """One client: a connection that is kept, and opened anew where it ended."""

    def __init__(self, gateway: Gateway, key: str = CLIENT_KEY) -> None:
        self.gateway = gateway
        self.key = key
        self.wire: Wire | None = None

    async def ask(self, body: bytes, *headers: str, deadline_s: float = DEADLINE_S) -> Answer:
        """AssertionError where the connection ended without an answer; that is not sent again."""
        if self.wire is None or self.wire.ended:
            self.close()
            self.wire = await Wire.open(self.gateway.port)
        self.wire.send(post(body, "/v1/chat/completions", *headers, key=self.key))
        try:
            return await self.wire.answer(deadline_s)
        except BaseException:
            self.close()
            raise

    async def try_ask(self, body: bytes, *headers: str) -> Answer | None:
        """None where the gateway died meanwhile."""
        try:
            return await self.ask(body, *headers)
        except (AssertionError, OSError):
            self.close()
            return None

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()
            self.wire = None


async def with_callers(
    gateways: Iterable[Gateway], count: int, act: Callable[[Caller], Awaitable[Any]], key: str = CLIENT_KEY
) -> list[Any]:
    """What `act` returned, of `count` callers in turn over the gateways, all at once."""
    machines = list(gateways)
    callers = [Caller(machines[number % len(machines)], key) for number in range(count)]
    try:
        return await asyncio.gather(*(act(caller) for caller in callers))
    finally:
        for caller in callers:
            caller.close()


def most_in_window(moments: Iterable[tuple[float, int]], window_s: float) -> int:
    """The greatest sum of amounts over any window of this length, its end excluded."""
    inside: deque[tuple[float, int]] = deque()
    most = total = 0
    for at_s, amount in sorted(moments):
        inside.append((at_s, amount))
        total += amount
        while inside[0][0] <= at_s - window_s:
            total -= inside.popleft()[1]
        most = max(most, total)
    return most


def most_at_once(arrivals: Iterable[Arrival]) -> int:
    """How many were open at the far end at the same time, at most."""
    now_s = time.monotonic()
    steps: list[tuple[float, int]] = []
    for arrival in arrivals:
        end_s = arrival.finished_s or now_s
        if arrival.ended == "client_gone":
            end_s = max(end_s - HEARD_S, arrival.started_s)
        steps += [(arrival.started_s, 1), (end_s, -1)]
    most = total = 0
    for _, step in sorted(steps):
        total += step
        most = max(most, total)
    return most


def mock_tokens(arrival: Arrival) -> int:
    """What the mock reported for a `chat(TEXT, mock={"text_bytes": …})`."""
    body = json.loads(arrival.body or b"{}")
    return len(TEXT) // 4 + -(-body["mock"]["text_bytes"] // 4)


def tokens_chat(output_tokens: int, **more: Any) -> bytes:
    """A request that comes to 4 tokens in and so many out."""
    return chat(TEXT, max_tokens=output_tokens, mock={"text_bytes": output_tokens * 4}, **more)


def records(gateway: Gateway) -> list[dict[str, Any]]:
    return list(Reader(str(ledger_of(gateway))))


def ledger_of(gateway: Gateway) -> Path:
    return gateway.directory / "state" / "llmgw" / "ledger"


def usage(gateway: Gateway, *words: str) -> list[dict[str, Any]]:
    """The rows of `llmgw usage`."""
    command = [
        sys.executable,
        "-m",
        "llmgw",
        "usage",
        "--ledger",
        str(ledger_of(gateway)),
        "--format",
        "json",
    ]
    answer = subprocess.run([*command, *words], capture_output=True, check=True, timeout=DEADLINE_S)
    rows: list[dict[str, Any]] = json.loads(answer.stdout)["rows"]
    return rows


def attempts(deadline_s: float) -> Iterator[int]:
    """Turns with a short pause, until the deadline."""
    until_s = time.monotonic() + deadline_s
    number = 0
    while time.monotonic() < until_s:
        yield number
        number += 1
        time.sleep(0.01)
