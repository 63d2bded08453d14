"""A snapshot of limits, in the words of the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from llmgw._core.limiter import USD, Gauge
from llmgw.limits.rules import Limit, Rules

# `Part` in _core/limiter.pxd: key, used, limit, asked, wait in microseconds.
PART: Final = Struct("<16s4q")
UNITS: Final = ("requests", "tokens", "usd", "slots")
MICRO: Final = 1_000_000
# The machine's lease is short; the fleet may have more.
LACKING_US: Final = -3


def gauges_of(rules: Rules, tenant: str, key: str, user: str | None) -> list[Gauge]:
    """Every gauge that a request of theirs may have met: of thousands of tenants only one's."""
    if tenant not in rules.tenants:
        return []
    groups = [
        *rules.providers.values(),
        *rules.models.values(),
        rules.tenants[tenant],
        rules.keys.get((tenant, key), ()),
        *(gauges for (owner, _), gauges in rules.tags.items() if owner == tenant),
        rules.user(tenant, user) if user else (),
    ]
    return [gauge for gauges in groups for gauge in gauges]


def shown_limits(snapshot: bytes, gauges: Iterable[Gauge]) -> list[dict[str, object]]:
    """What is of no limit that there is now has null for its name: the configuration is another one since."""
    by_key = {gauge.key: gauge for gauge in gauges}
    whole_bytes = len(snapshot) // PART.size * PART.size
    return [
        shown_limit(by_key.get(key), used, limit, asked, wait_us)
        for key, used, limit, asked, wait_us in PART.iter_unpack(snapshot[:whole_bytes])
    ]


def shown_limit(gauge: Gauge | None, used: int, limit: int, asked: int, wait_us: int) -> dict[str, object]:
    """Amounts in the limit's unit, money in USD. `used` is without the request."""
    shown: dict[str, object] = {"limit": label_of(gauge) if gauge is not None else None}
    if gauge is not None:
        shown["unit"] = UNITS[gauge.unit]
    is_money = gauge is not None and gauge.unit == USD
    for name, amount in (("used", used), ("asked", asked), ("of", limit)):
        shown[name] = amount / MICRO if is_money else amount
    shown["refused"] = wait_us not in {0, LACKING_US}
    shown["wait_ms"] = wait_us / 1e3 if wait_us > 0 else None
    if wait_us == LACKING_US:
        shown["needs_lease"] = True
    if gauge is not None and gauge.is_shadow:
        shown["shadow"] = True
    return shown


def label_of(gauge: Gauge) -> str:
    limit = gauge.info
    assert isinstance(limit, Limit)
    return limit.label
