"""The mock provider as an object: what it serves, what it saw, and how it is started."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import aiofastnet
import orjson

from llmgw.mock.answer import Answer, Refusal, refusal_answer
from llmgw.mock.control import control
from llmgw.mock.fault import PLAIN, Fault, FaultError, is_immediate, lay_over, parse_fault
from llmgw.mock.files import Files
from llmgw.mock.protocol import Connection
from llmgw.mock.request import Request
from llmgw.mock.routes import Handler, Routes, check_credentials
from llmgw.mock.seen import Arrival, Seen

_CACHED = 1024  # bytes of a "mock" member up to which its meaning is remembered
_BACKLOG = 4096  # thousands of streams are opened at once


@dataclass(frozen=True)
class Options:
    """How a mock behaves unless a request or the script says otherwise."""

    fault: Fault = PLAIN
    keys: frozenset[str] = frozenset()  # credentials that are accepted; none set = any
    models: tuple[str, ...] = ("mock",)
    keep: int = 10_000  # arrivals remembered; 0 = only counted
    keep_body_bytes: int = 64 * 1024  # larger bodies are remembered by size and digest
    max_body_bytes: int = 256 * 1024 * 1024
    max_files_bytes: int = 256 * 1024 * 1024


@dataclass
class Step:
    """A scripted fault: for the next `times` requests whose path and body contain the texts."""

    fault: Fault
    times: int = 1
    path: str = ""
    contains: bytes = b""

    @classmethod
    def parse(cls, members: dict[str, Any]) -> Step:
        rest = dict(members)
        times, path, contains = rest.pop("times", 1), rest.pop("path", ""), rest.pop("contains", "")
        if not isinstance(times, int) or times < 1:
            raise FaultError(f"times: expected a positive number, found {times!r}")
        return cls(parse_fault(rest), times, str(path), str(contains).encode())


@dataclass(eq=False)
class Mock:
    """A running mock provider. `seen` tells what arrived; `script` decides what comes next."""

    options: Options
    seen: Seen = field(init=False)
    in_flight: int = field(init=False, default=0)  # requests begun and not ended

    def __post_init__(self) -> None:
        self.seen = Seen(self.options.keep)
        self._files = Files(self.options.max_files_bytes)
        self._routes = Routes(self.options.models, self._files)
        self._steps: list[Step] = []
        self._connections: set[Connection] = set()
        self._watchers: list[tuple[Callable[[Mock], bool], asyncio.Future[None]]] = []
        self._is_immediate = is_immediate(self.options.fault)
        self._server: asyncio.Server | None = None
        self._is_closed = False

    # --- for whoever drives it

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def script(self, *steps: dict[str, Any]) -> None:
        """Appends steps; the first one that matches a request is used for it, and then gone."""
        self._steps.extend([Step.parse(step) for step in steps])

    def reset(self) -> None:
        """Forgets the script, the files and what was seen; open connections stay."""
        self._steps.clear()
        self._files.clear()
        self.seen.clear()

    async def wait(self, condition: Callable[[Mock], bool], timeout_s: float = 5.0) -> None:
        """Returns when the condition holds, looked at whenever a request or connection comes or ends."""
        if condition(self):
            return
        watcher = (condition, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(timeout_s):
                await watcher[1]
        finally:
            self._watchers.remove(watcher)

    async def close(self) -> None:
        """Stops listening and drops every connection."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await self.wait(lambda mock: not mock._connections)

    # --- for its connections

    def connected(self, connection: Connection) -> int:
        self._connections.add(connection)
        self.seen.connections += 1
        if self._is_closed:  # it was being accepted while we closed
            connection.transport.abort()
        self._changed()
        return self.seen.connections

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed()

    def arrived(self, arrival: Arrival) -> None:
        self.in_flight += 1
        if not arrival.path.startswith("/mock/"):
            self.seen.add(arrival)
        if self._watchers:
            self._changed()

    def finished(self, arrival: Arrival, ended: str) -> None:
        self.in_flight -= 1
        if not arrival.path.startswith("/mock/"):
            self.seen.finish(arrival, ended, time.monotonic())
        if self._watchers:
            self._changed()

    @property
    def has_early(self) -> bool:
        """Cheap where there is no script, for it is asked for every request."""
        return self.options.fault.early or (
            bool(self._steps) and any(step.fault.early for step in self._steps)
        )

    def take_early(self, arrival: Arrival) -> Fault | None:
        """The fault that answers this request before its body is read, if there is one."""
        for step in self._steps:
            if step.fault.early and step.path in arrival.path:
                return lay_over(self.options.fault, self._use(step))
        return self.options.fault if self.options.fault.early else None

    def is_immediate(self, fault: Fault) -> bool:
        return self._is_immediate if fault is self.options.fault else is_immediate(fault)

    def answer(self, arrival: Arrival, body: bytes, early: Fault | None) -> tuple[Answer, Fault, str]:
        """The answer, the fault to send it with, and the dialect of the route."""
        if arrival.path.startswith("/mock/"):
            return control(self, arrival, body), PLAIN, "openai"
        request = Request(arrival, body)
        dialect = "openai"
        fault = early or self._scripted(arrival, body)
        try:
            route, request.params = self._routes.find(arrival.method, arrival.path)
            dialect = route.dialect
            self._authenticate(arrival, dialect)
            fault = _asked_for(request, fault)
            if fault.status >= 400:
                raise Refusal(
                    fault.status, fault.message or f"Fault {fault.status}.", code=fault.code or None
                )
            answer = _shaped(route.handler, request, fault)
            answer.status = fault.status or answer.status
        except Refusal as refusal:
            answer = refusal_answer(dialect, refusal)
        if fault.body is not None:
            answer = Answer(fault.body.encode(), status=answer.status)
        return answer, fault, dialect

    def _scripted(self, arrival: Arrival, body: bytes) -> Fault:
        for step in self._steps:
            if not step.fault.early and step.path in arrival.path and step.contains in body:
                return lay_over(self.options.fault, self._use(step))
        return self.options.fault

    def _use(self, step: Step) -> Fault:
        step.times -= 1
        if not step.times:
            self._steps.remove(step)
        return step.fault

    def _authenticate(self, arrival: Arrival, dialect: str) -> None:
        try:
            check_credentials(arrival, dialect, self.options.keys)
        except Refusal:
            self.seen.unauthorized += 1
            raise

    def _changed(self) -> None:
        for condition, woken in self._watchers:
            if not woken.done() and condition(self):
                woken.set_result(None)


def _shaped(handler: Handler, request: Request, fault: Fault) -> Answer:
    """The shapes trust a body to be as documented; one that is not is a 400, as at a provider."""
    try:
        return handler(request, fault)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as wrong:
        raise Refusal(400, f"The request body cannot be understood: {wrong}") from None


def _asked_for(request: Request, fault: Fault) -> Fault:
    """The fault with what the body's own "mock" member asks for laid over it."""
    if b'"mock"' not in request.body or not request.content_type.startswith("application/json"):
        return fault
    members = request.json.get("mock")
    if not isinstance(members, dict):
        return fault
    if "early" in members:
        raise Refusal(400, "early: this body has been read already", code="bad_fault", param="mock")
    spelling = orjson.dumps(members)
    try:
        return (_overlaid if len(spelling) < _CACHED else _overlay)(spelling, fault)
    except FaultError as wrong:
        raise Refusal(400, str(wrong), code="bad_fault", param="mock") from None


def _overlay(spelling: bytes, below: Fault) -> Fault:
    return lay_over(below, parse_fault(orjson.loads(spelling)))


_overlaid = lru_cache(maxsize=64)(_overlay)  # load runs ask for the same in every request


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    options: Options | None = None,
    ssl: tls.SSLContext | None = None,
    sock: socket.socket | None = None,
) -> Mock:
    """A mock that listens; port 0 takes a free one, `sock` a socket that is bound already."""
    mock = Mock(options or Options())
    where: dict[str, Any] = {"sock": sock} if sock is not None else {"host": host, "port": port}
    loop = asyncio.get_running_loop()
    mock._server = await aiofastnet.create_server(
        loop, lambda: Connection(mock), ssl=ssl, backlog=_BACKLOG, **where
    )
    return mock
