"""The nodes of the tree that bound and account: limits, budgets, the queue, and what they lean on.

A limit is a count, a budget is money. `is_shadow` marks what is only watched: it counts, and would
have refused, but lets everything pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema

from llmgw.config import fields as f
from llmgw.config import units
from llmgw.config.node import Node

# In the order of their windows. Requests, tokens, and requests at the same time.
REQUEST_WORDS = ("rps", "rpm", "rph", "rpd")
TOKEN_WORDS = ("tps", "tpm", "tph", "tpd")
LIMIT_WORDS = (*REQUEST_WORDS, *TOKEN_WORDS, "concurrent")


class Amount(Node):
    limit: f.Count = Field(description="so many in the window; 0 refuses everything")
    is_shadow: f.Mode = Field(
        default=False, alias="mode", description="enforce, or shadow: count and report, refuse nothing"
    )


def read_amount(value: object) -> object:
    """A file says 600, or {limit: 600, mode: shadow}."""
    if value is None or isinstance(value, dict | Amount):
        return value
    try:
        return Amount(limit=f.count(value))
    except ValueError as error:
        raise ValueError(f"{error}, or a mapping of limit and mode") from None


class OrCount:
    """What an editor is told of an amount: the mapping, or its limit alone."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        mapping = handler(core_schema)["anyOf"][0]
        return {"anyOf": [mapping, *f.json_integer(0, f.COUNT_MAX)["anyOf"]]}


MaybeAmount = Annotated[Amount | None, BeforeValidator(read_amount), OrCount()]


class Limits(Node):
    """Each window slides. A word that is None limits nothing."""

    is_shadow: f.Mode = Field(
        default=False, alias="mode", description="shadow marks every limit of this block as only watched"
    )
    rps: MaybeAmount = Field(default=None, description="requests per second")
    rpm: MaybeAmount = Field(default=None, description="requests per minute")
    rph: MaybeAmount = Field(default=None, description="requests per hour")
    rpd: MaybeAmount = Field(default=None, description="requests per 24 hours")
    tps: MaybeAmount = Field(default=None, description="tokens per second, input and output together")
    tpm: MaybeAmount = Field(default=None, description="tokens per minute")
    tph: MaybeAmount = Field(default=None, description="tokens per hour")
    tpd: MaybeAmount = Field(default=None, description="tokens per 24 hours")
    concurrent: MaybeAmount = Field(default=None, description="requests at the same time")

    @field_validator(*LIMIT_WORDS)
    @classmethod
    def _follow_the_block(cls, amount: Amount | None, info: ValidationInfo) -> Amount | None:
        if amount is None or not info.data.get("is_shadow"):
            return amount
        return amount.model_copy(update={"is_shadow": True})

    def items(self) -> Iterator[tuple[str, Amount]]:
        """The limits that are set, each with its word."""
        for word in LIMIT_WORDS:
            amount: Amount | None = getattr(self, word)
            if amount is not None:
                yield word, amount


def ascending(fractions: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(fractions)):
        raise ValueError("fractions in ascending order, each once")
    return fractions


class Budget(Node):
    usd_micro: f.Usd = Field(alias="amount", description="USD, as decimal text; 0 refuses everything")
    period: f.Period = Field(
        description="1m to 366d, which slides; or day or month, by the calendar of time_zone"
    )
    time_zone: f.TimeZone = Field(default="UTC", description="IANA name; with day and month only")
    alert_at: Annotated[tuple[f.Fraction, ...], AfterValidator(ascending)] = Field(
        default=(), description="fractions of the amount, above 0 to 1, at which to raise an alert"
    )
    is_shadow: f.Mode = Field(
        default=False, alias="mode", description="enforce, or shadow: count and report, refuse nothing"
    )

    @property
    def window_s(self) -> float:
        """0.0 for a period of the calendar."""
        return 0.0 if self.period in units.CALENDAR_PERIODS else units.duration_s(self.period)


class Users(Node):
    limits: Limits = Field(default=Limits(), description="what each user may use")
    budgets: tuple[Budget, ...] = Field(default=(), description="what each user may spend")
    tracked: f.Tracked = Field(
        default=1000, description="users counted one by one; all beyond share one user's limits"
    )


class Tag(Node):
    limits: Limits = Field(default=Limits(), description="what all requests with the tag may use")
    budgets: tuple[Budget, ...] = Field(default=(), description="what all requests with the tag may spend")


class Queue(Node):
    max_waiting: f.Waiting = Field(
        default=1000, description="requests that may wait at a time; 0 lets nobody wait"
    )
    max_wait_s: f.DurationOrZero = Field(
        default=600.0, alias="max_wait", description="longest that any request may wait"
    )


class Redis(Node):
    url: f.RedisUrl = Field(
        repr=False, description="redis:// rediss:// unix:// valkey://, with +sentinel or +cluster for those"
    )
    prefix: f.Label = Field(default="llmgw", description="begins every key; one for each fleet")
    deadline_s: f.Duration = Field(default=0.04, alias="deadline", description="for one command's answer")
    grace_s: f.DurationOrZero = Field(
        default=10.0, alias="grace", description="without Redis, how long budgets stay open"
    )


class Ledger(Node):
    path: f.FilePath = Field(default="", description="directory of the ledger; default: below state_dir")
    sync_s: f.Duration = Field(default=1.0, alias="sync", description="how often records are synced to disk")
    max_file_bytes: f.LedgerSize = Field(
        default=64 << 20, alias="max_file", description="size at which the next file begins"
    )
    retention_s: f.Duration = Field(
        default=90 * 86_400.0, alias="retention", description="how long a finished file is kept"
    )


class Alerts(Node):
    webhook: f.Webhook | None = Field(
        default=None, repr=False, description="URL that gets a POST with each alert; default: none"
    )
