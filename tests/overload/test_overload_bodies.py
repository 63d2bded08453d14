"""Two hundred clients with large bodies: the worker's memory stays below its bound, the surplus is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from farend import FarEnd
from gatewayrig import Gateway, default_config, up, wait_for
from raw import resident_bytes
from wireclient import Wire, chat, exchange, post

MB = 1 << 20
BOUND = 256 * MB
CLIENTS = 200
# Beside bodies: what the allocator rounds up; in the general lane, what is read of each connection at a time, as it
# came, as aiohttp passes it on, and as the allocator keeps it; also of those that were refused and are read to their ends.
AHEAD = CLIENTS * 3 * 65536
SLACK = {"fast": 32 * MB, "general": 32 * MB + AHEAD, "chunked": 32 * MB + AHEAD}
# Bodies of unknown length that grow side by side take each other's room; some come to their end.
SERVED = {"fast": 10, "general": 10, "chunked": 2}
BODY = chat("x" * 8 * MB, mock={"delay_s": 0.5})


def post_split(body: bytes) -> bytes:
    """The general lane's, with its length."""
    return post(body, "/v1/chat/completions", "Expect: 100-continue")


def post_unsaid(body: bytes) -> bytes:
    """The general lane's, without its length."""
    size = 1 << 16
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


LANES = {"fast": post, "general": post_split, "chunked": post_unsaid}


@pytest.fixture
def bounded(start_gateway: Callable[..., Gateway], far: FarEnd) -> Iterator[Gateway]:
    server = {"overload": {"max_memory": "256MB"}, "timeouts": {"body": "30s"}}
    yield start_gateway(default_config(far.port, server=server, providers={"up": up(far.port)}))


async def send_whole(port: int, data: bytes, statuses: Counter[int]) -> None:
    """As a client that reads only when it has sent all, or can send no more."""
    wire = await Wire.open(port)
    try:
        wire.send(data)
        statuses[(await wire.answer(60.0)).status] += 1
    finally:
        wire.close()


@pytest.mark.parametrize("lane", LANES)
async def test_memory_stays_below_its_bound_and_the_surplus_is_refused_unread(
    bounded: Gateway, far: FarEnd, lane: str
) -> None:
    (worker,) = bounded.worker_pids()
    data = LANES[lane](BODY)
    statuses: Counter[int] = Counter()
    peak = 0
    before = resident_bytes(worker)
    tasks = [asyncio.create_task(send_whole(bounded.port, data, statuses)) for _ in range(CLIENTS)]
    while not all(task.done() for task in tasks):
        peak = max(peak, resident_bytes(worker))
        await asyncio.sleep(0.005)
    for task in tasks:
        await task
    print(f"{lane}: {dict(statuses)}, before {before / MB:.0f} MB, peak {peak / MB:.0f} MB")
    assert peak < BOUND + SLACK[lane]
    assert set(statuses) == {200, 503}
    assert statuses[200] >= SERVED[lane]
    assert far.requests == statuses[200]
    metrics = bounded.metrics()
    assert metrics.total("llm_overload_refused_total", reason="memory") == statuses[503]
    await wait_for("nothing is in flight", lambda: bounded.metrics().total("llm_inflight_requests") == 0)
    assert (await exchange(bounded.port, LANES[lane](chat("x" * 8 * MB)))).status == 200
    await wait_for("the memory is given back", lambda: resident_bytes(worker) < BOUND)
