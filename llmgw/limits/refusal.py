"""What a client is told when a limit said no. The sentences follow OpenAI's, which clients parse.

Limits of providers and models are the operator's: their numbers are told, never whose they are.
"""

from __future__ import annotations

from typing import Protocol, cast

from llmgw._core.limiter import NEVER
from llmgw.errors import GatewayError, PriceUnknown, QueueFull, QueueTimeout, QuotaExceeded, RateLimited
from llmgw.limits.line import Refusal
from llmgw.limits.words import WORDS, duration_text, money_text, period_text

BUDGET = "budget"
UNKNOWN_S = 1.0
# Whose budget it is, as far as it is the caller's own.
OWNERS = {
    "tenant": "the budget",
    "key": "this key's budget",
    "user": "this user's budget",
    "tag": "this tag's budget",
}


class Limit(Protocol):
    """What a gauge's `info` tells of its limit."""

    @property
    def scope(self) -> str: ...
    @property
    def word(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def period(self) -> str: ...


def limit_of(refusal: Refusal) -> Limit:
    return cast(Limit, refusal.gauge.info)


def refused(refusal: Refusal, model: str, tenant: str) -> GatewayError:
    """For a caller that does not wait."""
    limit = limit_of(refusal)
    if limit.word == BUDGET:
        return _quota_exceeded(refusal, limit, tenant)
    word = WORDS[limit.word]
    where = f"for {model} in organization {tenant} on {word.name}: Limit {limit.amount}"
    if refusal.wait_us == NEVER and word.kind == "tokens":
        return RateLimited(
            f"Request too large {where}, Requested {refusal.requested}.", kind=word.kind, should_retry=False
        )
    return RateLimited(
        f"Rate limit reached {where}, Used {refusal.used}, Requested {refusal.requested}.{_again(refusal)}",
        kind=word.kind,
        should_retry=refusal.wait_us != NEVER,
        retry_after_s=_retry_after_s(refusal),
    )


def limit_lines(refusal: Refusal) -> bytes:
    """The `x-ratelimit-…` header lines of a refusal, where the limit is one of requests or tokens in time."""
    limit = limit_of(refusal)
    if limit.word not in WORDS or limit.word == "concurrent":
        return b""
    kind = WORDS[limit.word].kind
    remaining = max(limit.amount - refusal.used, 0)
    reset = duration_text(refusal.reset_us)
    return (
        f"x-ratelimit-limit-{kind}: {limit.amount}\r\n"
        f"x-ratelimit-remaining-{kind}: {remaining}\r\n"
        f"x-ratelimit-reset-{kind}: {reset}\r\n"
    ).encode()


def waited_in_vain(refusal: Refusal, model: str, tenant: str) -> GatewayError:
    """For a caller that was ready to wait, but not for so long."""
    limit = limit_of(refusal)
    if limit.word == BUDGET or refusal.wait_us == NEVER:
        return refused(refusal, model, tenant)
    return QueueTimeout(
        f"Request for {model} in organization {tenant} has waited, or would have to wait, longer than it may"
        f" on {WORDS[limit.word].name}: Limit {limit.amount}, Used {refusal.used},"
        f" Requested {refusal.requested}.{_again(refusal)}",
        retry_after_s=_retry_after_s(refusal),
    )


def found_no_place(refusal: Refusal, model: str, tenant: str) -> GatewayError:
    """For a caller that was ready to wait where as many wait as may."""
    limit = limit_of(refusal)
    if limit.word == BUDGET or refusal.wait_us == NEVER:
        return refused(refusal, model, tenant)
    return QueueFull(
        f"Too many requests are waiting for {model} in organization {tenant} on {WORDS[limit.word].name}:"
        f" Limit {limit.amount}, Used {refusal.used}, Requested {refusal.requested}.{_again(refusal)}",
        retry_after_s=_retry_after_s(refusal),
    )


def lost_its_place(refusal: Refusal) -> QueueFull:
    """For a caller that waited until the queue was full and somebody else came before it."""
    return QueueFull(
        "Too many requests are waiting, and others had a better claim to the place.",
        retry_after_s=_retry_after_s(refusal),
    )


def price_unknown(model: str) -> PriceUnknown:
    return PriceUnknown(
        f"The price of {model} is not known here, so that a request for it cannot be held to a budget."
    )


def _quota_exceeded(refusal: Refusal, limit: Limit, tenant: str) -> QuotaExceeded:
    owner = OWNERS.get(limit.scope, "a budget")
    budget = f"{owner} of {money_text(limit.amount)} {period_text(limit.period)}"
    if refusal.wait_us == NEVER:
        return QuotaExceeded(f"This request may cost more than {budget} in organization {tenant}.")
    opens = (
        f" It has room for this request in {duration_text(refusal.wait_us)}." if refusal.wait_us > 0 else ""
    )
    return QuotaExceeded(
        f"You exceeded your current quota: {budget} in organization {tenant} is used up.{opens}"
    )


def _again(refusal: Refusal) -> str:
    if refusal.used + refusal.requested <= refusal.gauge.limit:
        return " Others are waiting for what is left. Please try again in a moment."
    return f" Please try again in {duration_text(refusal.wait_us)}." if refusal.wait_us >= 0 else ""


def _retry_after_s(refusal: Refusal) -> float | None:
    """Nobody knows when others give back what they hold: a second is what callers then wait."""
    if refusal.wait_us == NEVER:
        return None
    return refusal.wait_us / 1e6 if refusal.wait_us >= 0 else UNKNOWN_S
