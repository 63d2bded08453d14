"""From the name that a client asks for to the targets that may serve it, best first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from llmgw._core import select
from llmgw._core.ask import Share
from llmgw._core.health import Board
from llmgw._core.select import Tier
from llmgw.config import Config, GlobMap, Model, Target, is_glob, price_of
from llmgw.errors import NotFound, UnknownRoute
from llmgw.routing.healths import ANY_MODEL, Healths, key_of

# Longer names are cut in messages; the client knows what it sent.
SHOWN_MAX: Final = 100
STRATEGIES: Final = {
    "weighted": select.WEIGHTED,
    "round_robin": select.ROUND_ROBIN,
    "ordered": select.ORDERED,
    "least_busy": select.LEAST_BUSY,
    "latency": select.LATENCY,
    "cost": select.COST,
    "hash": select.HASH,
    "score": select.SCORE,
}
UNPRICED: Final = (-1, -1)
HEADER: Final = "header:"


class Stage(NamedTuple):
    """The targets of one priority, and how one of them is chosen. Only `canary` in every so many requests."""

    tier: Tier
    targets: tuple[Target, ...]
    first: int  # number of the first among all targets of the plan
    canary: Share | None


class Plan:
    """The targets of one model of the configuration, or of a path that names none (`model` is None then).

    `label` is the model's name in the configuration, which metrics may show. `hash_on` is what the
    strategy looks at, or "".
    """

    __slots__ = ("hash_on", "label", "mirrored", "model", "stages", "targets")

    def __init__(
        self, label: str, model: Model | None, targets: Sequence[Target], healths: Healths, board: Board
    ) -> None:
        self.label = label
        self.model = model
        self.hash_on = model.hash_on if model is not None and model.strategy == "hash" else ""
        self.mirrored = Share(model.mirror.share) if model is not None and model.mirror is not None else None
        build = StageBuilder(label, model, healths, board)
        ranked = sorted(targets, key=lambda target: target.priority)
        if model is not None and model.canary is not None:
            build.add((model.canary.target,), "canary", Share(model.canary.share))
        for priority, group in groupby(ranked, lambda target: target.priority):
            build.add(tuple(group), str(priority))
        self.stages = tuple(build.stages)
        self.targets = tuple(target for stage in self.stages for target in stage.targets)


class StageBuilder:
    def __init__(self, label: str, model: Model | None, healths: Healths, board: Board) -> None:
        self.label, self.model, self.healths, self.board = label, model, healths, board
        self.stages: list[Stage] = []

    def add(self, targets: tuple[Target, ...], name: str, canary: Share | None = None) -> None:
        model = self.model
        score = model.score if model is not None else None
        tier = Tier(
            self.board,
            key_of("tier", self.label, name),
            STRATEGIES[model.strategy if model is not None else "ordered"],
            tuple(
                self.healths.of(target.provider, shown_model(self.label, target, model)) for target in targets
            ),
            weights=tuple(target.weight for target in targets),
            prices=tuple(self.price(target) for target in targets),
            qualities=tuple(target.quality for target in targets),
            score=(score.cost, score.latency, score.quality) if score is not None else (0.0, 0.0, 0.0),
        )
        first = sum(len(stage.targets) for stage in self.stages)
        self.stages.append(Stage(tier, targets, first, canary))

    def price(self, target: Target) -> tuple[int, int]:
        """(input, output) in pico-USD a token."""
        price = price_of(self.model, target, target.model or self.label)
        return (price.input_pusd, price.output_pusd) if price is not None else UNPRICED


def shown_model(label: str, target: Target, model: Model | None) -> str:
    """A target's model in words of the configuration: never a client's."""
    return target.model or (ANY_MODEL if model is None or is_glob(label) else label)


class Catalog:
    """All models of a configuration, and the provider of each path that is only passed on.

    `looks_at_heads`: a strategy looks at a header of the request.
    """

    def __init__(self, config: Config, board: Board | None = None) -> None:
        board = board or Board()
        self.healths = Healths(config, board)
        self._plans = GlobMap(
            {
                name: Plan(name, model, model.targets, self.healths, board)
                for name, model in config.models.items()
            }
        )
        self._routes = GlobMap(
            {
                path: Plan("", None, [Target(provider=name)], self.healths, board)
                for path, name in config.routes.items()
            }
        )
        self.names = [name for name in config.models if not is_glob(name)]
        self.looks_at_heads = any(
            model.strategy == "hash" and model.hash_on.startswith(HEADER) for model in config.models.values()
        )

    def find(self, model: str) -> Plan:
        """Raises NotFound."""
        plan = self._plans.get(model)
        if plan is None:
            raise no_such_model(model)
        return plan

    def find_route(self, endpoint: str) -> Plan:
        """The plan of a path that names no model. Raises UnknownRoute."""
        plan = self._routes.get(endpoint)
        if plan is None:
            raise UnknownRoute(f"Unknown request URL: {endpoint[:SHOWN_MAX]}.")
        return plan


def no_such_model(model: str) -> NotFound:
    shown = model[:SHOWN_MAX]
    return NotFound(f"The model `{shown}` does not exist or you do not have access to it.", param="model")
