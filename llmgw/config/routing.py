"""The nodes of the tree that choose who answers, and that say what happens when somebody fails.

Who is asked: Target, Price, Score, Canary, Mirror. What is known of their health: Breaker, HealthCheck.
What follows a failure: Retry, RetryBudget, Hedge, Fallbacks, Degraded. What comes before all of it:
Overload.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema

from llmgw.config import fields as f
from llmgw.config import routing_fields as r
from llmgw.config import units
from llmgw.config.node import Node

OFF = "off"
# By why an attempt failed. The first three follow `default` where they are not named themselves;
# another model need not take a prompt that this one found too long, or refused.
FALLBACK_CLASSES = ("rate_limit", "timeout", "server_error", "context_length", "content_policy")
DEFAULT_CLASSES = frozenset({"rate_limit", "timeout", "server_error"})
FALLBACKS_MAX = 16


class Price(Node):
    """pico-USD per token or request. The file gives USD per million tokens ("0.15" is 150000), and
    USD per request ("0.01" is 10**10)."""

    input_pusd: f.Money = Field(alias="input", description="USD per million input tokens")
    output_pusd: f.Money = Field(alias="output", description="USD per million output tokens")
    cached_input_pusd: f.Money = Field(
        alias="cached_input",
        default_factory=lambda known: known["input_pusd"],
        description="USD per million input tokens read from the provider's cache; default: as input",
    )
    request_pusd: f.RequestMoney = Field(
        default=0, alias="request", description="USD per request, beside the tokens"
    )

    @property
    def per_unit(self) -> tuple[int, int, int, int]:
        """Per input, cached input and output token, and per request."""
        return (self.input_pusd, self.cached_input_pusd, self.output_pusd, self.request_pusd)


class Upstream(Node):
    provider: f.Label = Field(description="a name from providers")
    model: f.ModelName | None = Field(
        default=None, description="the provider's name for it; default: as asked"
    )
    price: Price | None = Field(default=None, description="what it costs there; default: as its model")


class Target(Upstream):
    weight: f.Weight = Field(default=1, description="share among the targets of one priority")
    priority: f.Priority = Field(default=1, description="1 is tried first")
    quality: r.Share = Field(default=0.5, description="0 to 1, for the strategy score")


class Score(Node):
    """How much each counts against the others; 0 leaves it out."""

    cost: r.Importance = Field(default=0.0, description="a low price of the request")
    latency: r.Importance = Field(default=0.0, description="a short time to the first token")
    quality: r.Importance = Field(default=0.0, description="the quality of the target, as configured")


class Breaker(Node):
    """`enabled` is False for a file's `off`, and no key of a file."""

    enabled: SkipJsonSchema[bool] = Field(default=True, alias="")
    failures: r.Times = Field(default=5, description="failures in a row that open it")
    failure_rate: f.Fraction = Field(
        default=0.5, description="share of failed requests in the window that opens it, above 0 to 1"
    )
    min_requests: r.Requests = Field(
        default=20, description="requests in the window before failure_rate counts"
    )
    window_s: r.Window = Field(default=10.0, alias="window", description="what failure_rate looks back on")
    slow_s: r.Span = Field(
        default=0.0,
        alias="slow",
        description="a slower call counts as failed for failure_rate; default: none",
    )
    open_s: r.Span = Field(default=5.0, alias="open", description="how long it stays open at first")
    max_open_s: r.Span = Field(
        default=60.0, alias="max_open", description="how long at most, doubled with each failed probe"
    )
    successes: r.Times = Field(default=2, description="good probes that close it")
    probe_every_s: r.Span = Field(
        default=1.0, alias="probe_every", description="half open, one request in this time and machine"
    )


def read_breaker(value: object) -> object:
    """A file says {failures: 3}, or off."""
    if value is None or isinstance(value, dict | Breaker):
        return value
    if value != OFF:
        raise ValueError("off, or a mapping")
    return Breaker(enabled=False)


class OrOffSchema:
    """What an editor is told of a breaker: the mapping, or `off`."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(core_schema), {"const": OFF}, f.EXPANDED]}


BreakerOrOff = Annotated[Breaker, BeforeValidator(read_breaker), OrOffSchema()]


class RetryBudget(Node):
    """Of one provider and machine, over the last 10 s: retries <= ratio of its requests + per_second."""

    ratio: r.Share = Field(default=0.2, description="retries for each request, 0 to 1")
    per_second: r.Rate = Field(default=10.0, description="retries per second beyond that")


class HealthCheck(Node):
    path: r.CheckPath = Field(
        default="/models", description="below base_url; gets a GET with the provider's key"
    )
    every_s: r.Window = Field(default=10.0, alias="every", description="from one check to the next")
    timeout_s: r.Span = Field(
        default=2.0, alias="timeout", description="for its answer; no longer than every"
    )


MaybeNames = Annotated[tuple[f.ModelName, ...] | None, Field(max_length=FALLBACKS_MAX)]


class Fallbacks(Node):
    """Names of models, in order. None: not named, which `of` resolves."""

    default: MaybeNames = Field(
        default=None, description="after rate_limit, timeout and server_error, unless named here"
    )
    rate_limit: MaybeNames = Field(
        default=None, description="when the providers' limits, or ours for them, have no room"
    )
    timeout: MaybeNames = Field(default=None, description="when they are too slow")
    server_error: MaybeNames = Field(
        default=None, description="when they fail, break off, cannot be reached or refuse our key"
    )
    context_length: MaybeNames = Field(
        default=None, description="when the prompt is too long for them; never by default"
    )
    content_policy: MaybeNames = Field(
        default=None, description="when their policy refuses the prompt; never by default"
    )

    def of(self, cause_class: str) -> tuple[str, ...]:
        """`cause_class` is one of FALLBACK_CLASSES."""
        named: tuple[str, ...] | None = getattr(self, cause_class)
        if named is None and cause_class in DEFAULT_CLASSES:
            named = self.default
        return named or ()


def read_fallbacks(value: object) -> object:
    """A file says [a, b], or {default: [a], rate_limit: [b]}."""
    if value is None or isinstance(value, dict | Fallbacks):
        return value
    try:
        return Fallbacks.model_validate({"default": value})
    except ValueError:
        raise ValueError(
            f"up to {FALLBACKS_MAX} names of models, no globs, or a mapping of such lists"
        ) from None


class OrListSchema:
    """What an editor is told of fallbacks: the mapping, or the list of `default` alone."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = {"type": "array", "maxItems": FALLBACKS_MAX, "items": f.json_text(f.MODEL)}
        return {"anyOf": [handler(core_schema), names]}


FallbacksOrList = Annotated[Fallbacks, BeforeValidator(read_fallbacks), OrListSchema()]


class Retry(Node):
    max_attempts: r.Attempts = Field(
        default=3, description="requests to its targets for one of a client; 1 tries nothing again"
    )
    base_delay_s: r.Delay = Field(
        default=1.0,
        alias="base_delay",
        description="first wait before the same target, at most; then doubled",
    )
    max_delay_s: r.Delay = Field(default=30.0, alias="max_delay", description="longest such wait")


class Degraded(Node):
    message: r.Message = Field(description="the answer's text; no default")


class Hedge(Node):
    after: r.HedgeAfter = Field(
        default="p95", description="p50 to p99.9 of the time to the first token, or a duration"
    )
    max_extra: f.Fraction = Field(
        default=0.05, description="second requests for each first one, above 0 to 1"
    )

    @property
    def after_share(self) -> float:
        """0.95 for p95; 0.0 where `after` is a duration."""
        match = r.QUANTILE.fullmatch(self.after)
        return round(float(match[1]) / 100, 3) if match else 0.0

    @property
    def after_s(self) -> float:
        """0.0 where `after` is a quantile."""
        return 0.0 if self.after_share else units.duration_s(self.after)


class Side(Node):
    upstream: Upstream = Field(alias="target", description="who is asked")

    @property
    def target(self) -> Target:
        return Target.model_construct(**dict(self.upstream))


class Mirror(Side):
    share: r.Share = Field(default=0.1, description="of the requests that are copied to it, 0 to 1")


class Canary(Side):
    share: r.Share = Field(default=0.05, description="of the requests that are moved to it, 0 to 1")


class Overload(Node):
    """Of one worker. Beyond any of them it refuses, before it has done any work."""

    max_inflight: r.Inflight = Field(default=10_000, description="requests at a time in each worker")
    max_memory_bytes: r.Memory = Field(
        default=0,
        alias="max_memory",
        description="of each worker; auto: its share of four fifths of what there is",
    )
    max_lag_s: r.Delay = Field(
        default=0.5, alias="max_lag", description="of the event loop; 0s: whatever it is"
    )
