"""A dry run: the way of a request through the gateway up to the moment when it would be sent.

Everything here looks and nothing takes. No target is picked, since a choice by turns takes a turn: the
targets stand in their tiers, and any of a tier that has room may be the next. The canary's share of requests
is not drawn from either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llmgw._core.ask import Ask, Away, Group, Permit, Share, Way, in_money
from llmgw._core.health import GO, PROBE, VERDICTS
from llmgw._core.limiter import NEVER, UNKNOWN, Refusal
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim
from llmgw.access import Principal
from llmgw.admission import nobody_there
from llmgw.config import Price, Target, bounds_of, price_of
from llmgw.errors import GatewayError, NotFound, NoUpstream
from llmgw.explain.limits import PART, gauges_of, label_of, shown_limits
from llmgw.explain.question import Question, call_of
from llmgw.gateway import Gateway, read
from llmgw.limits.refusal import refused
from llmgw.routing import Plan
from llmgw.routing.catalog import Stage, shown_model
from llmgw.routing.causes import PAUSES, class_of_absence

AWAY = PAUSES | {"open"}
MICRO_PER_MILLION = 1_000_000  # pico-USD a token is micro-USD a million tokens


class Seen(NamedTuple):
    """A target as it was found. `refusal`: of its or its caller's limits, where it is available."""

    shown: dict[str, object]
    name: str
    tier: int  # number of its tier
    word: str
    has_room: bool
    refusal: Refusal | None
    wait_us: int  # until it is available; -1: never
    is_callers: bool  # the refusal is of a limit that holds whichever way it goes
    blamed: int  # the class of its last failure


class Outcome(NamedTuple):
    shown: dict[str, object]
    seen: list[Seen]
    answer: Refusal | Away | None  # None: it would be admitted
    is_callers: bool


async def suppose(gateway: Gateway, question: Question) -> dict[str, object]:
    """Raises GatewayError where such a request would be refused before any limit or target is looked at."""
    principal = principal_of(gateway, question)
    call = call_of(question)
    facts = read(call)
    permit, fallbacks = permits(gateway, principal, call)
    ask = gateway.admission.ask(call, facts, permit)
    await reckon(gateway, question, call, permit, ask)
    looker = Looker(gateway, call, ask, facts)
    outcome = looker.outcome(permit, call.model_requested)
    shown: dict[str, object] = {
        "request": {
            "tenant": question.tenant,
            "key": question.key,
            "model": call.model_requested,
            "endpoint": call.endpoint,
            "user": call.user,
            "tags": list(ask.tags),
            "priority": "batch" if ask.is_batch else "interactive",
            "max_wait_ms": ask.max_wait_s * 1e3,
        },
        "estimate": {"input_tokens": ask.input_tokens, "output_tokens": ask.tokens - ask.input_tokens},
        "limits": looker.limits(),
        "strategy": permit.plan.model.strategy if permit.plan.model is not None else "ordered",
        "targets": [seen.shown for seen in outcome.seen],
        "fallbacks": [],
        "outcome": outcome.shown,
    }
    if outcome.answer is not None and not outcome.is_callers:
        elsewhere(looker, outcome, fallbacks, shown)
    return shown


def elsewhere(
    looker: Looker, outcome: Outcome, fallbacks: dict[str, tuple[Permit, ...]], shown: dict[str, object]
) -> None:
    """The models that would be asked in its place, up to the first that has room."""
    cause = "rate_limit"
    if isinstance(outcome.answer, Away):
        cause = class_of_absence([(seen.blamed, seen.word) for seen in outcome.seen if seen.word in AWAY])
    looked: list[dict[str, object]] = []
    shown["fallbacks"] = looked
    for name, permit in zip(looker.fallback_names(cause), fallbacks.get(cause, ()), strict=True):
        there = looker.outcome(permit, name)
        looked.append({"model": name, "because": cause, "targets": [seen.shown for seen in there.seen]})
        if there.answer is None:
            shown["outcome"] = there.shown | {"fallback": name}
            return


def principal_of(gateway: Gateway, question: Question) -> Principal:
    tenant = gateway.config.tenants.get(question.tenant)
    if tenant is None:
        raise NotFound("There is no such tenant.", param="tenant", code="tenant_not_found")
    for principal in gateway.keyring.everyone():
        if (principal.tenant, principal.key_name) == (question.tenant, question.key):
            return principal
    raise NotFound("The tenant has no key of this name.", param="key", code="key_not_found")


def permits(
    gateway: Gateway, principal: Principal, call: Call
) -> tuple[Permit, dict[str, tuple[Permit, ...]]]:
    """A permit of its own, which shares no turns with those that serve; and the models that may stand in."""
    real = gateway.permit(principal, call)
    admission, plan = gateway.admission, real.plan
    groups = admission.groups(real, plan, call, call.model_requested)
    permit = admission.new_permit(principal, plan, call)
    permit.lead(
        tuple(
            Group(group.tier, group.ways, group.first, None if stage.canary is None else Share(0.0))
            for stage, group in zip(plan.stages, groups, strict=True)
        ),
        real.fallbacks,
    )
    return permit, real.fallbacks


async def reckon(gateway: Gateway, question: Question, call: Call, permit: Permit, ask: Ask) -> None:
    """The prompt's tokens, where the question has its size in place of it, or they are counted."""
    way = permit.first
    if question.body is not None:
        if permit.is_exact:
            await gateway.admission.count(call, ask, permit)
    elif question.prompt_bytes and permit.costs_tokens and way is not None:
        most = bounds_of(permit.plan.model, way.model).max_input_tokens
        tokens = way.estimate.input_tokens(question.prompt_bytes, most or -1)
        permit.count(ask, tokens, in_money(ask.caller))


class Looker:
    """One request's view of its targets and limits."""

    def __init__(self, gateway: Gateway, call: Call, ask: Ask, facts: Skim | None) -> None:
        self.admission, self.call, self.ask = gateway.admission, call, ask
        self.limiter = gateway.limiter
        self.now_us, self.health_us = gateway.limiter.now_us(), gateway.board.now_us()
        self.gauges = gauges_of(self.admission.rules, call.tenant_id, call.key_name, call.user)
        has_tokens = ask.permit.costs_tokens and facts is not None
        self.must_price = has_tokens and in_money(ask.caller, enforced=True)

    def foresee(self, way: Way | None) -> tuple[Refusal | None, bytes]:
        ask = self.ask
        target = way.gauges if way is not None else ()
        return self.limiter.foresee(
            ask.caller, target, ask.tokens, ask.usd_micro, self.now_us, is_batch=ask.is_batch
        )

    def limits(self) -> list[dict[str, object]]:
        """The caller's own."""
        return shown_limits(self.foresee(None)[1], self.gauges)

    def fallback_names(self, cause: str) -> list[str]:
        model = self.ask.permit.plan.model
        names = model.fallbacks.of(cause) if model is not None else ()
        return [name for name in names if name != self.call.model_requested]

    def outcome(self, permit: Permit, model: str) -> Outcome:
        seen = list(self.targets(permit, model))
        available = [target for target in seen if target.has_room or target.refusal is not None]
        for target in available:
            if target.has_room:
                names = [other.name for other in available if other.has_room and other.tier == target.tier]
                return Outcome({"result": "admitted", "targets": names}, seen, None, False)
        refusals = [target for target in available if target.refusal is not None]
        if refusals:
            worst = next((t for t in refusals if t.is_callers), None) or min(refusals, key=soonest)
            assert worst.refusal is not None
            return Outcome(self.told(worst.refusal), seen, worst.refusal, worst.is_callers)
        waits_us = [target.wait_us for target in seen if target.wait_us >= 0]
        wait_us = min(waits_us, default=-1)
        return Outcome(told_away(wait_us), seen, Away(wait_us), False)

    def told(self, refusal: Refusal) -> dict[str, object]:
        error = refused(refusal, self.call.model_requested, self.call.tenant_id)
        wait_us = refusal.wait_us
        return told_error("refused", error, wait_us) | {
            "limit": label_of(refusal.gauge),
            "may_wait": 0 <= wait_us <= self.ask.max_wait_s * 1e6
            or (wait_us == UNKNOWN and self.ask.max_wait_s > 0),
        }

    def targets(self, permit: Permit, model: str) -> Iterator[Seen]:
        plan = permit.plan
        groups = self.admission.groups(permit, plan, self.call, model)
        for number, (stage, group) in enumerate(zip(plan.stages, groups, strict=True)):
            mask = sum(1 << index for index, way in enumerate(group.ways) if way is not None)
            verdicts = group.tier.verdicts(mask, self.health_us)
            for target, way, verdict in zip(stage.targets, group.ways, verdicts, strict=True):
                yield self.seen(plan, stage, number, target, way, verdict)

    def seen(
        self, plan: Plan, stage: Stage, number: int, target: Target, way: Way | None, verdict: int
    ) -> Seen:
        name = f"{target.provider}/{shown_model(plan.label, target, plan.model)}"
        shown: dict[str, object] = {
            "target": name,
            "tier": "canary" if stage.canary is not None else target.priority,
        }
        why = self.why_not(target, way, verdict)
        if way is None or why:
            return Seen(
                shown | {"verdict": "skipped", "why": why}, name, number, why, False, None, -1, False, 0
            )
        is_available = verdict in {GO, PROBE}
        refusal, snapshot = self.foresee(way)
        is_short = refusal is not None and refusal.lacking is not None  # leases can be had
        has_room = is_available and (refusal is None or is_short)
        of_way = snapshot[len(snapshot) - PART.size * len(way.gauges) :]
        health = way.health.snapshot(self.health_us)
        wait_us = 0 if is_available else way.health.wait_us(self.health_us)
        shown |= {
            "verdict": VERDICTS[verdict],
            "wait_ms": wait_us / 1e3,
            "health": health,
            "price": price_shown(price_of(plan.model, target, way.model)),
            "cost_usd": self.cost_usd(way),
            "limits": shown_limits(of_way, self.gauges),
        }
        is_callers = refusal is not None and refusal.gauge not in way.gauges
        return Seen(
            shown,
            name,
            number,
            VERDICTS[verdict],
            has_room,
            refusal if is_available and not has_room else None,
            wait_us,
            is_callers,
            way.health.blamed,
        )

    def why_not(self, target: Target, way: Way | None, verdict: int) -> str:
        """Why the target is no way for such requests, or ""."""
        if not self.admission.upstreams[target.provider].dialect.speaks(self.call.route):
            return "route"
        if way is None or (self.must_price and not way.is_priced):
            return "price unknown"
        return "weight 0" if verdict < 0 else ""

    def cost_usd(self, way: Way) -> float | None:
        """Of such a request, if it comes to what is estimated."""
        ask = self.ask
        cost = way.cost_usd_micro(ask.input_tokens, 0, ask.tokens - ask.input_tokens)
        return cost / 1e6 if cost >= 0 else None


def soonest(target: Seen) -> float:
    assert target.refusal is not None
    wait_us = target.refusal.wait_us
    return float("inf") if wait_us == NEVER else wait_us


def price_shown(price: Price | None) -> dict[str, float] | None:
    """USD for a million tokens."""
    if price is None:
        return None
    return {"input": price.input_pusd / MICRO_PER_MILLION, "output": price.output_pusd / MICRO_PER_MILLION}


def told_away(wait_us: int) -> dict[str, object]:
    error = (
        nobody_there(wait_us / 1e6)
        if wait_us >= 0
        else NoUpstream("No provider is configured that can serve this request.")
    )
    return told_error("away", error, wait_us)


def told_error(result: str, error: GatewayError, wait_us: int) -> dict[str, object]:
    """What a caller that does not wait would be told."""
    return {
        "result": result,
        "wait_ms": wait_us / 1e3 if wait_us >= 0 else None,
        "status": error.status,
        "code": error.code,
        "message": error.message,
    }
