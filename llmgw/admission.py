"""Admission: what a request may use is reserved before it is sent, at once or after a wait.

Permit     one key on one route for one model: what is the same for all of its requests
Resources  what all gateways of a worker share, so that a reload loses nothing
Admission  decides, for one configuration
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmgw._core.ask import FREE, Ask, Books, Way
from llmgw._core.estimate import Estimator
from llmgw._core.limiter import USD, Gauge, Hold, Limiter, Refusal
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim
from llmgw.access import Principal
from llmgw.config import Config, bounds_of, is_glob, price_of
from llmgw.errors import ConfigError, GatewayError, NoUpstream, Overloaded, QueueFull
from llmgw.ledger import LedgerFile
from llmgw.limits.exact import ENCODINGS, ExactCounter, VocabularyError, encoding_of
from llmgw.limits.options import is_batch, max_wait_s, tags_of
from llmgw.limits.queue import Joined, Waiter
from llmgw.limits.refusal import found_no_place, price_unknown, refused, waited_in_vain
from llmgw.limits.rules import Limit, Rules
from llmgw.metrics import Metrics
from llmgw.routing import Plan
from llmgw.store.leases import Leases
from llmgw.upstream import Upstream
from llmgw.waiting import WaitingRoom


class Permit:
    """One key may use one route for one model; `ways` are the targets that can serve it there."""

    __slots__ = (
        "caller",
        "counts_money",
        "fixed",
        "has_budget",
        "is_batch",
        "is_exact",
        "max_wait_s",
        "plan",
        "principal",
        "ways",
        "weight",
    )

    def __init__(self, principal: Principal, plan: Plan, caller: tuple[Gauge, ...]) -> None:
        self.principal = principal
        self.plan = plan
        self.caller = caller
        self.counts_money = in_money(caller)
        self.has_budget = in_money(caller, enforced=True)
        self.is_exact = plan.model is not None and plan.model.estimate == "exact"
        self.is_batch = False
        self.max_wait_s = 0.0
        self.weight = 1
        self.ways: dict[int, Way] = {}
        self.fixed: tuple[Way, ...] = ()  # where the strategy chooses nothing

    def order(self) -> Iterable[Way]:
        """Best first, by the strategy of now; a later one is only chosen when it is asked for."""
        return self.fixed if self.plan.fixed is not None else self._chosen()

    def _chosen(self) -> Iterator[Way]:
        for target in self.plan.order():
            way = self.ways.get(id(target))
            if way is not None:
                yield way


def in_money(gauges: Iterable[Gauge], *, enforced: bool = False) -> bool:
    """Whether one of them is a budget; `enforced`: one that refuses."""
    return any(gauge.unit == USD and not (enforced and gauge.is_shadow) for gauge in gauges)


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
        if resources.leases is not None:
            resources.leases.watch(self.rules.configured())
        self.calendar = self.rules.calendar()
        self.period_ends_s = 0.0
        self.refresh(time.time())
        self.counters: dict[str, ExactCounter] = {}
        self.load_vocabularies()

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
        caller = self.rules.caller(principal.tenant, principal.key_name, plan.label)
        permit = Permit(principal, plan, caller)
        permit.weight, key = self.keys[principal.tenant, principal.key_name]
        permit.is_batch, permit.max_wait_s = key.priority == "batch", key.max_wait_s
        for target in plan.targets:
            upstream = self.upstreams[target.provider]
            if not upstream.dialect.speaks(call.route):
                continue
            model = target.model or call.model_requested
            gauges = self.rules.providers[target.provider]
            names = (
                principal.tenant,
                principal.key_name,
                upstream.name,
                plan.label,
                model,
                call.endpoint,
                "",
            )
            price, bounds = price_of(plan.model, model), bounds_of(plan.model, model)
            permit.ways[id(target)] = Way(
                upstream,
                model,
                plan.label,
                gauges,
                self.resources.estimator.find(model),
                price.per_unit if price is not None else None,
                bounds.max_input_tokens or -1,
                bounds.max_output_tokens or -1,
                encoding_of(model) if plan.model is not None and plan.model.estimate == "exact" else "",
                "\0".join(names).encode("utf-8", "replace"),
            )
        permit.fixed = tuple(permit.ways.values())
        return permit

    def ask(self, call: Call, facts: Skim | None, permit: Permit) -> Ask:
        """What the request asks for, by its estimate. Raises BadRequest, PriceUnknown, NoUpstream."""
        caller, batch = permit.caller, permit.is_batch
        counts_money, has_budget = permit.counts_money, permit.has_budget
        if call.tags is not None or call.priority is not None or (self.limits_users and call.user):
            caller = self.caller_of(call, permit)
            batch = is_batch(call.priority, is_batch_key=batch)
            counts_money, has_budget = in_money(caller), in_money(caller, enforced=True)
        ask = Ask(caller, permit.order(), batch)
        way = ask.maybe_way(0)
        if way is None:
            raise NoUpstream("No provider is configured that can serve this request.")
        if call.tags is not None:
            ask.tags = tags_of(call.tags)
        costs_tokens = call.route.costs_tokens and facts is not None
        if facts is not None and costs_tokens:
            ask.estimate(way, facts, call.route.is_text, counts_money and way.is_priced)
        if has_budget and not (costs_tokens and way.is_priced):
            ask.cost(flat_cost_usd_micro(call, way))
        return ask

    def admit_nowait(self, call: Call, ask: Ask) -> Refusal | None:
        """Reserves what is asked for, where there is room: `call.hold` has it then. Overloaded."""
        try:
            answer = ask.decide(self.limiter, self.limiter.now_us(), False)
        except OverflowError as error:
            raise Overloaded("The gateway has as many requests in flight as it can hold.") from error
        if isinstance(answer, Refusal):
            return answer
        call.hold = answer
        call.limit_lines = answer.lines()
        return None

    async def count(self, call: Call, ask: Ask) -> None:
        """The prompt's tokens by the model's own vocabulary, in a thread, where they were estimated."""
        way = ask.maybe_way(0)
        if way is not None and way.encoding in self.counters and ask.input_tokens:
            tokens = await self.counters[way.encoding].count(call.body, ask.input_tokens)
            ask.count(way, tokens, way.is_priced and in_money(ask.caller))

    def caller_of(self, call: Call, permit: Permit) -> tuple[Gauge, ...]:
        tenant = permit.principal.tenant
        caller = permit.caller
        if call.user:
            caller += self.rules.user(tenant, call.user)
        if call.tags is not None:
            caller += self.rules.tagged(tenant, tags_of(call.tags))
        return caller

    async def contend(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> None:
        """What was not admitted at once: takes leases, waits, or raises LimitError."""
        call.hold = await self.hold_for(call, permit, ask, refusal)
        call.limit_lines = call.hold.lines()

    async def hold_for(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> Hold:
        leases = self.resources.leases
        if refusal.lacking is not None and leases is not None:
            await leases.wait(refusal.lacking, ask.amounts(refusal.lacking))
            answer = ask.decide(self.limiter, self.limiter.now_us(), False)
            if isinstance(answer, Hold):
                return answer
            refusal = answer
        wait_s = max_wait_s(call.max_wait, permit.max_wait_s, self.config.queue.max_wait_s)
        limit = refusal.gauge.info
        assert isinstance(limit, Limit)
        try:
            if not wait_s:
                raise refused(refusal, call.model_requested, call.tenant_id)
            return await self.wait(call, permit, ask, refusal, wait_s)
        except GatewayError:
            self.metrics.refused(call.tenant_id, limit.label)
            raise

    async def wait(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal, wait_s: float) -> Hold:
        """In the worker's queue, until it is this one's turn and there is room."""
        waiting, limiter = self.resources.waiting, self.limiter
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        began_us = limiter.now_us()
        waiter = Waiter(
            call.tenant_id,
            permit.weight,
            ask.is_batch,
            ask.tokens,
            began_us + round(wait_s * 1e6),
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
        if self.limiter.switch(call.hold, way.gauges, self.limiter.now_us(), billed_tokens) is not None:
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
