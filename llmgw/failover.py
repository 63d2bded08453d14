"""What follows an attempt that failed: its target's health is told, and another attempt begins, or the end.

`routing.retry` decides; here it is done, within the limits of whoever is asked next and under its
provider's retry budget. Nothing here happens once the client has had a byte.
"""

from __future__ import annotations

from random import random
from time import monotonic
from typing import Final

from llmgw._core.ask import Ask, Attempt
from llmgw._core.health import FAILED, IGNORED
from llmgw._wire.call import Call
from llmgw.admission import Resources, nobody_there, rest
from llmgw.config import Config, Retry
from llmgw.errors import UpstreamError, UpstreamTimeout
from llmgw.routing.causes import Cause, class_number, fallback_class
from llmgw.routing.healths import to_us
from llmgw.routing.retry import Step, StepKind, next_step

# A 429 that does not say for how long.
PAUSE_S: Final = 1.0
# A key that is not known, or has no funds: it may have been put in order, so it is tried now and then.
DEAD_KEY_S: Final = 10.0
# A target that stayed silent, while there are others.
SILENT_S: Final = 5.0
# Deadlines are looked at this often.
LATE_S: Final = 0.1
DEFAULT_RETRY: Final = Retry()
# Another key of the same provider may do better.
OF_KEY: Final = frozenset({Cause.RATE_LIMIT, Cause.AUTH})
# The same target would say, or not say, the same again.
FINAL: Final = frozenset({Cause.TIMEOUT, Cause.AUTH})
# A conflict, or a body that was too slow for it: with this one request.
PASSING: Final = frozenset({408, 409})
# They say nothing against the target.
BLAMELESS: Final = frozenset({Cause.RATE_LIMIT, Cause.AUTH, Cause.CONTEXT_LENGTH, Cause.CONTENT_POLICY})


class Failover:
    def __init__(self, config: Config, resources: Resources) -> None:
        self.resources = resources
        self.limiter = resources.limiter
        self.leases = resources.leases
        self.board = resources.board
        self.budgets = {name: provider.retry_budget for name, provider in config.providers.items()}

    def note(self, call: Call, ask: Ask, attempt: Attempt, failure: UpstreamError) -> None:
        """Of an attempt that failed: its target's health, and what this request may still ask."""
        now_us = self.board.now_us()
        cause = Cause(failure.cause)
        health = attempt.way.health
        is_excused = is_blameless(failure) or is_out_of_time(call, ask, failure)
        attempt.end(IGNORED if is_excused else FAILED)
        ask.note(attempt.way.shown, str(failure.upstream_status or cause))
        if cause in OF_KEY:
            ask.keys_bit, ask.next_key = attempt.bit, another_key(ask, attempt, now_us)
            if ask.next_key >= 0:
                rest_key(attempt, failure, now_us)
                return
        leave(ask, attempt, failure)
        if cause in OF_KEY or not is_excused:
            health.blame(class_number(cause))
        if is_throttle(failure):
            health.throttled(now_us)
        rest_key(attempt, failure, now_us)
        if cause is Cause.TIMEOUT and not is_excused and ask.has_left():
            # The last one stays: whoever sends slow prompts must not close it to others.
            health.pause(-1, now_us + to_us(SILENT_S))

    async def go_on(self, call: Call, ask: Ask, failure: UpstreamError, deadline_s: float) -> None:
        """Begins the next attempt, after a wait where one is due, or raises UpstreamError."""
        cause, last = Cause(failure.cause), ask.attempt
        if call.is_upload_begun:
            raise failure
        step = self.next_step(ask, failure, deadline_s)
        is_free = cause.is_of_request  # it cost nobody any work
        if not is_free and self.has_more(ask, step.kind, cause) and not self.is_in_budget(last):
            raise failure
        has_begun = False
        if step.kind is StepKind.KEY:
            has_begun = await self.begin(call, ask, last.bit, deadline_s)
            if not has_begun:
                leave(ask, last, failure)
                step = self.next_step(ask, failure, deadline_s)
        if step.kind is StepKind.OTHER:
            has_begun = await self.begin(call, ask, ask.left(), deadline_s)
        elif step.kind is StepKind.SAME:
            await rest(call, step.after_s)
            has_begun = await self.begin(call, ask, ask.left(again=True), deadline_s)
        if not has_begun and monotonic() < deadline_s:
            has_begun = await self.fall_back(call, ask, cause, deadline_s)
        if not has_begun:
            raise self.last_word(ask, failure, cause)

    def next_step(self, ask: Ask, failure: UpstreamError, deadline_s: float) -> Step:
        model = ask.permit.plan.model
        retry = model.retry if model is not None else DEFAULT_RETRY
        return next_step(
            Cause(failure.cause),
            attempts=ask.tries,
            max_attempts=retry.max_attempts,
            has_key=ask.next_key >= 0 and ask.keys_bit == ask.attempt.bit,
            has_untried=ask.has_left(),
            can_repeat=ask.can_repeat(),
            stated_s=failure.stated_s,
            left_s=deadline_s - monotonic(),
            base_s=retry.base_delay_s,
            max_s=retry.max_delay_s,
            random01=random(),
        )

    async def begin(self, call: Call, ask: Ask, bits: int, deadline_s: float) -> bool:
        """Whether one of these ways is available and has room, if only once its limits' leases have come."""
        if self.begin_nowait(call, ask, bits):
            return True
        if self.leases is None or ask.lacking is None:
            return False
        within_s = max(min(self.leases.wait_max_s, deadline_s - monotonic()), 0.0)
        await self.leases.wait(ask.lacking, ask.amounts(ask.lacking), within_s)
        return self.begin_nowait(call, ask, bits)

    def begin_nowait(self, call: Call, ask: Ask, bits: int) -> bool:
        """The same, at once. What the last one was sent stays counted there."""
        last = ask.attempt
        try:
            has_begun = ask.switch(call.hold, self.limiter, ask.billed_tokens(last), bits) is None
        except OverflowError:
            return False
        self.resources.want(ask, ask.lacking)
        if has_begun and ask.attempt.way is not last.way:
            call.fallback_used = True
        return has_begun

    async def fall_back(self, call: Call, ask: Ask, cause: Cause, deadline_s: float) -> bool:
        """To the models that stand for this cause, in order; once there, only on to the next of them."""
        if ask.further is None:
            ask.further = ask.permit.fallbacks.get(fallback_class(cause), ())
        while ask.further:
            permit, *further = ask.further
            ask.further = tuple(further)
            ask.fall_back(permit)
            if await self.begin(call, ask, ask.left(), deadline_s):
                return True
        return False

    def has_more(self, ask: Ask, kind: StepKind, cause: Cause) -> bool:
        """Whether anybody is left to ask."""
        further = ask.permit.fallbacks.get(fallback_class(cause)) if ask.further is None else ask.further
        return kind is not StepKind.FALLBACK or bool(further)

    def is_in_budget(self, attempt: Attempt) -> bool:
        """Whether another one may follow it, by its provider's budget: retries must not become the outage."""
        budget = self.budgets[attempt.way.upstream.name]
        return attempt.way.traffic.take_retry(self.board.now_us(), budget.ratio, budget.per_second)

    def last_word(self, ask: Ask, failure: UpstreamError, cause: Cause) -> UpstreamError:
        """What the client is told where nobody is left to ask."""
        if cause is not Cause.RATE_LIMIT or failure.is_too_large:
            return failure
        wait_us = ask.wait_us(again=True)
        return nobody_there(max(failure.stated_s or PAUSE_S, wait_us / 1e6))


def leave(ask: Ask, attempt: Attempt, failure: UpstreamError) -> None:
    """The request has asked that target, and asks it again only after a wait, if at all."""
    ask.next_key = -1
    ask.tries += 1
    ask.tried |= attempt.bit
    if failure.cause in FINAL or failure.is_too_large:
        ask.barred |= attempt.bit


def another_key(ask: Ask, attempt: Attempt, now_us: int) -> int:
    """Of the same target, one that this request was not refused with and that does not rest; -1: none."""
    ask.refused_keys = ask.refused_keys or {}
    refused = ask.refused_keys.get(attempt.bit, 0) | 1 << attempt.key
    ask.refused_keys[attempt.bit] = refused
    count: int = attempt.way.upstream.key_count
    for step in range(1, count):
        key = (attempt.key + step) % count
        if not refused >> key & 1 and attempt.way.health.maybe_key(key, now_us) == key:
            return key
    return -1


def is_blameless(failure: UpstreamError) -> bool:
    """It says nothing against the target."""
    return failure.cause in BLAMELESS or failure.upstream_status in PASSING


def is_throttle(failure: UpstreamError) -> bool:
    """The provider wants fewer requests, not another one."""
    return failure.cause == Cause.RATE_LIMIT and not failure.is_too_large


def rest_key(attempt: Attempt, failure: UpstreamError, now_us: int) -> None:
    """The key that was refused, for all requests, where that is more than this one's matter."""
    if is_throttle(failure):
        attempt.way.health.pause(attempt.key, now_us + to_us(failure.stated_s or PAUSE_S))
    elif failure.is_dead_key:
        attempt.way.health.pause(attempt.key, now_us + to_us(DEAD_KEY_S))


def is_out_of_time(call: Call, ask: Ask, failure: UpstreamError) -> bool:
    """The whole request's time was over, its caller's or ours for all attempts: that speaks of no target.

    A caller may be in any hurry, and take its answer as slowly as it likes.
    """
    return isinstance(failure, UpstreamTimeout) and monotonic() >= ask.until_s(call) - LATE_S
