"""Whether the limits and budgets of a file make sense together: mistakes, and notices of what is
legal and may still surprise.

As in `checks`, the file's own data is walked. A block is judged once its own fields are sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from llmgw.config import units
from llmgw.config.checks import entries, list_in, mapping
from llmgw.config.encodings import encoding_of
from llmgw.config.globs import GlobSet, is_glob
from llmgw.config.limits import LIMIT_WORDS, REQUEST_WORDS, TOKEN_WORDS, Budget, Limits, Queue, Users
from llmgw.config.node import maybe_node
from llmgw.config.prices import price_of
from llmgw.config.problems import Path, Problems
from llmgw.config.tree import Config, Tenant

GAUGES_MAX = 32  # limits and budgets that one admission takes; the size of the limiter's tables
TAGS_MAX = 4  # tags that one request may name
LIMITS_MAX = 7500  # of the 8,192 rows that the segment has for what the configuration names
USER_ROWS = 8192  # and for users
REFUSES_ALL = "0 refuses every request"


def check_limits(data: dict[str, Any], problems: Problems) -> None:
    for path, holder in _holders(data):
        _check_block((*path, "limits"), mapping(holder, "limits"), problems)
        _check_budgets((*path, "budgets"), list_in(holder, "budgets"), problems)
    _note_keys(data, problems)
    _check_waits(data, problems)
    _check_users(data, problems)
    _check_rows(data, problems)
    for tenant, count in worst_cases(data).items():
        if count > GAUGES_MAX:
            found = f"{count} limits and budgets that may apply to one request of this tenant"
            problems.add(("tenants", tenant), f"at most {GAUGES_MAX}", found=found, aside=True)


def _check_users(data: dict[str, Any], problems: Problems) -> None:
    for name, tenant in entries(data, "tenants"):
        for index, budget in enumerate(list_in(mapping(tenant, "users"), "budgets")):
            if isinstance(budget, dict) and "alert_at" in budget:
                path: Path = ("tenants", name, "users", "budgets", index, "alert_at")
                problems.add(
                    path, "no such key: alerts are for budgets of tenants, keys and tags", found="alert_at"
                )


def _check_rows(data: dict[str, Any], problems: Problems) -> None:
    """Every limit and budget is a row of the segment, and so is each of a tracked user's."""
    count = sum(_rows(holder) for _, holder in _holders(data))
    if count > LIMITS_MAX:
        found = f"{count} limits and budgets"
        problems.add(("tenants",), f"at most {LIMITS_MAX} in one configuration", found=found, aside=True)
    wanted = 0
    for name, tenant in entries(data, "tenants"):
        users = mapping(tenant, "users")
        tracked = str(users.get("tracked", Users.model_fields["tracked"].default))
        wanted += _rows(users) * (int(tracked) if tracked.isdecimal() else 0)
        if wanted > USER_ROWS and _rows(users):
            text = f"users may need {wanted} rows with this tenant; beyond {USER_ROWS} they share one each"
            problems.note(("tenants", name, "users"), text)
            break


def _rows(holder: dict[str, Any]) -> int:
    words = [word for word in LIMIT_WORDS if word in mapping(holder, "limits")]
    return len(words) + len(list_in(holder, "budgets"))


def _holders(data: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Whatever may have limits or budgets."""
    for section in ("providers", "models", "tenants"):
        for name, holder in entries(data, section):
            yield (section, name), holder
    for name, tenant in entries(data, "tenants"):
        yield ("tenants", name, "users"), mapping(tenant, "users")
        for tag, holder in entries(tenant, "tags"):
            yield ("tenants", name, "tags", tag), holder
        for index, key in enumerate(list_in(tenant, "keys")):
            if isinstance(key, dict):
                yield ("tenants", name, "keys", index), key


def _check_block(path: Path, words: dict[str, Any], problems: Problems) -> None:
    if list(words) == ["mode"]:
        problems.add(path, "at least one limit beside it", found="mode alone")
    for word in LIMIT_WORDS:
        if words.get("mode") == "shadow" and mapping(words, word).get("mode") == "enforce":
            problems.add((*path, word, "mode"), "shadow, or no such key: the whole block is mode: shadow")
    _note_limits(path, _in_force(words), problems)


def _in_force(words: dict[str, Any]) -> dict[str, int]:
    limits = maybe_node(Limits, words)
    return {word: amount.limit for word, amount in limits.items() if not amount.is_shadow} if limits else {}


def _note_limits(path: Path, in_force: dict[str, int], problems: Problems) -> None:
    for word, limit in in_force.items():
        if limit == 0:
            problems.note((*path, word), REFUSES_ALL)
    for unit in (REQUEST_WORDS, TOKEN_WORDS):
        for shorter, longer in combinations(filter(in_force.__contains__, unit), 2):
            if 0 < in_force[longer] <= in_force[shorter]:
                text = f"never the first to refuse, because {longer} is {in_force[longer]}"
                problems.note((*path, shorter), text)


def _note_keys(data: dict[str, Any], problems: Problems) -> None:
    """What a key may use beyond its tenant's limit, it never can."""
    for name, tenant in entries(data, "tenants"):
        most = _in_force(mapping(tenant, "limits"))
        for index, key in enumerate(list_in(tenant, "keys")):
            for word, limit in _in_force(mapping(key, "limits") if isinstance(key, dict) else {}).items():
                if most.get(word, limit) < limit:
                    path: Path = ("tenants", name, "keys", index, "limits", word)
                    problems.note(path, f"does nothing, because the tenant's {word} is {most[word]}")


def _check_budgets(path: Path, listed: list[Any], problems: Problems) -> None:
    budgets = {(*path, index): maybe_node(Budget, words) for index, words in enumerate(listed)}
    sound = {here: budget for here, budget in budgets.items() if budget is not None}
    first_of: dict[tuple[object, str], Path] = {}
    for here, budget in sound.items():
        if budget.window_s and (*here, "time_zone") in problems.places:
            problems.add((*here, "time_zone"), "no such key: it is for the periods day and month")
        first = first_of.setdefault((budget.window_s or budget.period, budget.time_zone), here)
        if first != here:
            found = f"the same period as on line {problems.places[first].line}"
            problems.add(here, "each period once", found=found, aside=True)
    in_force = {here: budget for here, budget in sound.items() if not budget.is_shadow}
    _note_budgets(in_force, problems)


def _note_budgets(in_force: dict[Path, Budget], problems: Problems) -> None:
    for here, budget in in_force.items():
        if budget.usd_micro == 0:
            problems.note((*here, "amount"), REFUSES_ALL)
        for other in in_force.values():
            if _contains(other, budget) and 0 < other.usd_micro <= budget.usd_micro:
                text = f"never the first to refuse, because that of {other.period} is no larger"
                problems.note((*here, "amount"), text)


def _contains(longer: Budget, shorter: Budget) -> bool:
    """Whether every window of `shorter` lies within one of `longer`."""
    if longer.window_s and shorter.window_s:
        return longer.window_s > shorter.window_s
    return (longer.period, shorter.period) == ("month", "day") and longer.time_zone == shorter.time_zone


def _check_waits(data: dict[str, Any], problems: Problems) -> None:
    queue = maybe_node(Queue, mapping(data, "queue"))
    if queue is None:
        return
    for name, tenant in entries(data, "tenants"):
        for index, key in enumerate(list_in(tenant, "keys")):
            wait_s = _maybe_duration_s(key.get("max_wait")) if isinstance(key, dict) else None
            path: Path = ("tenants", name, "keys", index, "max_wait")
            if wait_s is not None and wait_s > queue.max_wait_s:
                problems.add(path, "no more than queue.max_wait", found="a longer wait")
            elif wait_s and not queue.max_waiting:
                problems.note(path, "does nothing, because queue.max_waiting is 0")


def _maybe_duration_s(value: object) -> float | None:
    try:
        return units.duration_s(value)
    except ValueError:
        return None


def worst_cases(data: dict[str, Any]) -> dict[str, int]:
    """By tenant: the most limits and budgets that may apply to one request."""
    target = sum(
        max((_gauges(entry) for _, entry in entries(data, section)), default=0)
        for section in ("providers", "models")
    )
    return {name: target + _callers_gauges(tenant) for name, tenant in entries(data, "tenants")}


def _callers_gauges(tenant: dict[str, Any]) -> int:
    tags = sorted((_gauges(tag) for _, tag in entries(tenant, "tags")), reverse=True)
    keys = (_gauges(key) for key in list_in(tenant, "keys") if isinstance(key, dict))
    users = _gauges(mapping(tenant, "users"))
    return _gauges(tenant) + users + max(keys, default=0) + sum(tags[:TAGS_MAX])


def _gauges(holder: dict[str, Any]) -> int:
    limits = mapping(holder, "limits")
    return sum(word in limits for word in LIMIT_WORDS) + len(list_in(holder, "budgets"))


def note_unpriced(config: Config, problems: Problems) -> None:
    """A request without a known price cannot be held to a budget, so under a budget it is refused."""
    allowed = [(name, GlobSet(t.models)) for name, t in config.tenants.items() if _is_held_to_money(t)]
    for name, model in config.models.items():
        if is_glob(name) or all(price_of(model, target, target.model or name) for target in model.targets):
            continue
        tenants = [tenant for tenant, globs in allowed if name in globs]
        if tenants:
            text = f"no price is known for it, so it is refused under a budget: {_some(tenants)}"
            problems.note(("models", name), text)


def note_uncounted(config: Config, problems: Problems) -> None:
    """What is never counted keeps its learned estimate."""
    for name, model in config.models.items():
        if model.estimate != "exact":
            continue
        asked = [target.model or name for target in model.targets]
        unknown = [word for word in asked if not is_glob(word) and not encoding_of(word)]
        if unknown:
            text = f"the vocabulary of {_some(unknown)} is not known, so its prompts are not counted"
            problems.note(("models", name, "estimate"), text)


def _is_held_to_money(tenant: Tenant) -> bool:
    lists = [tenant.budgets, tenant.users.budgets]
    lists += [tag.budgets for tag in tenant.tags.values()]
    lists += [key.budgets for key in tenant.keys]
    return any(not budget.is_shadow for budgets in lists for budget in budgets)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
