"""One worker process: a loop, its listeners, and a gateway that a reload replaces."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from time import monotonic
from typing import Any

import uvloop

from llmgw._core.ask import Books
from llmgw._core.estimate import Estimator
from llmgw._core.health import Board, Health
from llmgw._core.limiter import Limiter
from llmgw._core.recent import Recent
from llmgw._wire.call import Call
from llmgw._wire.deadline import TICK_SECONDS, Wheel
from llmgw._wire.lane import Edge
from llmgw._wire.outlet import Outlet
from llmgw.admission import Resources, tag_of
from llmgw.checkup import Checkup
from llmgw.config import Config, parse_redis_url
from llmgw.dialects import INFERENCE
from llmgw.errors import ConfigError
from llmgw.failpoints import failpoint
from llmgw.gateway import Gateway
from llmgw.ledger import LedgerFile
from llmgw.limits.queue import Queue
from llmgw.log import RequestLog
from llmgw.metrics import Metrics
from llmgw.mock import server as mock
from llmgw.overload import Overload, Resident, memory_bound, trim
from llmgw.server.admin import Admin
from llmgw.server.failures import fail
from llmgw.server.general import General, Narrow
from llmgw.store.adapter import Counters, Store
from llmgw.store.client import make_client
from llmgw.store.leases import Leases
from llmgw.supervisor import WorkerSlot
from llmgw.upkeep import Upkeep
from llmgw.waiting import WaitingRoom

logger = logging.getLogger("llmgw")

# How long connections that rest may still bring a request after the drain began; each gets its answer
# and is closed by it. Longer than a client needs to use a connection that it just took from its pool.
GRACE_S = 1.0
POLL_S = 0.02
BACKLOG = 4096
# malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 32 << 20  # the largest that glibc takes


def main(slot: WorkerSlot, config: Config) -> int:
    """The supervisor's `worker_main`."""
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Worker(slot, config).run())
    return 0


def keep_freed_memory() -> None:
    """Has glibc keep what was freed for the next request, up to KEPT_BYTES.

    By default it gives every large block back to the kernel at once, and the page faults of taking it
    anew cost a quarter of a request with a 400 KB prompt.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


class Worker:
    def __init__(self, slot: WorkerSlot, config: Config) -> None:
        self.slot = slot
        self.config = config
        self.wheel = Wheel()
        self.metrics = Metrics(slot.segment, slot.index)
        self.recent = Recent(slot.segment, slot.index)
        self.log = self.new_log(config)
        self.mock_socket: socket.socket | None = None
        self.mock_task: asyncio.Task[mock.Mock] | None = None
        self.store: Store | None = None
        self.draining = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.offer_mock(self.config)
        self.resources = self.new_resources(self.config)
        self.gateway = self.new_gateway(self.config)
        self.gateway.admission.take_over()
        self.upkeep = Upkeep(self.gateway.admission, self.resources.limiter, self.metrics, self.store)
        self.checkup = self.new_checkup()
        self.overload = self.new_overload(self.config)
        self.edge = self.new_edge()
        self.general = General(self.gateway, self.edge.next_id, self.config.server, self.overload)
        self.admin = Admin(
            self.config,
            self.slot.segment,
            lambda: not self.draining.is_set(),
            self.upkeep.budgets_left,
            self.upkeep.limits_used,
            self.targets,
            lambda: self.gateway,
        )
        self.slot.link.attach(loop, prepare=self.prepare, drain=self.draining.set, reopen=self.reopen_log)
        await self.meet_redis()
        self.bound_unread()
        listener = await loop.create_server(self.edge, sock=self.slot.data_socket.dup(), backlog=BACKLOG)
        await self.admin.start(self.slot.admin_socket.dup())
        freeze_garbage()
        self.tick()
        self.slot.link.ready()
        await self.draining.wait()
        await self.drain(listener)
        await self.close()

    def tick(self) -> None:
        """The worker's pulse: deadlines, and the sign of life that the supervisor looks for."""
        self.timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.tick)
        self.slot.link.beat()
        self.wheel.turn()
        self.overload.look(monotonic())

    async def meet_redis(self) -> None:
        """Before anybody is served, so that no request waits for connections and scripts."""
        leases = self.resources.leases
        if leases is not None and not await leases.begin():
            logger.warning("Redis does not answer: budgets are closed, other limits are this machine's alone")

    # -- a configuration

    def new_gateway(self, config: Config) -> Gateway:
        return Gateway(
            self.with_mock(config), self.wheel, self.metrics, self.write_log, self.resources, self.recent
        )

    def new_resources(self, config: Config) -> Resources:
        """What is one worker's for life, whatever its configuration."""
        slot, segment = self.slot, self.slot.segment
        limiter = Limiter(segment, slot.index)
        queue = Queue(config.queue.max_waiting)
        waiting = WaitingRoom(queue, limiter, self.metrics, slot.wake_fds)
        if unwritten := segment.unwritten(slot.index):  # of the slot's worker before, which was killed
            self.metrics.ledger_lost(unwritten)
            segment.note_unwritten(slot.index, 0)
        ledger = LedgerFile(
            config.ledger.path,
            slot.index,
            max_file_bytes=config.ledger.max_file_bytes,
            sync_s=config.ledger.sync_s,
            on_error=self.metrics.ledger_lost,
            on_backlog=partial(segment.note_unwritten, slot.index),
        )
        leases = None
        if config.redis is not None:
            redis = config.redis
            client = make_client(parse_redis_url(redis.url), redis.deadline_s)
            self.store = Store(client, redis.prefix, redis.deadline_s, Counters())
            leases = Leases(
                limiter,
                self.store,
                slot.machine_id,
                slot.index,
                tag_of,
                grace_s=redis.grace_s,
                is_keeper=slot.index == 0,
            )
            leases.on_news = waiting.on_release
        books = Books(limiter, ledger.append, self.metrics.attempt, failpoint)
        board = Board(segment, slot.index)
        return Resources(limiter, Estimator(segment), waiting, ledger, books, leases, board)

    def new_checkup(self) -> Checkup:
        """Of one machine, one worker asks; whoever takes its slot over goes on."""
        upstreams = self.gateway.upstreams.values() if self.slot.index == 0 else ()
        return Checkup(upstreams, self.gateway.catalog.healths, self.resources.board, self.metrics)

    def new_overload(self, config: Config) -> Overload:
        settings = config.server.overload
        bound_bytes = memory_bound(settings, config.server.workers)
        return Overload(settings, bound_bytes, self.metrics.overloaded, Resident(), trim)

    def new_edge(self) -> Edge:
        edge = Edge(
            self.serve,
            fail,
            self.identify,
            self.general_protocol,
            INFERENCE,
            self.wheel,
            self.overload.gate,
            self.overload.refusal,
        )
        edge.configure(self.config.server)
        edge.keeps_head = self.gateway.catalog.looks_at_heads
        return edge

    # What the lanes hold on to for life asks for the gateway of now.

    def serve(self, call: Call, out: Outlet) -> Coroutine[Any, Any, None]:
        return self.gateway.serve(call, out)

    def identify(self, call: Call) -> None:
        self.gateway.identify(call)

    def general_protocol(self) -> Narrow:
        return self.general.protocol()

    def targets(self) -> Iterator[tuple[str, str, Health]]:
        return self.gateway.catalog.healths.known()

    def prepare(self, config: Config) -> Callable[[], None]:
        """A reload's first half: everything that can fail. What it returns cannot, and swaps."""
        self.offer_mock(config)
        try:
            gateway = self.new_gateway(config)
            check_writable(config.log.path)
        except OSError as error:
            raise ConfigError([f"{error.filename}: {error.strerror}"]) from None

        def commit() -> None:
            self.checkup.close()
            self.gateway.retire()
            if config.log.path != self.config.log.path:
                self.log.close()
                self.log = self.new_log(config)
            self.config, self.gateway = config, gateway
            gateway.admission.take_over()
            self.checkup = self.new_checkup()
            self.upkeep.configure(gateway.admission)
            logging.getLogger().setLevel(config.log.level.upper())
            self.bound_unread()
            self.edge.configure(config.server)
            overload = config.server.overload
            self.overload.configure(overload, memory_bound(overload, config.server.workers))
            self.edge.keeps_head = gateway.catalog.looks_at_heads
            self.general.configure(gateway, config.server)
            self.admin.config = config

        return commit

    def new_log(self, config: Config) -> RequestLog:
        return RequestLog(config.log.path, self.metrics.dropped_lines)

    def bound_unread(self) -> None:
        """The kernel gives a connection up whose peer takes nothing for `timeouts.send`: also one that we
        closed, whose last bytes only it still holds. Accepted sockets inherit this."""
        if sys.platform == "linux":
            limit_ms = int(self.config.server.timeouts.send * 1000)
            self.slot.data_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

    def reopen_log(self) -> None:
        self.log.reopen()

    def write_log(self, line: bytes) -> None:
        self.log.write(line)

    def offer_mock(self, config: Config) -> None:
        """The mock provider without an address is served here, on a port of chance."""
        if self.mock_socket is not None or all(provider.base_url for provider in config.providers.values()):
            return
        self.mock_socket = socket.create_server(("127.0.0.1", 0))
        self.mock_task = asyncio.get_running_loop().create_task(mock.start(sock=self.mock_socket))

    def with_mock(self, config: Config) -> Config:
        if self.mock_socket is None:
            return config
        url = f"http://127.0.0.1:{self.mock_socket.getsockname()[1]}/v1"
        providers = {
            name: provider if provider.base_url else provider.model_copy(update={"base_url": url})
            for name, provider in config.providers.items()
        }
        return config.model_copy(update={"providers": providers})

    # -- the end

    async def drain(self, listener: asyncio.Server) -> None:
        """No connection that reached us is refused, no request that was sent is lost."""
        self.checkup.close()
        self.edge.is_draining = self.general.is_draining = True
        listener.close()
        await self.accept_queued()
        began_s = monotonic()
        while self.has_connections() and monotonic() < began_s + self.config.server.drain:
            if monotonic() > began_s + GRACE_S:
                self.edge.close_resting()
                self.general.close_resting()
            await asyncio.sleep(POLL_S)

    async def accept_queued(self) -> None:
        """What the kernel accepted for us before the listener closed."""
        loop = asyncio.get_running_loop()
        self.slot.data_socket.setblocking(False)
        while True:
            try:
                client, _ = self.slot.data_socket.accept()
            except BlockingIOError:
                break
            except OSError:  # this client left meanwhile
                continue
            await loop.connect_accepted_socket(self.edge, client)
        self.slot.data_socket.close()

    def has_connections(self) -> bool:
        return bool(self.edge.lanes) or self.general.has_connections()

    async def close(self) -> None:
        self.timer.cancel()
        self.edge.close_all()
        await self.general.close()
        await self.admin.close()
        await self.upkeep.close()
        await self.gateway.close()
        await self.resources.close()
        self.slot.link.detach()
        if self.mock_task is not None:
            await (await self.mock_task).close()
        self.log.close()


def check_writable(path: str) -> None:
    """Raises OSError where the request log could not be written."""
    if path == "-":
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        os.close(os.open(path, flags, 0o640))
    except OSError as error:
        if error.errno != errno.ENXIO:  # a named pipe whose reader comes later
            raise


def freeze_garbage() -> None:
    """What was made while starting stays for life: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
