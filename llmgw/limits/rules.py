"""From the configuration to the gauges that a request must pass.

A gauge's row in the segment is named by its subject and word, so that it outlives reloads: raising a
limit keeps what was used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple, cast

from llmgw._core.limiter import CALENDAR, REQUESTS, SLOTS, TOKENS, USD, Gauge
from llmgw.config import Budget, Config, Limits, Tenant
from llmgw.limits.period import Calendar, Period

SECOND_US = 1_000_000
WINDOWS_US = {"s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86_400 * SECOND_US}
BUDGET = "budget"
# Users whose gauges are kept at hand, for each worker. A further one pays for being looked up.
USERS_KEPT = 10_000

Gauges = tuple[Gauge, ...]


class Limit(NamedTuple):
    """What a gauge limits, for messages and metrics: names of the configuration only."""

    scope: str  # provider, model, tenant, key, user or tag
    subject: str  # its name; "" for tenant and user
    tenant: str  # "" for provider and model
    word: str  # rpm, …, concurrent or budget
    amount: int
    period: str = ""  # of a budget, as written
    time_zone: str = ""
    alert_at: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """`tenant:tpm`, `key:web:budget:1d`: in metrics and alerts."""
        parts = (self.scope, self.subject, self.word, self.period)
        return ":".join(part for part in parts if part)


class Rules:
    """All gauges of one configuration. With `is_shared` what is enforced is leased from the fleet's store."""

    def __init__(self, config: Config, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._tenants = config.tenants
        self.providers = {
            name: tuple(self._limits("provider", name, "", provider.limits))
            for name, provider in config.providers.items()
        }
        self.models = {
            name: tuple(self._limits("model", name, "", model.limits))
            for name, model in config.models.items()
        }
        self.tenants = {name: self._own("tenant", "", tenant) for name, tenant in config.tenants.items()}
        self.keys = {
            (name, key.name): tuple(self._gauges("key", key.name, name, key.limits, key.budgets))
            for name, tenant in config.tenants.items()
            for key in tenant.keys
        }
        self.tags = {
            (name, tag): tuple(self._gauges("tag", tag, name, entry.limits, entry.budgets))
            for name, tenant in config.tenants.items()
            for tag, entry in tenant.tags.items()
        }
        self._spares = {
            name: tuple(
                self._gauges(
                    "user", "", name, tenant.users.limits, tenant.users.budgets, tenant.users.tracked
                )
            )
            for name, tenant in config.tenants.items()
        }
        self._users: dict[tuple[str, str], Gauges] = {}

    def caller(self, tenant: str, key: str) -> Gauges:
        """Of every request of this key, whoever serves it."""
        return self.tenants[tenant] + self.keys[tenant, key]

    def target(self, provider: str, model: str) -> Gauges:
        """Of what this provider serves of this model of the configuration ("": it names none)."""
        return self.providers.get(provider, ()) + self.models.get(model, ())

    def user(self, tenant: str, user: str) -> Gauges:
        """Of one user of a tenant; () where the tenant limits no users."""
        spares = self._spares[tenant]
        if not spares:
            return ()
        found = self._users.get((tenant, user))
        if found is None:
            if len(self._users) >= USERS_KEPT:
                self._users.clear()
            found = self._users[tenant, user] = tuple(self._of_user(tenant, user, spare) for spare in spares)
        return found

    def tagged(self, tenant: str, tags: Iterable[str]) -> Gauges:
        """Of those tags, each once, that the tenant limits."""
        return tuple(gauge for tag in dict.fromkeys(tags) for gauge in self.tags.get((tenant, tag), ()))

    def forget_users(self) -> None:
        """Another period has begun: gauges of users are made anew, in it."""
        self._users.clear()

    def calendar(self) -> Calendar:
        """Of the gauges whose period is a calendar's. They have none before its first `refresh`."""
        return Calendar(
            (gauge, cast("Period", gauge.info.period), gauge.info.time_zone)
            for gauge in self.configured()
            if gauge.window_us == CALENDAR and isinstance(gauge.info, Limit)
        )

    def configured(self) -> Iterator[Gauge]:
        """Every gauge but those of single users."""
        for group in (self.providers, self.models, self.tenants, self.keys, self.tags, self._spares):
            for gauges in group.values():
                yield from gauges

    def _own(self, scope: str, subject: str, tenant: Tenant) -> Gauges:
        return tuple(self._gauges(scope, subject, tenant.name, tenant.limits, tenant.budgets))

    def _gauges(
        self,
        scope: str,
        subject: str,
        tenant: str,
        limits: Limits,
        budgets: Iterable[Budget],
        tracked: int = 0,
    ) -> Iterator[Gauge]:
        yield from self._limits(scope, subject, tenant, limits, tracked)
        for budget in budgets:
            limit = Limit(
                scope,
                subject,
                tenant,
                BUDGET,
                budget.usd_micro,
                budget.period,
                budget.time_zone,
                budget.alert_at,
            )
            window_us = round(budget.window_s * SECOND_US) or CALENDAR
            yield self._gauge(limit, USD, window_us, budget.is_shadow, tracked)

    def _limits(
        self, scope: str, subject: str, tenant: str, limits: Limits, tracked: int = 0
    ) -> Iterator[Gauge]:
        for word, amount in limits.items():
            unit, window_us = unit_of(word)
            limit = Limit(scope, subject, tenant, word, amount.limit)
            yield self._gauge(limit, unit, window_us, amount.is_shadow, tracked)

    def _gauge(self, limit: Limit, unit: int, window_us: int, is_shadow: bool, tracked: int) -> Gauge:
        key = key_of(limit)
        return Gauge(
            key,
            unit,
            window_us,
            limit.amount,
            is_shadow=is_shadow,
            is_shared=self._is_shared and not is_shadow,
            info=limit,
            tracked=tracked,
        )

    def _of_user(self, tenant: str, user: str, spare: Gauge) -> Gauge:
        limit = spare.info
        assert isinstance(limit, Limit)
        gauge = Gauge(
            key_of(limit, user),
            spare.unit,
            spare.window_us,
            spare.limit,
            is_shadow=spare.is_shadow,
            is_shared=spare.is_shared,
            info=limit,
            spare=spare,
        )
        gauge.period_start_us, gauge.period_end_us = spare.period_start_us, spare.period_end_us
        return gauge


def unit_of(word: str) -> tuple[int, int]:
    """(unit, window in microseconds; 0 where there is none)."""
    if word == "concurrent":
        return SLOTS, 0
    return (REQUESTS if word[0] == "r" else TOKENS), WINDOWS_US[word[2]]


def key_of(limit: Limit, user: str = "") -> bytes:
    """Names the row. What was used outlives another amount of the limit, not another word or period."""
    parts = (limit.scope, limit.tenant, limit.subject, user, limit.word, limit.period, limit.time_zone)
    named = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(named.encode("utf-8", "surrogatepass")).digest()[:16]
