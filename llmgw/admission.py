"""Admission: what a request may use is reserved before it is sent, at once or after a wait.

Permit     one key on one route for one model: what is the same for all of its requests
Resources  what all gateways of a worker share, so that a reload loses nothing
Admission  decides, for one configuration
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from llmgw._core.ask import FREE, Ask, Books, Permit, Way, in_money
from llmgw._core.estimate import Estimator
from llmgw._core.limiter import Gauge, Hold, Limiter, Refusal
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim
from llmgw.access import Principal
from llmgw.config import Config, Target, bounds_of, is_glob, price_of
from llmgw.errors import ConfigError, GatewayError, NoUpstream, Overloaded, QueueFull
from llmgw.ledger import LedgerFile
from llmgw.limits.exact import ENCODINGS, ExactCounter, VocabularyError, encoding_of
from llmgw.limits.options import is_batch, max_wait_s, tags_of
from llmgw.limits.queue import Joined, Waiter
from llmgw.limits.refusal import found_no_place, limit_lines, price_unknown, refused, waited_in_vain
from llmgw.limits.rules import Limit, Rules
from llmgw.metrics import Metrics
from llmgw.routing import Plan
from llmgw.store.leases import Leases
from llmgw.upstream import Upstream
from llmgw.waiting import WaitingRoom

# Of an endpoint, in what is kept for a crash: paths come from clients.
ENDPOINT_MAX: Final = 64
# While one lease is fetched another may be used up by others.
LEASE_TRIES: Final = 3


@dataclass(slots=True)
class Resources:
    limiter: Limiter
    estimator: Estimator
    waiting: WaitingRoom
    ledger: LedgerFile
    books: Books
    leases: Leases | None = None

    async def close(self) -> None:
        self.waiting.close()
        if self.leases is not None:
            await self.leases.close()
        self.ledger.close()


class Admission:
    def __init__(
        self, config: Config, resources: Resources, upstreams: dict[str, Upstream], metrics: Metrics
    ) -> None:
        self.config = config
        self.rules = Rules(config, is_shared=resources.leases is not None)
        self.limiter = resources.limiter
        self.resources = resources
        self.upstreams = upstreams
        self.metrics = metrics
        self.limits_users = any(
            tenant.users.budgets or any(tenant.users.limits.items()) for tenant in config.tenants.values()
        )
        self.keys = {
            (tenant.name, key.name): (tenant.weight, key)
            for tenant in config.tenants.values()
            for key in tenant.keys
        }
        self.calendar = self.rules.calendar()
        self.period_ends_s = 0.0
        self.refresh(time.time())
        self.counters: dict[str, ExactCounter] = {}
        self.load_vocabularies()

    def take_over(self) -> None:
        """This configuration is in force from here on."""
        self.resources.waiting.queue.max_waiting = self.config.queue.max_waiting
        if self.resources.leases is not None:
            self.resources.leases.watch(self.rules.configured())

    def refresh(self, wall_s: float) -> None:
        """Begins the calendar's periods that are due. At least once a minute: clocks are set."""
        next_s = self.calendar.refresh(wall_s)
        if next_s != self.period_ends_s:
            self.period_ends_s = next_s
            self.rules.forget_users()  # whose gauges are in the periods that were

    def load_vocabularies(self) -> None:
        """A configuration that asks for exact counts gets them, or is refused: raises ConfigError."""
        models = [model for model in self.config.models.values() if model.estimate == "exact"]
        encodings = {
            encoding_of(target.model or model.name)
            for model in models
            for target in model.targets
            if target.model or not is_glob(model.name)
        }
        if any(is_glob(model.name) for model in models):
            encodings.update(ENCODINGS)
        try:
            self.counters = {encoding: ExactCounter(encoding) for encoding in sorted(encodings) if encoding}
        except VocabularyError as error:
            raise ConfigError([f"estimate: exact: {error}"]) from None

    def permit(self, principal: Principal, plan: Plan, call: Call) -> Permit:
        """Everything about the key's requests for this model on this route that can be known beforehand."""
        weight, key = self.keys[principal.tenant, principal.key_name]
        permit = Permit(
            principal,
            plan,
            self.rules.caller(principal.tenant, principal.key_name, plan.label),
            call.route,
            call.endpoint,
            is_batch=key.priority == "batch",
            is_exact=plan.model is not None and plan.model.estimate == "exact",
            limits_users=self.limits_users,
            max_wait_s=key.max_wait_s,
            weight=weight,
        )
        found = {
            id(target): self.way(principal, plan, call, target)
            for target in plan.targets
            if self.upstreams[target.provider].dialect.speaks(call.route)
        }
        # What nobody can price cannot be held to a budget: no request goes there.
        must_price = permit.has_budget and permit.costs_tokens
        ways = {key: way for key, way in found.items() if way.is_priced or not must_price}
        permit.lead(
            tuple(ways.values()),
            None
            if plan.fixed is not None
            else lambda: (ways[id(target)] for target in plan.order() if id(target) in ways),
        )
        return permit

    def way(self, principal: Principal, plan: Plan, call: Call, target: Target) -> Way:
        upstream = self.upstreams[target.provider]
        model = target.model or call.model_requested
        names = (
            principal.tenant,
            principal.key_name,
            upstream.name,
            plan.label,
            model,
            call.endpoint[:ENDPOINT_MAX],
            "",
        )
        price, bounds = price_of(plan.model, model), bounds_of(plan.model, model)
        return Way(
            upstream,
            model,
            plan.label,
            self.rules.providers[target.provider],
            self.resources.estimator.find(model),
            price.per_unit if price is not None else None,
            bounds.max_input_tokens or -1,
            bounds.max_output_tokens or -1,
            encoding_of(model) if plan.model is not None and plan.model.estimate == "exact" else "",
            "\0".join(names).encode("utf-8", "replace"),
        )

    def ask(self, call: Call, facts: Skim | None, permit: Permit) -> Ask:
        """What the request asks for, by its estimate. Raises BadRequest, PriceUnknown, NoUpstream."""
        caller = self.caller_of(call, permit)
        has_tokens = permit.costs_tokens and facts is not None
        has_budget = in_money(caller, enforced=True)
        ways = permit.order()
        if has_budget and has_tokens:
            ways = (way for way in ways if way.is_priced)
        ask = Ask(caller, ways, is_batch(call.priority, is_batch_key=permit.is_batch))
        ask.tags = tags_of(call.tags)
        ask.max_wait_s = max_wait_s(call.max_wait, permit.max_wait_s, self.config.queue.max_wait_s)
        way = ask.maybe_way(0)
        if way is None:
            if has_budget and permit.plan.targets:
                raise price_unknown(call.model_requested or call.endpoint)
            raise NoUpstream("No provider is configured that can serve this request.")
        if facts is not None and has_tokens:
            permit.estimate(ask, way, facts, in_money(caller))
        elif has_budget:
            ask.cost(flat_cost_usd_micro(call, way))
        return ask

    def caller_of(self, call: Call, permit: Permit) -> tuple[Gauge, ...]:
        tenant = permit.principal.tenant
        caller = permit.caller
        if call.user:
            caller += self.rules.user(tenant, call.user)
        if call.tags is not None:
            caller += self.rules.tagged(tenant, tags_of(call.tags))
        return caller

    async def count(self, call: Call, ask: Ask, permit: Permit) -> None:
        """The prompt's tokens by the model's own vocabulary, in a thread, where they were estimated."""
        way = ask.maybe_way(0)
        if way is not None and way.encoding in self.counters and ask.input_tokens:
            counter = self.counters[way.encoding]
            tokens = await counter.count(call.body, ask.input_tokens, call.route.is_plain)
            permit.count(ask, tokens, in_money(ask.caller))

    async def contend(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> None:
        """What was not admitted at once: takes leases, waits, or raises LimitError."""
        call.hold = await self.hold_for(call, permit, ask, refusal)
        call.limit_lines = call.hold.lines()

    async def hold_for(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> Hold:
        answer = await self.lease(ask, refusal)
        if isinstance(answer, Hold):
            return answer
        if answer.lacking is not None and not ask.max_wait_s:
            raise Overloaded("The limits that several machines share could not be read in time.")
        limit = answer.gauge.info
        assert isinstance(limit, Limit)
        try:
            if not ask.max_wait_s:
                raise refused(answer, call.model_requested, call.tenant_id)
            return await self.wait(call, permit, ask, answer)
        except GatewayError:
            call.limit_lines = limit_lines(answer)
            self.metrics.refused(call.tenant_id, limit.label)
            raise

    async def lease(self, ask: Ask, refusal: Refusal) -> Hold | Refusal:
        """Fetches what the machine's leases lack; while one is fetched, others may use up another."""
        answer: Hold | Refusal = refusal
        leases = self.resources.leases
        if leases is None:
            return answer
        until_us = self.limiter.now_us() + round(leases.wait_max_s * 1e6)
        for _ in range(LEASE_TRIES):
            if isinstance(answer, Hold) or answer.lacking is None:
                break
            within_s = max(until_us - self.limiter.now_us(), 0) / 1e6
            await leases.wait(answer.lacking, ask.amounts(answer.lacking), within_s)
            answer = self.decide(ask, is_waiter=False)
        return answer

    def decide(self, ask: Ask, *, is_waiter: bool) -> Hold | Refusal:
        """Raises Overloaded."""
        try:
            return ask.decide(self.limiter, self.limiter.now_us(), is_waiter)
        except OverflowError as error:
            raise Overloaded("The gateway has no room for another request or another limit.") from error

    async def wait(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> Hold:
        """In the worker's queue, until it is this one's turn and there is room."""
        waiting, limiter = self.resources.waiting, self.limiter
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        began_us = limiter.now_us()
        waiter = Waiter(
            call.tenant_id,
            permit.weight,
            ask.is_batch,
            ask.tokens,
            began_us + round(ask.max_wait_s * 1e6),
            lambda now_us: self.decide_as_waiter(ask, now_us),
            done.set_result,
            ask.caller,
        )
        joined = waiting.join(waiter, refusal, began_us)
        if joined is Joined.FULL:
            raise found_no_place(refusal, call.model_requested, call.tenant_id)
        if joined is not Joined.WAITS:
            raise waited_in_vain(refusal, call.model_requested, call.tenant_id)
        try:
            outcome = await done
        except BaseException:
            waiting.leave(waiter)
            outcome = done.result() if done.done() and not done.cancelled() else None
            if isinstance(outcome, Hold):
                call.hold = outcome  # it was admitted the moment its caller left
            raise
        finally:
            waited_us = limiter.now_us() - began_us
            call.queue_ms = waited_us / 1e3
            self.metrics.queue_waited(waited_us / 1e6)
        if isinstance(outcome, Hold):
            return outcome
        if isinstance(outcome, Refusal):
            raise waited_in_vain(outcome, call.model_requested, call.tenant_id)
        if isinstance(outcome, GatewayError):
            raise outcome
        raise QueueFull("Too many requests are waiting, and others had a better claim to the place.")

    def decide_as_waiter(self, ask: Ask, now_us: int) -> object:
        try:
            answer = ask.decide(self.limiter, now_us, True)
        except OverflowError:
            return Overloaded("The gateway has as many requests in flight as it can hold.")
        if isinstance(answer, Refusal) and answer.lacking is not None and self.resources.leases is not None:
            self.resources.leases.want(answer.lacking, ask.amounts(answer.lacking))
        return answer

    def go_on(self, call: Call, ask: Ask, way: Way, index: int) -> bool:
        """To another target: whether its limits have room. What the last one was sent stays counted there."""
        billed_tokens = ask.input_tokens if call.may_be_billed else 0
        try:
            refusal = self.limiter.switch(call.hold, way.gauges, self.limiter.now_us(), billed_tokens)
        except OverflowError:
            return False
        if refusal is not None:
            if refusal.lacking is not None and self.resources.leases is not None:  # for whoever comes next
                self.resources.leases.want(refusal.lacking, ask.amounts(refusal.lacking))
            return False
        ask.goes(index)
        return True

    def close(self) -> None:
        for counter in self.counters.values():
            counter.close()


def tag_of(gauge: Gauge) -> str:
    """Whose gauge it is: what belongs to one lives in one place of the fleet's store."""
    limit = gauge.info
    assert isinstance(limit, Limit)
    return f"tenant:{limit.tenant}" if limit.tenant else f"{limit.scope}:{limit.subject}"


def flat_cost_usd_micro(call: Call, way: Way) -> int:
    """Of a request that is not priced by tokens, under a budget."""
    if call.method in FREE:
        return 0
    if not way.request_pusd:
        raise price_unknown(call.model_requested or call.endpoint)
    return way.cost_usd_micro(0, 0, 0)
