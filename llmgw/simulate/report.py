"""The books as JSON, and as the tables that people read. Nothing in them depends on who ran it, or when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from llmgw._core.limiter import USD
from llmgw.ledger.show import aligned, usd_text
from llmgw.limits.rules import Limit
from llmgw.simulate.run import Outcome
from llmgw.simulate.tally import SHARED_SCOPES, KeyBook, Meter, Tally, limit_of

Row = dict[str, Any]
NOTHING: Final = "-"
KINDS: Final = {
    "Lease": "leases",
    "Settle": "settlements",
    "TakeSlots": "slots_taken",
    "GiveSlots": "slots_given",
    "Beat": "beats",
}


def quantile(sorted_values: list[int], share: float) -> int:
    """The smallest of them that so large a share does not exceed; 0 of none."""
    if not sorted_values:
        return 0
    return sorted_values[min(int(share * len(sorted_values)), len(sorted_values) - 1)]


def document(outcome: Outcome) -> Row:
    limits = list(limit_rows(outcome))
    return {
        "scenario": scenario_row(outcome),
        "keys": [
            {"tenant": tenant, "key": key} | key_row(book, central_book(outcome.central, tenant, key))
            for (tenant, key), book in sorted(outcome.tally.keys.items())
        ],
        "total": key_row(outcome.tally.total(), outcome.central.total() if outcome.central else None),
        "limits": limits,
        "fleet": fleet_row(outcome, limits),
    }


def scenario_row(outcome: Outcome) -> Row:
    scenario = outcome.scenario
    return {
        "machines": scenario.machines,
        "shared": scenario.is_shared,
        "seconds": scenario.length_s,
        "seed": scenario.seed,
        "rtt_ms": scenario.rtt_s * 1e3,
        "redis_loss": scenario.redis_loss,
        "outages": [outage.words for outage in scenario.outages],
    }


def central_book(central: Tally | None, tenant: str, key: str) -> KeyBook | None:
    return central.keys.get((tenant, key), KeyBook()) if central else None


def key_row(book: KeyBook, central: KeyBook | None) -> Row:
    waits_us = sorted(book.waits_us)
    row: Row = {
        "offered": book.offered,
        "admitted": book.admitted,
        "refused": book.refused.total(),
        "left": book.left,
        "queued": len(waits_us),
        "wait_p50_ms": quantile(waits_us, 0.5) / 1e3,
        "wait_p99_ms": quantile(waits_us, 0.99) / 1e3,
        "input_tokens": book.input_tokens,
        "output_tokens": book.output_tokens,
        "cost_usd": usd_text(book.usd_micro),
        "unpriced": book.unpriced,
        "refused_by": dict(sorted(book.refused.items())),
        "codes": dict(sorted(book.codes.items())),
    }
    if central is not None:
        row["under_admission"] = below(book.admitted, central.admitted)
    return row


def below(admitted: int, central: int) -> float:
    """Negative where the fleet admitted more requests than the one limiter did: smaller ones, then."""
    return round(1 - admitted / central, 6) if central else 0.0


# -- limits


def limit_rows(outcome: Outcome) -> Iterator[Row]:
    """One for each limit that a request met; of users, the one that came closest."""
    groups: dict[tuple[str, str], list[Meter]] = {}
    for meter in outcome.tally.meters.values():
        groups.setdefault(named(limit_of(meter.gauge)), []).append(meter)
    for name in sorted({*groups, *outcome.tally.refused}):
        meters = groups.get(name, [])
        if meters:
            yield limit_row(outcome, name, meters)
        else:
            yield {"tenant": name[0], "limit": name[1], "refused": outcome.tally.refused[name]}


def named(limit: Limit) -> tuple[str, str]:
    return ("" if limit.scope in SHARED_SCOPES else limit.tenant), limit.label


def limit_row(outcome: Outcome, name: tuple[str, str], meters: list[Meter]) -> Row:
    gauge, amount = meters[0].gauge, meters[0].gauge.limit
    row: Row = {
        "tenant": name[0],
        "limit": name[1],
        "amount": amount,
        "mode": "shadow" if gauge.is_shadow else "enforce",
        "subjects": len(meters),
        "admitted": sum(meter.admitted for meter in meters),
        "used": sum(meter.amount for meter in meters),
        "refused": outcome.tally.refused[name],
        "peak": ratio(max(meter.used.most for meter in meters), amount),
    }
    if gauge.is_shadow:
        row["would_have_refused"] = sum(outcome.shadow_refusals.get(one.gauge.key, 0) for one in meters)
    else:
        row["over_admission"] = round(ratio(max(meter.floor.most for meter in meters), amount) - 1, 6)
    if gauge.unit == USD:
        left = [amount - meter.used.at(outcome.end_us) for meter in meters]
        row["left_usd"] = usd_text(min(left))
    if gauge.is_shared and not gauge.is_user:
        row["stranded"] = round(sum(outcome.fleet.stranded(one.gauge.key, amount) for one in meters), 6)
    if outcome.central is not None:
        amounts = [
            outcome.central.meters[one.gauge.key].amount
            for one in meters
            if one.gauge.key in outcome.central.meters
        ]
        row["under_admission"] = below(row["used"], sum(amounts))
    return row


def ratio(used: int, limit: int) -> float:
    return round(used / limit, 6) if limit else 0.0


# -- the fleet


def fleet_row(outcome: Outcome, limits: list[Row]) -> Row:
    overs = [row["over_admission"] for row in limits if "over_admission" in row]
    row: Row = {"over_admission": max(overs) if overs else None}
    if outcome.central is None:
        return row
    fleet, tally, seconds = outcome.fleet, outcome.tally, outcome.scenario.length_s
    total = tally.total()
    lease_waits_us = sorted(tally.lease_waits_us)
    stranded = [row["stranded"] for row in limits if "stranded" in row]
    return row | {
        "under_admission": below(total.admitted, outcome.central.total().admitted),
        "central_admitted": outcome.central.total().admitted,
        "stranded_max": max(stranded, default=0.0),
        "leased_and_returned": ratio(fleet.returned, fleet.leased),
        "redis_commands": fleet.commands,
        "redis_commands_per_s": round(fleet.commands / seconds, 1),
        "redis_commands_per_s_peak": fleet.peak_commands,
        "redis_commands_per_request": ratio(fleet.commands, total.offered),
        **{f"redis_{word}_per_s": round(fleet.kinds[kind] / seconds, 1) for kind, word in KINDS.items()},
        "redis_round_trips_per_s": round(fleet.round_trips / seconds, 1),
        "waited_for_a_lease": ratio(len(lease_waits_us), total.admitted),
        "lease_wait_p50_ms": quantile(lease_waits_us, 0.5) / 1e3,
        "lease_wait_p99_ms": quantile(lease_waits_us, 0.99) / 1e3,
        "outages_seen": fleet.outages,
    }


def to_json(outcome: Outcome) -> str:
    return json.dumps(document(outcome), indent=2) + "\n"


# -- tables

KEY_COLUMNS: Final = (
    *("offered", "admitted", "refused", "left", "queued", "wait_p50_ms", "wait_p99_ms", "cost_usd"),
    "under_admission",
)
LIMIT_COLUMNS: Final = (
    *("amount", "mode", "admitted", "used", "refused", "would_have_refused", "peak", "over_admission"),
    *("under_admission", "stranded", "left_usd"),
)
PERCENT: Final = frozenset(
    (
        *("under_admission", "over_admission", "peak", "stranded", "stranded_max", "leased_and_returned"),
        "waited_for_a_lease",
    )
)


def to_table(outcome: Outcome) -> str:
    found = document(outcome)
    keys = [*found["keys"], {"tenant": "total", "key": ""} | found["total"]]
    reasons = [
        {"tenant": row["tenant"], "key": row["key"], "refused by": limit, "requests": count}
        for row in found["keys"]
        for limit, count in row["refused_by"].items()
    ]
    parts = [
        table(("tenant", "key"), KEY_COLUMNS, keys),
        table(("tenant", "key", "refused by"), ("requests",), reasons),
        table(("tenant", "limit"), LIMIT_COLUMNS, found["limits"]),
        "".join(
            f"{name:<28}{cell(name, value):>14}\n"
            for name, value in (found["scenario"] | found["fleet"]).items()
        ),
    ]
    return "\n".join(part for part in parts if part)


def table(words: tuple[str, ...], columns: Iterable[str], rows: list[Row]) -> str:
    """Columns that no row has anything for are left out."""
    if not rows:
        return ""
    shown = [name for name in columns if any(name in row for row in rows)]
    cells = [
        [*(row[word] or NOTHING for word in words), *(cell(name, row.get(name)) for name in shown)]
        for row in rows
    ]
    lines = aligned([[*words, *(name.replace("_", " ") for name in shown)], *cells], len(words))
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], ""])


def cell(name: str, value: object) -> str:
    if value is None or value == []:
        return NOTHING
    if name in PERCENT and isinstance(value, int | float):
        return f"{value:.2%}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(
            ":".join([f"{after:g}s+{length:g}s", *map(str, machines)]) for after, length, *machines in value
        )
    return str(value)


FORMATS: Final = {"table": to_table, "json": to_json}
