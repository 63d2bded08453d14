"""Whether what chooses and what meets failure makes sense together: mistakes, and notices of what is
legal and may still surprise.

As in `checks`, the file's own data is walked, and a block is judged once its own fields are sound.
What would do nothing is a mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmgw.config.checks import entries, list_in, mapping
from llmgw.config.fields import STRATEGIES
from llmgw.config.globs import GlobSet, is_glob
from llmgw.config.node import maybe_node
from llmgw.config.prices import price_of
from llmgw.config.problems import Path, Problems, nearest_first
from llmgw.config.routing import (
    DEFAULT_CLASSES,
    OFF,
    Breaker,
    HealthCheck,
    Retry,
    RetryBudget,
    Score,
)
from llmgw.config.tree import Config, Model

SHOWN_NAMES = 5
# Each means something with this strategy alone.
STRATEGY_OF = {"score": "score", "hash_on": "hash"}


# As many as `targets` takes.
TARGETS_MAX = 64


def check_routing(data: dict[str, Any], problems: Problems) -> None:
    for name, provider in entries(data, "providers"):
        _check_provider(("providers", name), provider, problems)
    known = GlobSet(mapping(data, "models"))
    for name, model in entries(data, "models"):
        path: Path = ("models", name)
        _check_strategy(path, model, problems)
        _check_retry(path, model, data, problems)
        _check_canary(path, model, problems)
        _check_hedge(path, model, problems)
        _check_fallbacks(path, model, known, problems)
        _note_sides(path, model, problems)


def _check_provider(path: Path, provider: dict[str, Any], problems: Problems) -> None:
    breaker = maybe_node(Breaker, mapping(provider, "breaker"))
    if breaker is not None:
        _check_order((*path, "breaker"), ("open", breaker.open_s), ("max_open", breaker.max_open_s), problems)
    check = maybe_node(HealthCheck, mapping(provider, "health_check"))
    if check is not None:
        ends = ("timeout", check.timeout_s), ("every", check.every_s)
        _check_order((*path, "health_check"), *ends, problems)
    if "health_check" in provider and provider.get("breaker") == OFF:
        expected = "a breaker beside it, which is what a check opens and closes"
        problems.add((*path, "health_check"), expected, found="health_check")
    budget = maybe_node(RetryBudget, mapping(provider, "retry_budget"))
    if budget is not None and budget.ratio == budget.per_second == 0:
        problems.note((*path, "retry_budget"), "nothing is ever tried again")


def _check_order(path: Path, low: tuple[str, float], high: tuple[str, float], problems: Problems) -> None:
    """The first of the two, each a key and its seconds, may not be longer than the other. Of a key that
    does not stand in the file, the other is at fault."""
    (low_key, low_s), (high_key, high_s) = low, high
    if low_s <= high_s:
        return
    if (*path, low_key) in problems.places:
        problems.add((*path, low_key), f"no more than {high_key}, which is {high_s:g}s")
    else:
        problems.add((*path, high_key), f"no less than {low_key}, which is {low_s:g}s")


def _check_strategy(path: Path, model: dict[str, Any], problems: Problems) -> None:
    strategy = model.get("strategy", "score" if "score" in model else "weighted")
    if strategy not in STRATEGIES:  # the field complains
        return
    for key, wanted in STRATEGY_OF.items():
        if key in model and strategy != wanted:
            problems.add((*path, key), f"no such key: it is for the strategy {wanted}", found=key)
    if strategy == "score":
        _check_score(path, model, problems)
        return
    for index, target in _targets(model):
        if "quality" in target:
            expected = "no such key: it is for the strategy score"
            problems.add((*path, "targets", index, "quality"), expected, found="quality")


def _check_score(path: Path, model: dict[str, Any], problems: Problems) -> None:
    if "score" not in model:
        problems.add((*path, "score"), "this key: what counts for the strategy score")
    score = maybe_node(Score, mapping(model, "score"))
    if score is None:
        return
    if score.cost == score.latency == score.quality == 0:
        problems.add((*path, "score"), "at least one of cost, latency and quality above 0")
    if score.quality and not any("quality" in target for _, target in _targets(model)):
        problems.note((*path, "score", "quality"), "no target says its quality, so all have the same")


def _targets(model: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((n, target) for n, target in enumerate(list_in(model, "targets")) if isinstance(target, dict))


def _check_retry(path: Path, model: dict[str, Any], data: dict[str, Any], problems: Problems) -> None:
    retry = maybe_node(Retry, mapping(model, "retry"))
    if retry is None:
        return
    path = (*path, "retry")
    ends = ("base_delay", retry.base_delay_s), ("max_delay", retry.max_delay_s)
    _check_order(path, *ends, problems)
    if retry.max_attempts > 1 or "fallbacks" in model:
        return
    if all(_is_unbroken(target, data) for _, target in _targets(model)):
        text = "one attempt and no breaker: a target that fails keeps its requests, and they all fail"
        problems.note((*path, "max_attempts"), text)
    elif len(list_in(model, "targets")) > 1:
        problems.note((*path, "max_attempts"), "what fails at one target is not tried at another")


def _is_unbroken(target: dict[str, Any], data: dict[str, Any]) -> bool:
    return mapping(mapping(data, "providers"), str(target.get("provider"))).get("breaker") == OFF


def _check_canary(path: Path, model: dict[str, Any], problems: Problems) -> None:
    """The core tells a model's targets apart by the bits of one number."""
    if "canary" in model and len(list_in(model, "targets")) == TARGETS_MAX:
        problems.add((*path, "canary"), f"fewer than {TARGETS_MAX} targets beside it", found="canary")


def _check_hedge(path: Path, model: dict[str, Any], problems: Problems) -> None:
    if "hedge" in model and len(list_in(model, "targets")) == 1:
        problems.add((*path, "hedge"), "a second target beside it to ask", found="hedge")


def _note_sides(path: Path, model: dict[str, Any], problems: Problems) -> None:
    for side in ("canary", "mirror"):
        share = mapping(model, side).get("share")
        if isinstance(share, str) and share.strip("0.") == "":
            problems.note((*path, side, "share"), "none of its requests goes there")


def _check_fallbacks(path: Path, model: dict[str, Any], known: GlobSet, problems: Problems) -> None:
    own, fallbacks = str(path[-1]), model.get("fallbacks")
    path = (*path, "fallbacks")
    if fallbacks in ([], {}):
        problems.add(path, "at least one entry, or no such key")
    elif isinstance(fallbacks, list):
        _check_names(path, fallbacks, own, known, problems)
    elif isinstance(fallbacks, dict):
        for cause, listed in fallbacks.items():
            _check_names((*path, cause), listed if isinstance(listed, list) else [], own, known, problems)
        _check_causes(path, fallbacks, problems)


def _check_causes(path: Path, fallbacks: dict[str, Any], problems: Problems) -> None:
    """An empty list takes a cause out of what `default` serves, and does nothing else."""
    for cause, listed in fallbacks.items():
        if listed == [] and not (cause in DEFAULT_CLASSES and "default" in fallbacks):
            problems.add((*path, cause), "at least one entry, or no such key")
    if "default" in fallbacks and fallbacks.keys() >= DEFAULT_CLASSES:
        expected = "no such key: rate_limit, timeout and server_error have lists of their own"
        problems.add((*path, "default"), expected, found="default")


def _check_names(path: Path, listed: list[Any], own: str, known: GlobSet, problems: Problems) -> None:
    seen: set[str] = set()
    for index, name in enumerate(listed):
        here: Path = (*path, index)
        if not isinstance(name, str):
            continue
        if name == own:
            problems.add(here, "another model than this one")
        elif name not in known:
            others = [each for each in known.globs if each != own]
            problems.add(here, f"a name from models: {', '.join(nearest_first(name, others)[:SHOWN_NAMES])}")
        elif name in seen:
            problems.add(here, "each model once")
        seen.add(name)


def note_equal_prices(config: Config, problems: Problems) -> None:
    """Where price decides, it is to differ, and to be known."""
    for name, model in config.models.items():
        by_cost = model.strategy == "cost" or (model.score is not None and model.score.cost > 0)
        if not by_cost or len(model.targets) == 1:
            continue
        path: Path = ("models", name)
        if model.price is not None and all(target.price is None for target in model.targets):
            problems.note((*path, "price"), "counts for all targets, so none of them is the cheaper one")
        elif unknown := _unpriced(name, model):
            problems.note(path, f"no price is known for {', '.join(unknown)}, so its cost decides nothing")


def _unpriced(name: str, model: Model) -> list[str]:
    """What a target of a glob serves is known once it is asked for."""
    upstream = {(target.model or name, target) for target in model.targets}
    return sorted(
        {each for each, target in upstream if not is_glob(each) and not price_of(model, target, each)}
    )
