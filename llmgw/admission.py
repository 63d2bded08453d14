"""Admission: what a request may use is reserved before it is sent, at once or after a wait.

Permit     one key on one route for one model: what is the same for all of its requests
Resources  what all gateways of a worker share, so that a reload loses nothing
Admission  decides, for one configuration
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from random import random
from time import monotonic
from typing import Final

from llmgw._core.ask import FREE, Ask, Away, Books, Group, Permit, Way, in_money
from llmgw._core.estimate import Estimator
from llmgw._core.health import Board
from llmgw._core.limiter import TOKENS, USD, Gauge, Hold, Limiter, Refusal
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim
from llmgw.access import Principal
from llmgw.config import FALLBACK_CLASSES, Config, Target, bounds_of, is_glob, price_of
from llmgw.config.encodings import ENCODINGS, encoding_of
from llmgw.errors import ConfigError, GatewayError, NoUpstream, Overloaded
from llmgw.ledger import LedgerFile
from llmgw.limits.exact import ExactCounter, VocabularyError
from llmgw.limits.options import is_batch, max_wait_s, tags_of
from llmgw.limits.queue import Joined, Waiter
from llmgw.limits.refusal import (
    found_no_place,
    limit_lines,
    lost_its_place,
    price_unknown,
    refused,
    waited_in_vain,
)
from llmgw.limits.rules import Limit, Rules
from llmgw.metrics import Metrics
from llmgw.routing import Catalog, Plan
from llmgw.routing.affinity import affinity
from llmgw.routing.catalog import shown_model
from llmgw.routing.causes import PAUSES, class_of_absence
from llmgw.store.leases import Leases
from llmgw.upstream import Upstream
from llmgw.waiting import WaitingRoom

# Of an endpoint, in what is kept for a crash: paths come from clients.
ENDPOINT_MAX: Final = 64
REQUESTED_MAX: Final = 128  # of the model's name that was asked for
# While one lease is fetched another may be used up by others.
LEASE_TRIES: Final = 3
# The shortest wait for a target: others may be quicker to take its place.
STEP_S: Final = 0.01
# Of a wait, at most, on top of it: those who wait for the same target come back one by one.
SPREAD: Final = 0.5


@dataclass(slots=True)
class Resources:
    limiter: Limiter
    estimator: Estimator
    waiting: WaitingRoom
    ledger: LedgerFile
    books: Books
    leases: Leases | None = None
    board: Board = field(default_factory=Board)

    def want(self, ask: Ask, lacking: tuple[Gauge, ...] | None) -> None:
        """Of gauges whose lease was short, if any: whoever comes next may find one."""
        if lacking is not None and self.leases is not None:
            self.leases.want(lacking, ask.amounts(lacking))

    async def close(self) -> None:
        self.waiting.close()
        if self.leases is not None:
            await self.leases.close()
        self.ledger.close()


class Admission:
    def __init__(
        self,
        config: Config,
        resources: Resources,
        upstreams: dict[str, Upstream],
        metrics: Metrics,
        catalog: Catalog,
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.resting = 0  # requests that wait for a target; as many as may wait at limits
        self.rules = Rules(config, is_shared=resources.leases is not None)
        self.limiter = resources.limiter
        self.resources = resources
        self.upstreams = upstreams
        self.metrics = metrics
        self.limiting_users = {
            tenant.name
            for tenant in config.tenants.values()
            if tenant.users.budgets or any(tenant.users.limits.items())
        }
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
        permit = self.new_permit(principal, plan, call)
        fallbacks: dict[str, tuple[Permit, ...]] = {}
        if plan.model is not None:
            for cause in FALLBACK_CLASSES:
                names = [name for name in plan.model.fallbacks.of(cause) if name != call.model_requested]
                if names:
                    fallbacks[cause] = tuple(self.fallback(principal, name, call) for name in names)
        permit.lead(self.groups(permit, plan, call, call.model_requested), fallbacks)
        return permit

    def fallback(self, principal: Principal, name: str, call: Call) -> Permit:
        """For another model in this one's place: the operator's choice, so the key need not be allowed it."""
        plan = self.catalog.find(name)
        permit = self.new_permit(principal, plan, call)
        permit.lead(self.groups(permit, plan, call, name), {})
        return permit

    def may_send_raw(self, principal: Principal) -> bool:
        """Bodies that nobody reads, as it has every model and no limit of tokens, money or users."""
        gauges = self.rules.caller(principal.tenant, principal.key_name)
        is_metered = any(gauge.unit in {TOKENS, USD} and not gauge.is_shadow for gauge in gauges)
        is_free = not is_metered and principal.tenant not in self.limiting_users
        return is_free and "*" in principal.models.globs

    def new_permit(self, principal: Principal, plan: Plan, call: Call) -> Permit:
        weight, key = self.keys[principal.tenant, principal.key_name]
        return Permit(
            principal,
            plan,
            self.rules.caller(principal.tenant, principal.key_name),
            call.route,
            is_batch=key.priority == "batch",
            is_exact=plan.model is not None and plan.model.estimate == "exact",
            limits_users=principal.tenant in self.limiting_users,
            looks_closer=bool(plan.hash_on),
            max_wait_s=key.max_wait_s,
            weight=weight,
        )

    def groups(self, permit: Permit, plan: Plan, call: Call, model: str) -> tuple[Group, ...]:
        """The plan's stages as this permit may use them. What nobody can price cannot be held to a budget."""
        must_price = permit.has_budget and permit.costs_tokens

        def maybe_way(target: Target) -> Way | None:
            if not self.upstreams[target.provider].dialect.speaks(call.route):
                return None
            way = self.way(permit.principal, plan, call, target, model)
            return way if way.is_priced or not must_price else None

        return tuple(
            Group(stage.tier, tuple(map(maybe_way, stage.targets)), stage.first, stage.canary)
            for stage in plan.stages
        )

    def way(self, principal: Principal, plan: Plan, call: Call, target: Target, asked: str) -> Way:
        upstream = self.upstreams[target.provider]
        model = target.model or asked
        shown = shown_model(plan.label, target, plan.model)
        names = (
            "",  # of an attempt beside another, a word
            principal.tenant,
            principal.key_name,
            upstream.name,
            plan.label,
            model,
            call.endpoint[:ENDPOINT_MAX],
            (call.model_requested or "")[:REQUESTED_MAX],
            "",
        )
        price, bounds = price_of(plan.model, target, model), bounds_of(plan.model, model)
        return Way(
            upstream,
            model,
            plan.label,
            f"{upstream.name}/{shown}",
            self.rules.target(target.provider, plan.label),
            self.catalog.healths.of(target.provider, shown),
            self.catalog.healths.traffic(target.provider),
            self.resources.estimator.find(model),
            price.per_unit if price is not None else None,
            bounds.max_input_tokens or -1,
            bounds.max_output_tokens or -1,
            encoding_of(model) if plan.model is not None and plan.model.estimate == "exact" else "",
            "\0".join(name.replace("\0", "") for name in names).encode("utf-8", "replace"),
        )

    def ask(self, call: Call, facts: Skim | None, permit: Permit) -> Ask:
        """What the request asks for, by its estimate. Raises BadRequest, PriceUnknown, NoUpstream."""
        caller = self.caller_of(call, permit)
        has_tokens = permit.costs_tokens and facts is not None
        has_budget = in_money(caller, enforced=True)
        ask = Ask(permit, caller, is_batch(call.priority, is_batch_key=permit.is_batch))
        is_payable = not (has_budget and has_tokens) or ask.hold_to_price()
        if permit.first is None or not is_payable:
            if has_budget and permit.plan.targets:
                raise price_unknown(call.model_requested or call.endpoint)
            raise NoUpstream("No provider is configured that can serve this request.")
        ask.tags = tags_of(call.tags)
        ask.max_wait_s = max_wait_s(call.max_wait, permit.max_wait_s, self.config.queue.max_wait_s)
        if permit.plan.hash_on:
            ask.affinity = affinity(call, permit.plan.hash_on)
        if facts is not None and has_tokens:
            permit.estimate(ask, facts, in_money(caller))
        elif has_budget:
            ask.cost(flat_cost_usd_micro(call, permit.first))
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
        way = permit.first
        if way is not None and way.encoding in self.counters and ask.input_tokens:
            counter = self.counters[way.encoding]
            tokens = await counter.count(call.body, ask.input_tokens, call.route.is_plain)
            permit.count(ask, tokens, in_money(ask.caller))

    async def contend(self, call: Call, permit: Permit, ask: Ask, answer: Refusal | Away) -> None:
        """What was not admitted at once: takes leases, another model, waits, or raises GatewayError."""
        call.hold = await self.hold_for(call, permit, ask, answer)
        call.limit_lines = call.hold.lines()

    async def hold_for(self, call: Call, permit: Permit, ask: Ask, first: Refusal | Away) -> Hold:
        answer: Hold | Refusal | Away = first
        while True:
            if isinstance(answer, Refusal):
                answer = await self.lease(ask, answer)
            if not isinstance(answer, Hold) and not is_callers(answer, ask):
                answer = self.elsewhere(call, ask, answer)
            if isinstance(answer, Refusal):
                answer = await self.in_queue(call, permit, ask, answer)
            if isinstance(answer, Hold):
                return answer
            answer = await self.until_back(call, ask, answer)

    async def in_queue(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> Hold | Away:
        """Waits where it may. Raises LimitError."""
        if refusal.lacking is not None and not ask.max_wait_s:
            raise Overloaded("The limits that several machines share could not be read in time.")
        limit = refusal.gauge.info
        assert isinstance(limit, Limit)
        try:
            if not ask.max_wait_s:
                raise refused(refusal, call.model_requested, call.tenant_id)
            return await self.wait(call, permit, ask, refusal)
        except GatewayError:
            call.limit_lines = limit_lines(refusal)
            self.metrics.refused(call.tenant_id, limit.label)
            raise

    def elsewhere(self, call: Call, ask: Ask, answer: Refusal | Away) -> Hold | Refusal | Away:
        """At another model, where nobody has room for the one asked for; else the answer as it was."""
        asked = ask.permit
        away = ask.verdicts()
        cause = "rate_limit"
        if isinstance(answer, Away):
            cause = class_of_absence([(way.health.blamed, word) for way, word in away])
        for way, word in away:
            ask.note(way.shown, word)
        others = asked.fallbacks.get(cause, ())
        for index, permit in enumerate(others):
            ask.fall_back(permit)
            found = self.decide(ask, is_waiter=False)
            if isinstance(found, Hold):
                call.fallback_used = True
                ask.further = others[index + 1 :]
                return found
        ask.fall_back(asked)
        return answer

    async def until_back(self, call: Call, ask: Ask, away: Away) -> Hold | Refusal | Away:
        """No target is available: waits for the first one where that is soon. Raises NoUpstream."""
        if away.wait_us < 0:
            raise NoUpstream("No provider is configured that can serve this request.")
        wait_s = max(away.wait_us / 1e6, STEP_S) * (1 + SPREAD * random())
        if wait_s > patience_of(call, ask) or self.resting >= self.config.queue.max_waiting:
            raise nobody_there(away.wait_us / 1e6)
        self.resting += 1
        try:
            await rest(call, wait_s)
        finally:
            self.resting -= 1
        return self.decide(ask, is_waiter=False)

    async def lease(self, ask: Ask, refusal: Refusal) -> Hold | Refusal | Away:
        """Fetches what the machine's leases lack; while one is fetched, others may use up another."""
        answer: Hold | Refusal | Away = refusal
        leases = self.resources.leases
        if leases is None:
            return answer
        until_us = self.limiter.now_us() + round(leases.wait_max_s * 1e6)
        for _ in range(LEASE_TRIES):
            if not isinstance(answer, Refusal) or answer.lacking is None:
                break
            within_s = max(until_us - self.limiter.now_us(), 0) / 1e6
            await leases.wait(answer.lacking, ask.amounts(answer.lacking), within_s)
            answer = self.decide(ask, is_waiter=False)
        return answer

    def decide(self, ask: Ask, *, is_waiter: bool) -> Hold | Refusal | Away:
        """Raises Overloaded."""
        try:
            return ask.decide(self.limiter, self.limiter.now_us(), is_waiter)
        except OverflowError as error:
            raise Overloaded("The gateway has no room for another request or another limit.") from error

    async def wait(self, call: Call, permit: Permit, ask: Ask, refusal: Refusal) -> Hold | Away:
        """In the worker's queue, until it is this one's turn and there is room."""
        waiting, limiter = self.resources.waiting, self.limiter
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        began_us = limiter.now_us()
        waiter = Waiter(
            call.tenant_id,
            permit.weight,
            ask.is_batch,
            ask.tokens,
            began_us + max(round((ask.max_wait_s - call.queue_ms / 1e3) * 1e6), 0),
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
            call.queue_ms += waited_us / 1e3
            self.metrics.queue_waited(waited_us / 1e6)
        if isinstance(outcome, Hold | Away):
            return outcome
        if isinstance(outcome, Refusal):
            raise waited_in_vain(outcome, call.model_requested, call.tenant_id)
        if isinstance(outcome, GatewayError):
            raise outcome
        raise lost_its_place(waiter.refusal or refusal)

    def decide_as_waiter(self, ask: Ask, now_us: int) -> object:
        try:
            answer = ask.decide(self.limiter, now_us, True)
        except OverflowError:
            return Overloaded("The gateway has as many requests in flight as it can hold.")
        if isinstance(answer, Refusal):
            self.resources.want(ask, answer.lacking)
        return answer

    def close(self) -> None:
        for counter in self.counters.values():
            counter.close()


async def rest(call: Call, seconds: float) -> None:
    """Before a target is asked; it counts as waiting, also where the caller leaves meanwhile."""
    began_s = monotonic()
    try:
        await asyncio.sleep(seconds)
    finally:
        call.queue_ms += (monotonic() - began_s) * 1e3


def is_callers(answer: Refusal | Away, ask: Ask) -> bool:
    """What the caller itself used up, no other model can serve."""
    return isinstance(answer, Refusal) and answer.gauge in ask.caller


def patience_of(call: Call, ask: Ask) -> float:
    """How long the request may wait for a target, from now, in seconds.

    A pause that a provider asked for ends when it said. An open circuit is another matter: whoever has not
    said that it waits is told at once, or all who came meanwhile would fall upon a provider that just rose.
    """
    patience_s, model = ask.max_wait_s, ask.permit.plan.model
    if model is not None and any(word in PAUSES for _, word in ask.verdicts()):
        patience_s = max(patience_s, model.retry.base_delay_s)
    return min(patience_s - call.queue_ms / 1e3, ask.deadline_s - monotonic())


def nobody_there(wait_s: float) -> NoUpstream:
    return NoUpstream(
        "Every provider that can serve this request is failing or asked for a pause. Please try again later.",
        retry_after_s=max(wait_s, STEP_S),
    )


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
