"""A gateway that is all supervisor: `python toy_gateway.py DIRECTORY [JSON limits]`.

DIRECTORY/gateway.yaml is the configuration. Its workers answer one command a connection, and do at
a reload what the model names of the new configuration tell them. Not a test itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llmgw._core.segment import BEAT_S
from llmgw._wire.call import Call
from llmgw.config import Config, load_file
from llmgw.errors import ConfigError
from llmgw.metrics import Metrics, render
from llmgw.oplog import setup_logging
from llmgw.supervisor import Addresses, Limits, WorkerSlot, run

DIRECTORY = Path(sys.argv[1])
FOREVER_S = 3600.0


class Toy:
    def __init__(self, slot: WorkerSlot, config: Config) -> None:
        self.slot = slot
        self.config = config
        self.metrics = Metrics(slot.segment, slot.index)
        self.reopened = 0
        self.open: set[asyncio.Task[None]] = set()
        self.ending = asyncio.Event()

    # What the supervisor asks for.

    def prepare(self, config: Config) -> Callable[[], None]:
        for order in config.models:
            self.obey(order)

        def commit() -> None:
            if f"break-commit-{self.slot.index}" in config.models:
                raise RuntimeError("told to break")
            self.config = config

        return commit

    def obey(self, order: str) -> None:
        if order == f"refuse-{self.slot.index}":
            raise ConfigError(["told to refuse"])
        if order == f"fault-{self.slot.index}":
            raise RuntimeError("told to fail")
        if order == f"die-{self.slot.index}":
            os._exit(9)
        if order == f"hang-{self.slot.index}":
            time.sleep(FOREVER_S)

    def reopen(self) -> None:
        self.reopened += 1

    # What clients ask for.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        try:
            command, *words = (await reader.readline()).decode().split() or ["nothing"]
            answer = await getattr(self, f"do_{command}")(reader, writer, *words)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.open.discard(task)

    async def do_nothing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client that left."""

    async def do_who(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        accepted = writer.get_extra_info("socket")
        return {
            "pid": os.getpid(),
            "slot": self.slot.index,
            "models": sorted(self.config.models),
            "reopened": self.reopened,
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "nodelay": accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            "inflight": [self.slot.segment.inflight(slot) for slot in range(self.slot.segment.slots)],
            "random": __import__("random").random(),
        }

    async def do_count(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, times: str
    ) -> object:
        call = Call()
        call.tenant_id, call.provider_used, call.status = "acme", "mock", 200
        call.started_s, call.cost_usd_micro, call.input_tokens = time.monotonic(), 7, 3
        for _ in range(int(times)):
            self.metrics.started()
            self.metrics.finished(call, "m", 0.0001)
        return "counted"

    async def do_begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        """A request that never ends."""
        self.metrics.started()
        return os.getpid()

    async def do_metrics(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        return render(self.slot.segment).decode()

    async def do_hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        """Holds the connection until a second line comes."""
        writer.write(b"held\n")
        return (await reader.readline()).decode()

    async def do_spin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        while True:
            pass

    async def do_exit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, code: str) -> object:
        os._exit(int(code))

    async def beat(self) -> None:
        while True:
            self.slot.link.beat()
            await asyncio.sleep(BEAT_S)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        beating = loop.create_task(self.beat())
        server = await asyncio.start_server(self.serve, sock=self.slot.data_socket, backlog=4096)
        self.slot.link.attach(loop, prepare=self.prepare, drain=self.ending.set, reopen=self.reopen)
        self.slot.link.ready()
        await self.ending.wait()
        server.close()
        for _ in range(10):  # what was accepted just now gets its task
            await asyncio.sleep(0)
        while self.open:
            await asyncio.wait(self.open)
        beating.cancel()
        self.slot.link.detach()
        return 0


def worker_main(slot: WorkerSlot, config: Config) -> int:
    orders = DIRECTORY / f"at-start-{slot.index}"
    if orders.exists():
        order = orders.read_text().strip()
        if order == "crash":
            return 7
        if order == "crash-once":
            orders.unlink()
            return 7
        while order == "wait" and orders.exists():
            time.sleep(0.01)
    return asyncio.run(Toy(slot, config).run())


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def load() -> Config:
    return load_file(DIRECTORY / "gateway.yaml", {})


def main() -> int:
    setup_logging("debug")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    limits = Limits(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else Limits()

    def on_ready(addresses: Addresses) -> None:
        say(port=addresses.data[1], admin=addresses.admin[1], host=addresses.data[0])

    return run(load(), reload=load, worker_main=worker_main, on_ready=on_ready, limits=limits)


if __name__ == "__main__":
    sys.exit(main())
