"""The configuration as the program reads it: one frozen tree, made by the loader alone.

    Config
    ├── server      Server     listeners, processes, sizes, ServerTimeouts, Admin, Overload
    ├── providers   {name: Provider}    Timeouts, Tls, Limits, Breaker, RetryBudget, HealthCheck
    ├── models      {name or glob: Model}    Targets, Score, Fallbacks, Retry, Hedge, Price, Limits
    ├── tenants     {name: Tenant}    Keys, Limits, Budgets, Users, Tags
    ├── routes      {glob: provider name}
    ├── queue       Queue
    ├── redis       Redis or None
    ├── ledger      Ledger
    ├── alerts      Alerts
    └── log         Log

Times are seconds (float), sizes bytes (int), prices pico-USD (int), budgets micro-USD (int). The
tree can be pickled: the supervisor hands it to the workers. It holds no gateway key in clear, and
its repr holds no credential at all. An alias is the word of the file where the program's word
differs. What bounds and accounts is in `limits`, what chooses and what meets failure in `routing`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from llmgw.config import fields as f
from llmgw.config import routing_fields as r
from llmgw.config.limits import Alerts, Budget, Ledger, Limits, Queue, Redis, Tag, Users
from llmgw.config.node import Node, name_entries
from llmgw.config.routing import (
    Breaker,
    BreakerOrOff,
    Canary,
    Degraded,
    Fallbacks,
    FallbacksOrList,
    HealthCheck,
    Hedge,
    Mirror,
    Overload,
    Price,
    Retry,
    RetryBudget,
    Score,
    Target,
)


def digest_of(clear: str) -> str:
    return hashlib.sha256(clear.encode("utf-8", "surrogatepass")).hexdigest()


class AdminKey(Node):
    """A gateway key as its digest. `key` in a file is the clear text, and ends here."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.update(
            properties={
                **schema["properties"],
                "key": {
                    "type": "string",
                    "minLength": 1,
                    "description": "the key itself; kept as its SHA-256 only",
                },
            },
            required=["name"],
            oneOf=[{"required": ["key"]}, {"required": ["key_sha256"]}],
        )
    )

    name: f.Label = Field(description="stands in the log instead of the key")
    sha256: f.Digest = Field(
        alias="key_sha256", description="SHA-256 of the key as 64 hex digits; or `key`, the key in clear"
    )

    @model_validator(mode="before")
    @classmethod
    def _clear_to_digest(cls, data: Any) -> Any:
        """Whether `key` itself is sound, and alone, is judged by `checks`, on the file's own text."""
        if not isinstance(data, dict) or "key" not in data:
            return data
        rest = {word: value for word, value in data.items() if word != "key"}
        return rest | {"key_sha256": digest_of(str(data["key"]))}


class Key(AdminKey):
    limits: Limits = Field(default=Limits(), description="what the key may use of its tenant's share")
    budgets: tuple[Budget, ...] = Field(default=(), description="what the key may spend")
    priority: f.PriorityClass = Field(
        default="interactive", description="interactive, or batch: served when nobody interactive waits"
    )
    max_wait_s: f.DurationOrZero = Field(
        default=0.0, alias="max_wait", description="how long its requests may wait at a limit"
    )


class Admin(Node):
    host: f.Host = Field(
        default="127.0.0.1", description="address of the admin listener; beyond loopback it needs a key"
    )
    port: f.Port = Field(default=9090, description="port of the admin listener; 0 = any free one")
    keys: tuple[AdminKey, ...] = Field(default=(), description="keys that open the admin listener")


class ServerTimeouts(Node):
    header: f.Duration = Field(default=10.0, description="for a request's head to arrive whole")
    body: f.Duration = Field(default=60.0, description="for a request's body to arrive whole")
    send: f.Duration = Field(default=60.0, description="for a slow client to take what is queued for it")
    keep_alive: f.Duration = Field(default=75.0, description="a silent connection between two requests")


class Server(Node):
    host: f.Host = Field(default="127.0.0.1", description="address that clients connect to")
    port: f.Port = Field(default=8080, description="port that clients connect to; 0 = any free one")
    workers: f.Workers = Field(
        default_factory=lambda: f.worker_count("auto"), description="processes; auto = one per core"
    )
    admin: Admin = Field(default=Admin(), description="metrics, dashboard and /admin")
    max_body: f.BodySize = Field(default=32 << 20, description="largest request body")
    max_head: f.HeadSize = Field(default=32 << 10, description="largest request line and headers together")
    drain: f.DurationOrZero = Field(default=30.0, description="how long open requests may finish at a stop")
    state_dir: f.FilePath = Field(default="", description="private directory of the shared segment")
    timeouts: ServerTimeouts = Field(default=ServerTimeouts(), description="against slow clients")
    overload: Overload = Field(default=Overload(), description="what a worker takes on before it refuses")


class Timeouts(Node):
    connect: f.Duration = Field(default=5.0, description="TCP and TLS to the provider")
    first_token: f.Duration = Field(default=30.0, description="from the request to the answer's first byte")
    idle: f.Duration = Field(default=60.0, description="silence within an answer")
    total: f.Duration = Field(default=300.0, description="the whole request, all attempts")


class Tls(Node):
    ca_file: f.FilePath | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's"
    )
    verify: f.Boolean = Field(default=True, description="false accepts any certificate: for tests only")


class Provider(Node):
    name: SkipJsonSchema[f.Label] = Field(alias="")
    dialect: f.Dialect = Field(description="the shape it speaks: openai, azure or mock")
    base_url: f.Url | None = Field(
        default=None,
        description="https://api.openai.com/v1 is openai's default; azure: https://NAME.openai.azure.com",
    )
    api_keys: tuple[f.Credential, ...] = Field(
        default=(), repr=False, description="several are balanced over"
    )
    api_version: f.ApiVersion | None = Field(
        default=None, description="azure only: the api-version sent with each call"
    )
    limits: Limits = Field(default=Limits(), description="what all of the gateway may use of it")
    timeouts: Timeouts = Field(default=Timeouts(), description="deadlines of one call")
    proxy: f.Proxy | None = Field(
        default=None,
        repr=False,
        description="egress proxy, or none; default from HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
    )
    tls: Tls = Field(default=Tls(), description="trust in the provider's certificate")
    connection_age: f.Duration = Field(
        default=55.0, description="keep-alive of an idle connection; below the provider's"
    )
    breaker: BreakerOrOff = Field(
        default=Breaker(), description="when a target of it is left alone; off: never"
    )
    retry_budget: RetryBudget = Field(default=RetryBudget(), description="what retries may add to its load")
    pacing: f.Boolean = Field(default=True, description="keep to the pace that its answers name")
    health_check: HealthCheck | None = Field(
        default=None, description="asks whether it is well, beside the requests; default: none"
    )


class Model(Node):
    name: SkipJsonSchema[f.ModelGlob] = Field(alias="")
    strategy: f.Strategy = Field(
        default="weighted", description="who of the targets of one priority: by weight, cost, latency, ..."
    )
    score: Score | None = Field(
        default=None, description="what counts for the strategy score, which it implies"
    )
    hash_on: r.HashOn = Field(
        default="conversation",
        description="what keeps to one target with the strategy hash: conversation, user or header:NAME",
    )
    targets: tuple[Target, ...] = Field(min_length=1, max_length=64, description="who can serve it")
    canary: Canary | None = Field(
        default=None, description="a share of its requests goes there; default: none"
    )
    mirror: Mirror | None = Field(
        default=None, description="a share is copied there, its answers dropped; default: none"
    )
    retry: Retry = Field(default=Retry(), description="further attempts after one that failed")
    hedge: Hedge | None = Field(
        default=None, description="a second target is asked when the first is late; default: none"
    )
    fallbacks: FallbacksOrList = Field(
        default=Fallbacks(), description="other models, when none of the targets can; a list, or one by cause"
    )
    degraded: Degraded | None = Field(
        default=None, description="what is answered when those cannot either; default: an error"
    )
    price: Price | None = Field(
        default=None, description="of its targets that name none; default: the price table that ships"
    )
    limits: Limits = Field(default=Limits(), description="what all tenants together may use of it")
    estimate: f.Estimate = Field(
        default="learned",
        description="a prompt's tokens before it is sent: learned from answers, or exact by the vocabulary",
    )
    max_input: f.Tokens | None = Field(
        default=None, description="tokens that a prompt may have; default: the table that ships"
    )
    max_output: f.Tokens | None = Field(
        default=None, description="tokens that an answer may have; default: the table that ships"
    )

    @model_validator(mode="before")
    @classmethod
    def _score_is_a_strategy(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "score" not in data or "strategy" in data:
            return data
        return data | {"strategy": "score"}


class Tenant(Node):
    name: SkipJsonSchema[f.Label] = Field(alias="")
    models: tuple[f.ModelGlob, ...] = Field(("*",), description="names and globs its keys may ask for")
    routes: tuple[f.RouteGlob, ...] | None = Field(
        default=None,
        description="paths its keys may use; default: all if models has *, else those that name a model",
    )
    keys: tuple[Key, ...] = Field(min_length=1, description="its gateway keys")
    limits: Limits = Field(default=Limits(), description="what all its keys together may use")
    budgets: tuple[Budget, ...] = Field(default=(), description="what all its keys together may spend")
    users: Users = Field(default=Users(), description="for each value of the request's user field")
    tags: dict[f.Label, Tag] = Field(
        default_factory=dict, description="for the tags that a request names in x-llmgw-tags"
    )
    weight: f.Weight = Field(default=1, description="its share where tenants wait for the same limit")


class Log(Node):
    path: f.FilePath = Field(default="-", description="file of the JSON lines; - is standard output")
    level: f.Level = Field(default="info", description="debug, info, warning or error")


class Config(Node):
    server: Server = Field(default=Server(), description="listeners and processes")
    providers: Annotated[dict[str, Provider], BeforeValidator(name_entries)] = Field(
        min_length=1, description="who answers"
    )
    models: Annotated[dict[str, Model], BeforeValidator(name_entries)] = Field(
        min_length=1, description="what clients ask for, by name or glob"
    )
    tenants: Annotated[dict[str, Tenant], BeforeValidator(name_entries)] = Field(
        min_length=1, description="who may ask"
    )
    routes: dict[f.RouteGlob, f.Label] = Field(
        default_factory=dict, description="provider of every other /v1 path; default: the only provider"
    )
    queue: Queue = Field(default=Queue(), description="waiting at a limit")
    redis: Redis | None = Field(
        default=None, description="shares limits and budgets between machines; default: this machine alone"
    )
    ledger: Ledger = Field(default=Ledger(), description="the record of what was used and what it cost")
    alerts: Alerts = Field(default=Alerts(), description="who is told of a budget that runs out")
    log: Log = Field(default=Log(), description="one JSON line a request")
