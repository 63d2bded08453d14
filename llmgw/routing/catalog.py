"""From the name that a client asks for to the targets that may serve it, best first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from llmgw._core.select import Weighted
from llmgw.config import Config, GlobMap, Model, Target, is_glob
from llmgw.errors import NotFound, UnknownRoute

# Longer names are cut in messages; the client knows what it sent.
SHOWN_MAX = 100


class Tier:
    """The targets of one priority."""

    __slots__ = ("targets", "weighted")

    def __init__(self, strategy: str, targets: list[Target]) -> None:
        self.targets = targets
        is_chosen = strategy == "weighted" and len(targets) > 1
        self.weighted = Weighted([target.weight for target in targets]) if is_chosen else None

    def order(self) -> Iterator[Target]:
        """Each target once. A later one is only chosen when it is asked for."""
        if self.weighted is None:
            yield from self.targets
            return
        left = (1 << len(self.targets)) - 1
        while left:
            index = self.weighted.pick(left)
            left &= ~(1 << index)
            yield self.targets[index]


class Plan:
    """The targets of one model of the configuration, or of a path that names none (`model` is None then).

    `label` is the model's name in the configuration, which metrics may show.
    """

    __slots__ = ("fixed", "label", "model", "targets", "tiers")

    def __init__(self, label: str, model: Model | None, targets: Sequence[Target]) -> None:
        self.label = label
        self.model = model
        strategy = model.strategy if model is not None else "ordered"
        self.targets = ranked = sorted(targets, key=lambda target: target.priority)
        self.tiers = [
            Tier(strategy, list(group)) for _, group in groupby(ranked, lambda target: target.priority)
        ]

        # Where nothing is to be chosen, nothing is computed for a request.
        is_fixed = all(tier.weighted is None for tier in self.tiers)
        self.fixed = tuple(ranked) if is_fixed else None

    def order(self) -> Iterable[Target]:
        """Best priority first, then as the strategy says."""
        return self.fixed if self.fixed is not None else self._chosen()

    def _chosen(self) -> Iterator[Target]:
        for tier in self.tiers:
            yield from tier.order()


class Catalog:
    """All models of a configuration, and the provider of each path that is only passed on."""

    def __init__(self, config: Config) -> None:
        self._plans = GlobMap(
            {name: Plan(name, model, model.targets) for name, model in config.models.items()}
        )
        self._routes = GlobMap(
            {path: Plan("", None, [Target(provider=name)]) for path, name in config.routes.items()}
        )
        self.names = [name for name in config.models if not is_glob(name)]

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
