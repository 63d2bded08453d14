"""The targets that strategies choose among: described in a file, or the five that are built in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from llmgw.config import Price, units
from llmgw.config import fields as f
from llmgw.config import routing_fields as r
from llmgw.config.node import Node
from llmgw.config.reader import read
from llmgw.errors import ConfigError
from llmgw.simulate.mix import Spread, _expected

TARGETS_MAX: Final = 64  # of one priority
CAPACITY_MAX: Final = 1_000_000
FACTOR_MAX: Final = 1000
WHEN_FULL: Final = ("refuse", "queue")
BUILT_IN: Final = """\
targets:
  - name: fast-cheap
    first_token: {median: 250ms, p99: 700ms}
    streaming: {median: 1200ms, p99: 4s}
    capacity: 60
    price: {input: "0.15", output: "0.60"}
    quality: 0.6
    weight: 3
  - name: fast-dear
    first_token: {median: 250ms, p99: 700ms}
    streaming: {median: 1200ms, p99: 4s}
    capacity: 200
    price: {input: "2.50", output: "10.00"}
    quality: 0.95
    weight: 2
  - name: medium
    first_token: {median: 600ms, p99: 2s}
    streaming: {median: 2s, p99: 6s}
    capacity: 150
    slow: {from: 40s, until: 60s, factor: 8}
    price: {input: "0.40", output: "1.60"}
    quality: 0.8
    weight: 2
  - name: slow
    first_token: {median: 2500ms, p99: 8s}
    streaming: {median: 4s, p99: 12s}
    capacity: 200
    price: {input: "0.30", output: "1.20"}
    quality: 0.7
  - name: flapping
    first_token: {median: 300ms, p99: 900ms}
    streaming: {median: 1200ms, p99: 4s}
    capacity: 150
    errors: 0.01
    flapping: {up: 20s, down: 10s}
    price: {input: "0.20", output: "0.80"}
    quality: 0.6
    weight: 2
"""


class Flapping(Node):
    """Up first, then down, and so on: while it is down each request is answered with 503."""

    up_s: f.Duration = Field(alias="up")
    down_s: f.Duration = Field(alias="down")


class SlowPeriod(Node):
    from_s: f.DurationOrZero = Field(default=0.0, alias="from")
    until_s: f.Duration = Field(alias="until")
    factor: Annotated[float, BeforeValidator(units.number_between(0, FACTOR_MAX))]


class SimulatedTarget(Node):
    """`capacity` requests at a time; beyond it they queue there, or get a 429 that says `retry_after`."""

    name: f.Label
    first_token: Spread
    streaming: Spread
    capacity: Annotated[int, BeforeValidator(units.integer_between(1, CAPACITY_MAX))] = CAPACITY_MAX
    when_full: Annotated[str, BeforeValidator(units.one_of(*WHEN_FULL))] = "refuse"
    retry_after_s: f.Duration = Field(default=1.0, alias="retry_after")
    errors: r.Share = 0.0
    flapping: Flapping | None = None
    slow: SlowPeriod | None = None
    price: Price | None = None
    quality: r.Share = 0.5
    weight: f.Weight = 1

    def is_down(self, at_s: float) -> bool:
        return self.flapping is not None and (
            at_s % (self.flapping.up_s + self.flapping.down_s) >= self.flapping.up_s
        )

    def slowness(self, at_s: float) -> float:
        if self.slow is None or not self.slow.from_s <= at_s < self.slow.until_s:
            return 1.0
        return self.slow.factor

    @property
    def prices_pusd(self) -> tuple[int, int]:
        """Of an input and an output token; below 0: unknown."""
        return (self.price.input_pusd, self.price.output_pusd) if self.price is not None else (-1, -1)


class TargetMix(Node):
    targets: tuple[SimulatedTarget, ...] = Field(min_length=1, max_length=TARGETS_MAX)

    @model_validator(mode="after")
    def _has_different_names(self) -> TargetMix:
        if len({target.name for target in self.targets}) < len(self.targets):
            raise ValueError("targets of different names")
        return self


def load_targets(path: str) -> tuple[SimulatedTarget, ...]:
    """Raises ConfigError with one line for each mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "a byte that is no UTF-8"
        raise ConfigError([f"{path}:1: (file): found {found}, expected a readable file"]) from None
    return parse_targets(text, path)


def parse_targets(text: str, source: str) -> tuple[SimulatedTarget, ...]:
    """Raises ConfigError."""
    document = read(text, source=source, environ={})
    problems = document.problems
    if not problems.found:
        found, mistakes = _validate(document.data)
        for place, expected in mistakes:
            problems.add(place, expected)
        if found is not None:
            return found.targets
    raise ConfigError(problems.lines())


def _validate(data: dict[str, Any]) -> tuple[TargetMix | None, list[tuple[tuple[str | int, ...], str]]]:
    try:
        return TargetMix.model_validate(data, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, [
            (detail["loc"], _expected(detail["type"], detail.get("ctx", {}), detail["msg"]))
            for detail in error.errors(include_url=False, include_input=False)
        ]


def built_in() -> tuple[SimulatedTarget, ...]:
    return parse_targets(BUILT_IN, "built-in")
