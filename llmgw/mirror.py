"""A copy of a share of a model's requests goes to another target; its answers are compared and dropped.

The client's request never waits for its copy: that sets out a turn of the loop later, holds the limits
of its own target alone, and is dropped and counted where there is no room for it. It is no attempt of the
request's: other headers, no other log line. But a provider may bill it, so each has a record in the ledger,
which nobody pays, with outcomes of its own (`mirror_ok`, `mirror_broken` …).

Routes that make something (files, jobs) are not copied, nor are uploads.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Final

from llmgw._core.ask import Ask, Attempt, Books, Permit, Way
from llmgw._core.health import FAILED, GO, IGNORED, OK, Board
from llmgw._core.limiter import Hold, Limiter
from llmgw._wire.call import Call
from llmgw._wire.outlet import Outlet
from llmgw._wire.serving import Serving
from llmgw._wire.skim import Skim
from llmgw._wire.upstream import Connection
from llmgw.admission import Admission, Resources
from llmgw.dialects import OTHER, Usage
from llmgw.errors import GatewayError, UpstreamBroken, UpstreamError
from llmgw.failover import is_blameless, is_throttle, rest_key
from llmgw.metrics import Metrics
from llmgw.routing.causes import class_number
from llmgw.upstream import Reply
from llmgw.upstream.reply import judge_end, unanswered_usage

logger = logging.getLogger("llmgw")

# Of one worker, under way at a time.
COPIES_MAX: Final = 64
BODIES_MAX_BYTES: Final = 64 << 20
# Of one answer; what is longer is cut off.
ANSWER_MAX_BYTES: Final = 64 << 20
# Permits whose way to the mirror is remembered.
WAYS_MAX: Final = 4096
# What of a request its copy has, too: nothing that tells who asked.
COPIED: Final = (
    "request_id",
    "received_s",
    "endpoint",
    "query",
    "method",
    "route",
    "content_type",
    "accept",
    "beta",
    "body",
    "tenant_id",
    "key_name",
    "user",
    "model_requested",
    "stream",
    "queue_ms",
)


class Copy:
    """One copy, from its departure until both answers are known. A `status` of 0: there was no answer."""

    __slots__ = ("attempt", "call", "facts", "is_over", "label", "primary", "reply", "status", "took_s")

    def __init__(self, call: Call, facts: Skim | None, attempt: Attempt, label: str) -> None:
        self.call = call
        self.facts = facts
        self.attempt = attempt
        self.label = label
        self.reply: Reply | None = None
        self.status = 0
        self.took_s = 0.0
        self.is_over = False
        self.primary: tuple[int, float] | None = (
            None  # its status and time to the first byte, once it is over
        )

    def usage(self) -> Usage | None:
        if self.reply is not None:
            return self.reply.usage(self.facts, self.call)
        return unanswered_usage(self.call, self.facts, self.attempt)


class Mirrors:
    def __init__(self, admission: Admission, resources: Resources, metrics: Metrics) -> None:
        self.admission = admission
        self.resources = resources
        self.limiter: Limiter = resources.limiter
        self.board: Board = resources.board
        self.books: Books = resources.books
        self.metrics = metrics
        self.ways: dict[Permit, Way | None] = {}
        self.underway: dict[Copy, tuple[Serving, asyncio.Handle]] = {}
        self.copies: dict[Call, Copy] = {}
        self.body_bytes = 0

    def copy(self, call: Call, facts: Skim | None, permit: Permit, ask: Ask) -> None:
        """Sends one where it is this request's turn. Raises nothing."""
        if call.route is OTHER or not permit.mirrored or not permit.mirrored.take():
            return
        label = permit.plan.label
        is_full = len(self.underway) >= COPIES_MAX or self.body_bytes + len(call.body) > BODIES_MAX_BYTES
        attempt = None if is_full else self.maybe_attempt(call, permit, ask)
        if attempt is None:
            self.metrics.mirrored(label, "too_many" if is_full else "no_room")
            return
        copy = self.copies[call] = Copy(copied(call), facts, attempt, label)
        serving = Serving(self.run(copy, ask), partial(self.on_done, copy, ask))
        self.underway[copy] = serving, asyncio.get_running_loop().call_soon(serving.start)
        self.body_bytes += len(call.body)

    def maybe_attempt(self, call: Call, permit: Permit, ask: Ask) -> Attempt | None:
        """At the mirror, with its own limits held; it gives way to whoever waits for them."""
        way, now_us = self.way(call, permit), self.board.now_us()
        if way is None or way.health.verdict(now_us) != GO:
            return None
        key = way.health.maybe_key(way.upstream.next_key(), now_us)
        try:
            hold = self.limiter.admit((), way.gauges, ask.tokens, 0, self.limiter.now_us(), is_batch=True)
        except OverflowError:
            return None
        if not isinstance(hold, Hold):
            self.resources.want(ask, hold.lacking)
            return None
        attempt = Attempt(way, 0, now_us)
        attempt.hold = hold
        if key < 0 or not way.health.begin(now_us):
            self.books.give_up(attempt, 0)
            return None
        attempt.key = key
        return attempt

    def way(self, call: Call, permit: Permit) -> Way | None:
        if permit in self.ways:
            return self.ways[permit]
        if len(self.ways) >= WAYS_MAX:
            self.ways.clear()
        plan = permit.plan
        assert plan.model is not None
        assert plan.model.mirror is not None
        target, way = plan.model.mirror.target, None
        if self.admission.upstreams[target.provider].dialect.speaks(call.route):
            way = self.admission.way(permit.principal, plan, call, target, call.model_requested)
        self.ways[permit] = way
        return way

    async def run(self, copy: Copy, ask: Ask) -> None:
        """Raises UpstreamError where there is no whole answer."""
        attempt, call = copy.attempt, copy.call
        upstream = attempt.way.upstream
        attempt.began_s = monotonic()
        self.books.sent(call, attempt, ask)
        connection = await upstream.ask(call, copy.facts, attempt, attempt.began_s + upstream.timeouts.total)
        try:
            copy.reply = Reply(connection, upstream, call, attempt)
            copy.status = connection.status
            copy.took_s = connection.answered_s - attempt.began_s
            await read_whole(copy.reply)
        finally:
            upstream.release(connection)

    def on_done(self, copy: Copy, ask: Ask, failure: BaseException | None) -> None:
        del self.underway[copy]
        self.body_bytes -= len(copy.call.body)
        attempt = copy.attempt
        if failure is not None and not isinstance(failure, GatewayError | asyncio.CancelledError):
            logger.error("a copy of request %s failed", copy.call.request_id, exc_info=failure)
        word = self.judge(copy, failure)
        attempt.outcome = f"mirror_{word}"
        usage = copy.usage()
        self.books.passed_over(copy.call, attempt, ask, usage)
        self.books.give_up(attempt, usage.input_tokens + usage.output_tokens if usage is not None else 0)
        if word == "cancelled":
            self.metrics.mirrored(copy.label, word)
        else:
            copy.is_over = True
            self.compare(copy)

    def judge(self, copy: Copy, failure: BaseException | None) -> str:
        """Tells the target's health how it went; the outcome's word."""
        attempt, health = copy.attempt, copy.attempt.way.health
        if isinstance(failure, UpstreamError):
            copy.status = failure.upstream_status or 0
            now_us = self.board.now_us()
            attempt.end(IGNORED if is_blameless(failure) else FAILED)
            if is_throttle(failure) or not is_blameless(failure):
                health.blame(class_number(failure.cause))
            if is_throttle(failure):
                health.throttled(now_us)
            rest_key(attempt, failure, now_us)
            return failure.outcome
        if failure is not None:
            attempt.end(IGNORED)
            return "cancelled" if isinstance(failure, asyncio.CancelledError) else "broken"
        is_good = copy.status < 400
        if is_good:
            health.first_byte(round(copy.took_s * 1e6), self.board.now_us())
        attempt.end(OK if is_good else IGNORED)
        return "ok" if is_good else "client_error"

    def on_primary_over(self, call: Call) -> None:
        copy = self.copies.pop(call, None)
        if copy is not None:
            was_answered = call.provider_used and (call.ttft_ms >= 0 or not call.client_gone)
            took_s = max(call.ttft_ms - call.queue_ms, 0.0) / 1e3
            copy.primary = (call.status if was_answered else 0), took_s
            self.compare(copy)

    def compare(self, copy: Copy) -> None:
        """Once both are over: whether they had the same status and, where that is a good one, their times."""
        if copy.primary is None or not copy.is_over:
            return
        status, took_s = copy.primary
        if not copy.status or not status:
            self.metrics.mirrored(copy.label, "failed" if status else "uncompared")
            return
        self.metrics.mirrored(copy.label, "same" if copy.status == status else "different")
        if copy.status == status < 400:
            self.metrics.mirror_latency(copy.label, "primary", took_s)
            self.metrics.mirror_latency(copy.label, "mirror", copy.took_s)

    def close(self) -> None:
        """Ends all that are under way: they hold up neither a reload nor the end of a worker."""
        for serving, start in list(self.underway.values()):
            start.cancel()
            serving.cancel()


class Sink(Outlet):
    """Where the answer of a copy goes: nowhere, and only so much of it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.left_bytes = ANSWER_MAX_BYTES

    def write(self, data: bytes) -> int:
        if self.left_bytes >= 0:
            self.left_bytes -= len(data)
            if self.left_bytes < 0:
                error = UpstreamBroken("The answer to a copy is too long.")
                asyncio.get_running_loop().call_soon(self.connection.fail, error)
        return 0


async def read_whole(reply: Reply) -> None:
    """Raises UpstreamError."""
    if reply.body is not None:
        return
    connection = reply.connection
    await connection.relay(Sink(connection))
    if connection.events is not None:
        judge_end(connection.events)


def copied(call: Call) -> Call:
    copy = Call()
    for name in COPIED:
        setattr(copy, name, getattr(call, name))
    return copy
