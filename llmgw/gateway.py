"""The gateway: what happens to a request, from top to bottom.

    identify → read → permit → admit (wait?) → attempt … attempt → relay → settle → remember

Each step is a function in its own room. An error that a client is to see leaves `serve` as a
GatewayError and becomes HTTP at the edge.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import monotonic
from urllib.parse import unquote

import orjson

from llmgw import degraded
from llmgw._core.ask import Ask, Attempt, Away, Permit
from llmgw._core.health import FAILED, IGNORED, OK
from llmgw._core.limiter import Refusal
from llmgw._core.line import call_to_line
from llmgw._core.recent import Recent
from llmgw._wire.call import Call
from llmgw._wire.deadline import Wheel
from llmgw._wire.outlet import Outlet
from llmgw._wire.skim import Skim, SkimError, skim
from llmgw.access import Principal
from llmgw.access.keyring import Keyring
from llmgw.admission import Admission, Resources
from llmgw.config import Config
from llmgw.dialects import MESSAGES, OTHER, RESPONSES
from llmgw.errors import (
    BadRequest,
    ClientGone,
    Forbidden,
    GatewayError,
    Unauthenticated,
    UpstreamError,
)
from llmgw.failover import Failover, is_out_of_time
from llmgw.failpoints import failpoint
from llmgw.hedging import Hedging
from llmgw.limits.options import timeout_s
from llmgw.metrics import Metrics
from llmgw.mirror import Mirrors
from llmgw.routing import Catalog, no_such_model
from llmgw.upstream.heads import plain_head, reply_head, shown_trail, trail_of
from llmgw.upstream.pace import learn_pace
from llmgw.upstream.provider import Upstream
from llmgw.upstream.reply import Reply, judge_end, unanswered_usage, unfinished_usage

TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
# Paths and, under globs, names of models come from clients: what is remembered of them has a bound.
PERMITTED_MAX = 4096
# The class by another name: docs/design.md, "The way of a request is compiled".
Answered = Reply
IN_BACKGROUND = "'background' is not served here: its answer says nothing of what it costs."
ODD_USER_ID = "'metadata.user_id' must be one string of at most 512 characters, or null."
# What the label `model` shows for a request that was refused before its model was known.
NO_MODEL = ""


class Gateway:
    """Serves one configuration. A reload makes a new one; what is under way ends on the old."""

    def __init__(
        self,
        config: Config,
        wheel: Wheel,
        metrics: Metrics,
        write_log: Callable[[bytes], None],
        resources: Resources,
        recent: Recent,
    ) -> None:
        self.config = config
        self.metrics = metrics
        self.write_log = write_log
        self.recent = recent
        self.keyring = Keyring(config)
        self.catalog = Catalog(config, resources.board)
        self.permitted: dict[tuple[Principal, str, str, str], Permit] = {}
        self.upstreams = {name: Upstream(provider, wheel) for name, provider in config.providers.items()}
        self.admission = Admission(config, resources, self.upstreams, metrics, self.catalog)
        self.failover = Failover(config, resources)
        self.hedging = Hedging(resources)
        self.mirrors = Mirrors(self.admission, resources, metrics)
        self.resources = resources
        self.limiter = resources.limiter
        self.board = resources.board
        self.books = resources.books

    async def serve(self, call: Call, out: Outlet) -> None:
        """Raises GatewayError before the answer began or, where `out.is_begun`, after it broke off."""
        self.metrics.started()
        permit = facts = ask = answer = reply = None
        try:
            principal = self.identified(call)
            facts = read(call)
            permit = self.permit(principal, call)
            ask = permit.plain_ask(call, facts) or self.admission.ask(call, facts, permit)
            if call.timeout is not None:
                bound(ask, call)
            if permit.is_exact:
                await self.admission.count(call, ask, permit)
            answer = ask.admit_nowait(call, self.limiter)
            if answer is not None:
                await self.admission.contend(call, permit, ask, answer)
            if ask.lacking is not None:
                self.resources.want(ask, ask.lacking)
            if permit.mirrored is not None:
                self.mirrors.copy(call, facts, permit, ask)
            reply = await self.first_good(call, facts, ask)
            await self.relay(call, facts, ask, reply, out)
        except GatewayError as error:
            if isinstance(error, UpstreamError) and self.degrade(call, facts, permit, ask, out):
                return
            call.status = error.status if not out.is_begun else call.status
            call.client_gone = isinstance(error, ClientGone)
            call.error_code = error.code
            raise
        except asyncio.CancelledError:
            call.client_gone = True
            raise
        except Exception:
            call.status, call.error_code = 500, "internal_error"
            raise
        finally:
            try:
                if ask is not None:
                    if ask.trail and not call.trail:
                        call.trail = shown_trail(ask.trail)
                    ask.abandon()
                if call.hold is not None and call.hold.is_open:
                    self.books.settle(call, ask, facts, unfinished_usage(call, facts, ask, reply))
            finally:
                self.remember(call, permit, answer)

    async def serve_models(self, call: Call, out: Outlet) -> None:
        """`GET /v1/models` and `/v1/models/{id}`: the names that this key may ask for."""
        self.metrics.started()
        try:
            principal = self.identified(call)
            self.keyring.permit_route(principal, call.endpoint)
            wanted = unquote(call.endpoint.removeprefix("/v1/models").removeprefix("/"))
            if wanted:
                if wanted not in principal.models:
                    raise no_such_model(wanted)
                self.catalog.find(wanted)
                body = orjson.dumps(model_entry(wanted))
            else:
                body = models_body(self.keyring.visible_models(principal, self.catalog.names))
            call.status = 200
            out.answer(call.status, plain_head(call, b"application/json"), body)
        except GatewayError as error:
            call.status, call.error_code = error.status, error.code
            raise
        finally:
            self.remember(call, None)

    def refuse(self, call: Call, error: GatewayError) -> None:
        """Of a request that could not even be read."""
        self.metrics.started()
        call.status, call.error_code = error.status, error.code
        self.remember(call, None)

    def identify(self, call: Call) -> None:
        """Sets the principal, or the fault. The lanes call it early where a body is still to come."""
        if call.principal is not None or call.fault is not None:
            return
        try:
            principal = call.principal = self.keyring.identify(call.credential)
        except GatewayError as error:
            call.fault = error
        else:
            call.tenant_id = principal.tenant
            call.key_name = principal.key_name
        call.credential = None

    def identified(self, call: Call) -> Principal:
        """Who asks. Raises what the lane or the key check found."""
        self.identify(call)
        if call.traceparent is not None:
            call.trace_id = trace_of(call.traceparent)
        if call.fault is not None or call.principal is None:
            raise call.fault or Unauthenticated("No key.")
        return call.principal

    def permit(self, principal: Principal, call: Call) -> Permit:
        """The key may use the route and the model, and there is such a model. A yes is remembered."""
        known = (principal, call.method, call.endpoint, call.model_requested)
        return self.permitted.get(known) or self.judge(principal, call)

    def judge(self, principal: Principal, call: Call) -> Permit:
        endpoint, model = call.endpoint, call.model_requested
        self.keyring.permit_route(principal, endpoint)
        if model:
            self.keyring.permit_model(principal, model)
        elif not principal.may_pass_on:
            raise Forbidden(f"This API key does not have access to {endpoint[:100]} without a model.")
        plan = self.catalog.find(model) if model else self.catalog.find_route(endpoint)
        if len(self.permitted) >= PERMITTED_MAX:
            self.permitted.clear()
        permit = self.admission.permit(principal, plan, call)
        self.permitted[(principal, call.method, endpoint, model)] = permit
        return permit

    async def first_good(self, call: Call, facts: Skim | None, ask: Ask) -> Answered:
        """Asks one target after the other until one answers. Raises the last one's UpstreamError."""
        deadline_s = ask.until_s(call)
        while True:
            attempt = ask.attempt
            try:
                if ask.permit.hedge is None:
                    reply = await self.attempt(call, facts, ask, attempt, deadline_s)
                else:
                    reply = await self.hedged(call, facts, ask, deadline_s)
                if ask.trail is not None or reply.connection.status >= 400:
                    call.trail = trail_of(ask, reply)
                return reply
            except UpstreamError as error:
                failure = error
            await self.failover.go_on(call, ask, failure, deadline_s)
            self.books.passed_over(call, attempt, ask, unanswered_usage(call, facts, attempt))

    async def hedged(self, call: Call, facts: Skim | None, ask: Ask, deadline_s: float) -> Answered:
        """The same, of a model whose late targets get a second one beside them."""
        return await self.hedging.first_good(
            call,
            ask,
            begin=lambda attempt: self.attempt(call, facts, ask, attempt, deadline_s),
            usage_of=lambda attempt: unanswered_usage(call, facts, attempt),
        )

    async def attempt(
        self, call: Call, facts: Skim | None, ask: Ask, attempt: Attempt, deadline_s: float
    ) -> Answered:
        """One request to one target, up to the beginning of its answer."""
        way = attempt.way
        upstream = way.upstream
        attempt.set_out(call)
        if upstream.key_count > 1:
            if ask.next_key >= 0 and ask.keys_bit == attempt.bit and attempt.hold is None:
                attempt.key, ask.next_key = ask.next_key, -1
            else:
                attempt.key = max(way.health.maybe_key(upstream.next_key(), self.board.now_us()), 0)
        self.books.sent(call, attempt, ask)
        try:
            connection = await upstream.ask(call, facts, attempt, deadline_s)
            try:
                reply = Reply(connection, upstream, call, attempt, ask.permit.fallbacks)
                attempt.outcome = "ok" if connection.status < 400 else "client_error"
                if attempt.answered(call, connection.answered_s):
                    learn_pace(attempt, connection, ask.tokens, self.board.now_us())
            except BaseException:
                upstream.release(connection)
                raise
        except UpstreamError as error:
            attempt.outcome = error.outcome
            self.failover.note(call, ask, attempt, error)
            raise
        finally:
            attempt.came_back(call)
        if failpoint:
            failpoint("first-byte")
        return reply

    def degrade(
        self, call: Call, facts: Skim | None, permit: Permit | None, ask: Ask | None, out: Outlet
    ) -> bool:
        """Answers in place of those who are gone, where the client had nothing yet. Whether it did."""
        if permit is None or ask is None or out.is_begun:
            return False
        body = degraded.maybe_answer(call, facts, permit)
        if body is None:
            return False
        call.status, call.error_code = 200, degraded.CODE
        call.provider_used = call.model_used = ""
        call.cost_usd_micro = 0
        if call.hold is not None and call.hold.is_open:
            # What the last one was sent stays counted there; the caller is charged nothing.
            self.books.passed_over(call, ask.attempt, ask, unanswered_usage(call, facts, ask.attempt))
            self.limiter.switch(call.hold, (), self.limiter.now_us(), ask.billed_tokens(ask.attempt))
            self.books.settle(call, ask, facts, None)
        out.answer(call.status, degraded.head(call, ask), body)
        return True

    async def relay(self, call: Call, facts: Skim | None, ask: Ask, reply: Reply, out: Outlet) -> None:
        """From here on the client gets this provider's answer or a part of it, and nobody else's."""
        connection = reply.connection
        call.status = connection.status
        try:
            if reply.body is not None:
                reply.attempt.end(OK if call.status < 400 else IGNORED)
                self.books.settle(call, ask, facts, reply.usage(facts, call))
                out.answer(call.status, reply_head(call, reply.upstream, connection), reply.body)
                return
            started_s = monotonic()
            scanner = reply.scanner
            call.is_events = scanner is not None
            length = connection.content_length if scanner is None else -1
            out.begin(call.status, reply_head(call, reply.upstream, connection), length)
            if reply.is_charged_by_text(call):
                connection.tell_progress(call.hold.progress)
            try:
                await connection.relay(out)
            finally:
                connection.tell_progress(0)
                call.upstream_ms += (monotonic() - started_s) * 1e3
            if failpoint:
                failpoint("last-byte")
            if scanner is None or call.route is OTHER or scanner.is_final:
                out.end()
            if scanner is not None and call.route is not OTHER:
                call.is_events = scanner.error is None
                judge_end(scanner)
            reply.attempt.end(OK if call.status < 400 else IGNORED)
            self.books.settle(call, ask, facts, reply.usage(facts, call))
        except UpstreamError as error:
            reply.attempt.outcome = error.outcome
            reply.attempt.end(IGNORED if is_out_of_time(call, ask, error) else FAILED)
            raise
        except asyncio.CancelledError:
            reply.attempt.outcome = "cancelled"
            raise
        finally:
            reply.upstream.release(connection)

    def remember(self, call: Call, permit: Permit | None, answer: Refusal | Away | None = None) -> None:
        """Metrics, the log line and what explains it, for every request, however it ended."""
        now_s = monotonic()
        self.metrics.finished(call, permit.plan.label if permit is not None else NO_MODEL, now_s=now_s)
        line = call_to_line(call, now_s)
        self.write_log(line)
        self.recent.keep(call.request_id, line, call.trail, limits_met(call, answer))
        if permit is not None and permit.mirrored is not None:
            self.mirrors.on_primary_over(call)

    def retire(self) -> None:
        """Another configuration is in force: what is under way ends here, and leaves no connection."""
        self.mirrors.close()
        for upstream in self.upstreams.values():
            upstream.pool.retire()

    async def close(self) -> None:
        self.mirrors.close()
        self.admission.close()
        for upstream in self.upstreams.values():
            await upstream.close()


def read(call: Call) -> Skim | None:
    """The facts of the request's body; sets what was asked for. Raises BadRequest."""
    if call.route is OTHER and not call.body:
        return None
    try:
        facts = skim(call.body)
    except SkimError as error:
        raise BadRequest(error.message, param=error.param) from None
    if facts.model is None and call.route is not OTHER:
        raise BadRequest("You must provide a model parameter.", param="model")
    if facts.is_background and call.route is RESPONSES:
        raise BadRequest(IN_BACKGROUND, param="background")
    call.model_requested = facts.model or ""
    call.stream = facts.stream
    call.user = facts.user
    if call.user is None and call.route is MESSAGES:
        if facts.is_user_id_odd:
            raise BadRequest(ODD_USER_ID, param="metadata.user_id")
        call.user = facts.user_id
    return facts


def trace_of(traceparent: bytes) -> str | None:
    """The trace id of a W3C traceparent; None where there is none that is valid."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1].decode() if found is not None else None


def models_body(names: list[str]) -> bytes:
    """OpenAI's list."""
    return orjson.dumps({"object": "list", "data": [model_entry(name) for name in names]})


def model_entry(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmgw"}


def bound(ask: Ask, call: Call) -> None:
    """By what its caller says of its patience. Raises BadRequest."""
    within_s = timeout_s(call.timeout or b"")
    ask.deadline_s = call.started_s + within_s
    ask.max_wait_s = min(ask.max_wait_s, within_s)


def limits_met(call: Call, answer: Refusal | Away | None) -> bytes:
    """The limits as they stood when it was admitted, or when it was first refused."""
    if call.hold is not None:
        return call.hold.snapshot()
    return answer.snapshot() if isinstance(answer, Refusal) else b""
