"""Requests that are over, as the workers' rings in the segment remember them."""

from __future__ import annotations

from typing import Any, Final

import orjson

from llmgw._core.recent import find, latest
from llmgw._core.segment import Segment
from llmgw.explain.limits import gauges_of, shown_limits
from llmgw.limits.rules import Rules

LISTED_MAX: Final = 100
LISTED: Final = (
    "request_id",
    "ts",
    "tenant_id",
    "key_name",
    "model_requested",
    "status",
    "error_code",
    "cost_usd",
    "latency_ms",
)


def remembered(segment: Segment, request_id: str, rules: Rules) -> dict[str, object] | None:
    """None: not known, or not any more."""
    found = find(segment, request_id)
    if found is None:
        return None
    line, route, limits = found
    facts: dict[str, Any] = orjson.loads(line) if line else {"request_id": request_id}
    gauges = gauges_of(rules, facts.get("tenant_id", ""), facts.get("key_name", ""), facts.get("user"))
    return {
        "request": facts,
        "route": steps(route.decode(), facts),
        "limits": shown_limits(limits, gauges),
        "cost_usd": facts.get("cost_usd"),
    }


def listed(segment: Segment) -> list[dict[str, object]]:
    """The latest requests of all workers, the newest first."""
    lines = [
        orjson.loads(line)
        for slot in range(segment.slots)
        for line, _, _ in latest(segment, slot, LISTED_MAX)
        if line
    ]
    lines.sort(key=lambda facts: str(facts["ts"]), reverse=True)
    return [{name: facts[name] for name in LISTED} for facts in lines[:LISTED_MAX]]


def steps(route: str, facts: dict[str, Any]) -> list[dict[str, str]]:
    """`a/x:503,b/y:ok`, step by step. Where the first target served it, its log line says enough."""
    if not route:
        if not facts.get("provider_used"):
            return []
        return [{"target": f"{facts['provider_used']}/{facts['model_used']}", "result": ending(facts)}]
    parts = [step.rpartition(":") for step in route.split(",")]
    trail = [{"target": target, "result": word} for target, _, word in parts]
    if trail[-1]["result"] == "ok":
        trail[-1]["result"] = ending(facts)
    return trail


def ending(facts: dict[str, Any]) -> str:
    """How the last attempt ended: an answer may break off after it began."""
    if facts.get("client_gone"):
        return "cancelled"
    if facts.get("error_code") == "upstream_timeout":
        return "timeout"
    if facts.get("error_code"):
        return "broken"
    status = int(facts.get("status", 0))
    return str(status) if status >= 400 else "ok"
