"""Redis as one question: `exchange` sends calls in one round trip, and answers in time or raises `StoreAway`.

Nothing is sent twice but under its own number, by which the scripts know it: at once where the connection
broke, and when Redis is back by whoever made the call. One that failed may have taken effect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis import exceptions

from llmgw.limits.fleet import Beat, Call, Reply
from llmgw.store import scripts
from llmgw.store.client import Client, close_client

PROBE_DEADLINE_S = 1.0  # may have to connect, with TLS, and to load the scripts; nobody waits for it
TRIES = 3  # within one deadline
LINES = 2  # of calls; each uses a connection
OVERSLEPT_S = 0.01  # a loop that was busy gets so much more, to read what has long arrived

# The first that fits names it; derived classes stand before their bases.
KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.AuthenticationError, "auth"),
    (exceptions.AuthorizationError, "auth"),
    (exceptions.NoPermissionError, "auth"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "auth"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.ReadOnlyError, "read_only"),
    (exceptions.OutOfMemoryError, "out_of_memory"),
    (exceptions.AskError, "moved"),
    (exceptions.ClusterError, "cluster"),
    (exceptions.TryAgainError, "cluster"),
    (exceptions.ClusterCrossSlotError, "cluster"),
    (exceptions.RedisClusterException, "cluster"),
    (exceptions.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection"),
    (OSError, "connection"),
    (exceptions.ResponseError, "refused"),
    (exceptions.RedisError, "other"),
)
OURS = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)


class StoreAway(Exception):
    """Redis does not serve, or not in time. `kind` is one of the words of `KINDS`."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"Redis is away: {kind}")
        self.kind = kind


def kind_of(error: BaseException) -> str:
    return next((kind for cls, kind in KINDS if isinstance(error, cls)), "other")


class Counters:
    """What the worker may show. Whole numbers; amounts are of all units together."""

    def __init__(self) -> None:
        self.commands = 0  # sent
        self.answered = 0  # of them, and not with an error
        self.errors = dict.fromkeys(sorted({kind for _, kind in KINDS}), 0)
        self.scripts_loaded = 0
        self.resent = 0  # exchanges whose connection broke
        self.outages = 0
        self.away_us = 0  # of outages that are over
        self.leased = 0
        self.returned = 0  # leased, and not used in time
        self.stranded = 0  # leased, and never to be returned: nobody knows whether it was
        self.denied = 0
        self.losses = 0  # how often Redis had forgotten
        self.longest_wait_us = 0  # of a request for a lease, since somebody set it to 0

    def results(self) -> dict[str, int]:
        """What became of commands (`ok`) and of exchanges (the other words)."""
        return {"ok": self.answered, "sent_again": self.resent, **self.errors}


class Store:
    """One worker's Redis. `is_away` from a failure on, until a probe is answered in time."""

    def __init__(self, client: Client, prefix: str, deadline_s: float, counters: Counters) -> None:
        self._client = client
        self._prefix = prefix
        self.deadline_s = deadline_s
        self.counters = counters
        self.is_away = False
        self._away_since_s = 0.0
        self._strays: set[asyncio.Task[Any]] = set()

    async def exchange(self, calls: Sequence[Call]) -> list[Reply]:
        """In the order of the calls. StoreAway says nothing of whether they took effect."""
        if self.is_away:
            raise StoreAway("away")
        return await self._in_time(calls, self.deadline_s)

    async def probe(self, machine: str) -> Reply | None:
        """Connects for each line of calls; Redis is back if then an answer comes in time."""
        beat = Beat(machine)
        try:
            await self._in_time([beat], PROBE_DEADLINE_S)
            await asyncio.gather(*(self._in_time([beat], PROBE_DEADLINE_S) for _ in range(LINES)))
            reply = (await self._in_time([beat], self.deadline_s))[0]
        except StoreAway:
            return None
        self._come_back()
        return reply

    async def close(self) -> None:
        for task in self._strays:
            task.cancel()
        await asyncio.gather(*self._strays, return_exceptions=True)
        await close_client(self._client)

    @property
    def away_us(self) -> int:
        """How long it has been away, in all."""
        running_s = time.monotonic() - self._away_since_s if self.is_away else 0.0
        return self.counters.away_us + int(running_s * 1e6)

    async def _in_time(self, calls: Sequence[Call], deadline_s: float) -> list[Reply]:
        task = asyncio.ensure_future(self._send_again(calls))
        self._strays.add(task)
        task.add_done_callback(self._forget)
        started_s = time.monotonic()
        try:
            done, _ = await asyncio.wait((task,), timeout=deadline_s)
            if not done and time.monotonic() - started_s > deadline_s + OVERSLEPT_S:
                await asyncio.wait((task,), timeout=OVERSLEPT_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()  # not waited for: what it has still to close is its own matter
            raise self._failed("timeout")
        try:
            return task.result()
        except OURS as error:
            raise self._failed(kind_of(error)) from None

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._strays.discard(task)
        if not task.cancelled():
            task.exception()

    async def _send_again(self, calls: Sequence[Call]) -> list[Reply]:
        """A connection that broke is no reason to be away: the calls go out again, under their numbers."""
        for _ in range(TRIES - 1):
            try:
                return await self._send(calls)
            except OURS as error:
                if kind_of(error) != "connection":
                    raise
                self.counters.resent += 1
        return await self._send(calls)

    async def _send(self, calls: Sequence[Call]) -> list[Reply]:
        commands = [scripts.command(self._prefix, call) for call in calls]
        replies = await self._pipeline(commands)
        missing = [index for index, reply in enumerate(replies) if is_unknown_script(reply)]
        if missing:
            for (
                script
            ) in scripts.ALL:  # who has forgotten one has forgotten all; one that waits needs them later
                await self._client.script_load(script.text)
                self.counters.scripts_loaded += 1
            again = await self._pipeline([commands[index] for index in missing])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return [scripts.reply_of(call, reply) for call, reply in zip(calls, replies, strict=True)]

    async def _pipeline(self, commands: list[scripts.Command]) -> list[Any]:
        self.counters.commands += len(commands)
        replies = await self._replies(commands)
        self.counters.answered += sum(not isinstance(reply, BaseException) for reply in replies)
        return replies

    async def _replies(self, commands: list[scripts.Command]) -> list[Any]:
        if len(commands) == 1:
            return [await self._single(commands[0])]
        pipeline: Any = self._client.pipeline(transaction=False)
        for script, keys, arguments in commands:
            pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _single(self, command: scripts.Command) -> Any:
        script, keys, arguments = command
        try:
            return await self._client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError as error:
            return error

    def _failed(self, kind: str) -> StoreAway:
        self.counters.errors[kind] += 1
        if not self.is_away:
            self.is_away = True
            self._away_since_s = time.monotonic()
            self.counters.outages += 1
        return StoreAway(kind)

    def _come_back(self) -> None:
        if self.is_away:
            self.counters.away_us = self.away_us
            self.is_away = False


def is_unknown_script(reply: object) -> bool:
    return isinstance(reply, exceptions.NoScriptError)
