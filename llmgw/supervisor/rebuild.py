"""Counters of the segment out of the ledger, where the segment was lost and the ledger was not."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from llmgw._core.limiter import CALENDAR, REQUESTS, TOKENS, USD
from llmgw.ledger import Reader, Record
from llmgw.limits.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw._core.limiter import Gauge, Limiter
    from llmgw.config import Config

logger = logging.getLogger(__name__)

MONTH_US: Final = 32 * 86_400 * 1_000_000  # a calendar period is not longer


def rebuild(config: Config, limiter: Limiter) -> None:
    """Charges the gauges with what the ledger has for their windows. Logs what cannot be read."""
    rules = Rules(config)
    rules.calendar().refresh(time.time())
    reach_us = max((span_us(gauge) for gauge in rules.configured()), default=0)
    if not reach_us:
        return
    count = 0
    try:
        for record in Reader(config.ledger.path, time.time() - reach_us / 1e6):
            count += charge(rules, limiter, record)
    except FileNotFoundError:  # the first start: there is nothing to restore
        pass
    except OSError as error:
        logger.error("ledger: %s: %s", error.filename, error.strerror)
    if count:
        logger.warning(
            "the counters of limits and budgets were lost; %d records of the ledger restored them", count
        )


def span_us(gauge: Gauge) -> int:
    return MONTH_US if gauge.window_us == CALENDAR else gauge.window_us


def charge(rules: Rules, limiter: Limiter, record: Record) -> bool:
    """Whether the record counted for any gauge."""
    at_us = int(datetime.fromisoformat(record["ts"]).timestamp() * 1e6)
    tokens = (record["input_tokens"] or 0) + (record["output_tokens"] or 0)
    amounts = {REQUESTS: 1, TOKENS: tokens, USD: record["cost_usd_micro"] or 0}
    counted = False
    for gauge in gauges_of(rules, record):
        amount = amounts.get(gauge.unit, 0)
        if amount:
            limiter.charge(gauge, at_us, amount, limiter.now_us())
            counted = True
    return counted


def gauges_of(rules: Rules, record: Record) -> Iterator[Gauge]:
    """Those that the attempt passed, as far as the configuration still has them."""
    yield from rules.target(record["provider_used"] or "", record["model"] or "")
    if not record["charged"]:
        return
    tenant, key = record["tenant_id"] or "", record["key_name"] or ""
    if (tenant, key) not in rules.keys:
        return
    yield from rules.caller(tenant, key)
    if record["user"]:
        yield from rules.user(tenant, record["user"])
    yield from rules.tagged(tenant, record["tags"] or ())
