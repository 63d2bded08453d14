"""A worker's end: what it got from the supervisor, and how it speaks with it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmgw._core.segment import Segment
from llmgw.errors import ConfigError
from llmgw.supervisor.channel import Channel, Kind, Message

if TYPE_CHECKING:
    import asyncio

    from llmgw.config import Config

logger = logging.getLogger(__name__)

Commit = Callable[[], None]
Prepare = Callable[["Config"], Commit]


@dataclass(frozen=True)
class WorkerSlot:
    """What a worker is born with. It listens on both sockets; only it writes its slot of the segment."""

    index: int
    data_socket: socket.socket
    admin_socket: socket.socket
    segment: Segment
    link: WorkerLink
    machine_id: str = ""  # in the fleet; of this run
    wake_fds: tuple[int, ...] = ()  # an eventfd for each slot: what is released there may be waited for here


class WorkerLink:
    """The worker's word to the supervisor, and the supervisor's to the worker.

    A worker calls `attach` once its loop exists, `ready` once it serves, and `beat` every 50 ms
    (`segment.BEAT_S`) from the loop, so that a loop that stands still is noticed.
    """

    def __init__(self, channel: Channel, segment: Segment, slot: int) -> None:
        self._channel = channel
        self._segment = segment
        self._slot = slot
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prepared: tuple[int, Commit] | None = None
        self._is_draining = False

    def fileno(self) -> int:
        return self._channel.fileno()

    def beat(self) -> None:
        self._segment.beat(self._slot)

    def ready(self) -> None:
        """Says that this worker serves. After `attach`."""
        self._send(Kind.READY)

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        prepare: Prepare,
        drain: Callable[[], None],
        reopen: Callable[[], None],
    ) -> None:
        """Has the loop serve the supervisor's messages from now on.

        `prepare` builds what a new configuration needs and returns what puts it in force, or
        raises ConfigError; it may be called, and its Commit never. `drain` begins the end: no new
        connections, then the worker's main function returns. It is called once, for the
        supervisor's word, for SIGTERM, or if the supervisor is gone. `reopen` is for rotated logs.
        """
        self._loop, self._prepare, self._drain, self._reopen = loop, prepare, drain, reopen
        loop.add_reader(self._channel.fileno(), self._on_readable)
        loop.add_signal_handler(signal.SIGTERM, self._drain_once)

    def detach(self) -> None:
        """For a loop that is about to be closed."""
        if self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._loop = None

    def _on_readable(self) -> None:
        for message in self._channel.receive():
            self._on_message(message)
        if not self._channel.is_open:
            if self._loop is not None:
                self._loop.remove_reader(self._channel.fileno())
            self._drain_once()

    def _on_message(self, message: Message) -> None:
        match message:
            case Message(Kind.PREPARE, (int(generation), config)):
                self._on_prepare(generation, cast("Config", config))
            case Message(Kind.COMMIT, int(generation)):
                self._on_commit(generation)
            case Message(Kind.ABORT):
                self._prepared = None
            case Message(Kind.DRAIN):
                self._drain_once()
            case Message(Kind.REOPEN):
                self._reopen()

    def _on_prepare(self, generation: int, config: Config) -> None:
        try:
            self._prepared = (generation, self._prepare(config))
        except ConfigError as error:
            self._send(Kind.REFUSED, (generation, error.problems))
        except Exception as error:  # any fault here is a refusal: the old configuration goes on
            logger.exception("a new configuration could not be prepared")
            self._send(Kind.REFUSED, (generation, [f"{type(error).__name__} while preparing it"]))
        else:
            self._send(Kind.PREPARED, generation)

    def _on_commit(self, generation: int) -> None:
        """A worker that cannot follow the others gives its place to one that starts with the new one."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared[0] != generation:
            logger.error("this worker did not prepare the configuration in force; it ends")
            self._drain_once()
            return
        try:
            prepared[1]()
        except Exception:  # half a change-over must not go on serving
            logger.exception("a prepared configuration could not be put in force; this worker ends")
            self._drain_once()

    def _drain_once(self) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._drain()

    def _send(self, kind: Kind, body: object = None) -> None:
        self._channel.send(kind, body)
        if self._channel.wants_write and self._loop is not None:
            self._loop.add_writer(self._channel.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self._channel.flush()
        if not self._channel.wants_write and self._loop is not None:
            self._loop.remove_writer(self._channel.fileno())
