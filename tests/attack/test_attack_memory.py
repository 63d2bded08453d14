"""A slow reader of 200 MB adds less than 1 MiB to its worker, in both lanes, streamed or not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from farend import FarEnd
from gatewayrig import Gateway, default_config, up
from raw import resident_bytes, silent_client
from wireclient import chat, post, post_chunked

MIB = 1 << 20
SIZE = 200_000_000
ASKED = {
    "stream": {"stream": True, "mock": {"events": 20_000, "text_bytes": SIZE}},
    "answer": {"mock": {"text_bytes": SIZE}},
}
LANES = {"fast": post, "general": post_chunked}


@pytest.fixture
def slow_gateway(start_gateway: Callable[..., Gateway], attacked_far: FarEnd) -> Iterator[Gateway]:
    """Patient with slow clients: what is measured is not its deadlines."""
    timeouts = {"first_token": "60s", "idle": "60s", "total": "120s"}
    yield start_gateway(
        default_config(attacked_far.port, providers={"up": up(attacked_far.port, timeouts=timeouts)})
    )


class Peak:
    """The most that a process holds, looked at every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self.bytes = max(self.bytes, resident_bytes(self.pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def read_slowly(client: socket.socket, size: int, rest_every: int) -> None:
    """Takes that many bytes, with a rest of 20 ms every so often."""
    client.settimeout(30.0)
    taken, rested = 0, 0
    while taken < size:
        data = client.recv(1 << 20)
        assert data, "the gateway ended it"
        taken += len(data)
        if taken - rested > rest_every:
            rested = taken
            threading.Event().wait(0.02)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kind", ASKED)
async def test_a_slow_reader_slows_its_provider_and_not_the_heap(
    slow_gateway: Gateway, attacked_far: FarEnd, kind: str, lane: str
) -> None:
    attacked_far.reset()
    (worker,) = slow_gateway.worker_pids()
    port, make = slow_gateway.port, LANES[lane]
    warm = {**ASKED[kind], "mock": {**ASKED[kind]["mock"], "text_bytes": 15_000_000}}
    for _ in range(4):
        with silent_client(port, make(chat(**warm))) as client:
            await asyncio.to_thread(read_slowly, client, 14_000_000, 300_000)
    before = resident_bytes(worker)
    with silent_client(port, make(chat(**ASKED[kind]))) as client, Peak(worker) as peak:
        await asyncio.to_thread(read_slowly, client, 1_000_000, 50_000)
        await asyncio.sleep(1.0)  # it reads nothing at all
        await asyncio.to_thread(read_slowly, client, SIZE - 2_000_000, 8_000_000)
    print(f"{kind} {lane}: {(peak.bytes - before) / MIB:.2f} MiB")
    assert peak.bytes - before < MIB, f"{(peak.bytes - before) / MIB:.2f} MiB"
