"""A described mix: streams of requests, in the words and with the strictness of the configuration.

Mix
└── streams   Stream    who asks for what, how often, and how large
              └── Spread    a number that differs from request to request
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from llmgw.config import Config, units
from llmgw.config import fields as f
from llmgw.config.node import Node
from llmgw.config.problems import Problems
from llmgw.config.reader import read
from llmgw.dialects import INFERENCE
from llmgw.errors import ConfigError

ARRIVALS: Final = ("poisson", "constant", "bursts")
NORMAL_P99: Final = 2.3263478740408408  # standard deviations
RATE_MAX: Final = 1e6
FACTOR_MAX: Final = 100.0
STREAMS_MAX: Final = 10_000
USERS_MAX: Final = 1_000_000
PLAIN: Final = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)
KEY: Final = rf"{f.LABEL}/{f.LABEL}"


def number(value: object) -> float:
    """A plain number, or a duration in seconds."""
    expected = "a number such as 800 or 0.5, a duration such as 2s, or {median: …, p99: …}"
    try:
        found = float(value) if isinstance(value, str) and PLAIN.fullmatch(value) else units.duration_s(value)
    except ValueError:
        raise ValueError(expected) from None
    if found > f.TOKENS_MAX:
        raise ValueError(expected)
    return found


def rate(value: object) -> float:
    expected = "requests per second, above 0"
    found = float(value) if isinstance(value, str) and PLAIN.fullmatch(value) else 0.0
    if not 0 < found <= RATE_MAX:
        raise ValueError(expected)
    return found


def factor(value: object) -> float:
    expected = "bytes for each token, above 0"
    found = float(value) if isinstance(value, str) and PLAIN.fullmatch(value) else 0.0
    if not 0 < found <= FACTOR_MAX:
        raise ValueError(expected)
    return found


def share(value: object) -> float:
    return 0.0 if value == "0" else units.fraction(value)


Number = Annotated[float, BeforeValidator(number)]


class Spread(Node):
    """`800`; `{median: 800, p99: 6000}`, log-normal; `{low: 10, high: 20}`, each as likely."""

    median: Number | None = None
    p99: Number | None = None
    low: Number | None = None
    high: Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return data
        number(data)
        return {"low": data, "high": data}

    @model_validator(mode="after")
    def _is_whole(self) -> Spread:
        given = {name for name, value in self if value is not None}
        ends = {
            frozenset({"median", "p99"}): (self.median, self.p99),
            frozenset({"low", "high"}): (self.low, self.high),
        }
        first, last = ends.get(frozenset(given), (None, None))
        if first is None or last is None or not first <= last or (given == {"median", "p99"} and first <= 0):
            raise ValueError("median and p99, or low and high, the smaller one first")
        return self

    def value(self, random: Random) -> float:
        if self.low is not None and self.high is not None:
            return random.uniform(self.low, self.high)
        assert self.median is not None and self.p99 is not None, "one of the two pairs is given"
        return self.median * math.exp(random.gauss(0, 1) * math.log(self.p99 / self.median) / NORMAL_P99)

    def draw(self, random: Random) -> int:
        return min(round(self.value(random)), f.TOKENS_MAX)


def fixed(value: float) -> Spread:
    return Spread(low=value, high=value)


class Stream(Node):
    key: Annotated[str, BeforeValidator(units.text_like(KEY, "a key of the configuration as tenant/key"))]
    model: f.ModelName
    rate: Annotated[float, BeforeValidator(rate)]
    arrivals: Annotated[str, BeforeValidator(units.one_of(*ARRIVALS))] = "poisson"
    every_s: Annotated[float, BeforeValidator(units.positive_duration_s)] = Field(default=1.0, alias="every")
    from_s: f.DurationOrZero = Field(default=0.0, alias="from")
    until_s: f.Duration = Field(default=math.inf, alias="until")
    endpoint: Annotated[str, BeforeValidator(units.one_of(*INFERENCE))] = "/v1/chat/completions"
    prompt_tokens: Spread = fixed(500)
    output_tokens: Spread = fixed(200)
    max_tokens: f.Tokens | None = None
    bytes_per_token: Annotated[float, BeforeValidator(factor)] = 4.0
    duration: Spread | None = None
    max_wait_s: f.DurationOrZero | None = Field(default=None, alias="max_wait")
    priority: f.PriorityClass | None = None
    users: Annotated[int, BeforeValidator(units.integer_between(0, USERS_MAX))] = 0
    tags: tuple[f.Label, ...] = ()
    cancel: Annotated[float, BeforeValidator(share)] = 0.0


class Mix(Node):
    streams: tuple[Stream, ...] = Field(min_length=1, max_length=STREAMS_MAX)


def load_mix(path: str, config: Config, environ: Mapping[str, str]) -> Mix:
    """Raises ConfigError with one line for each mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "a byte that is no UTF-8"
        raise ConfigError([f"{path}:1: (file): found {found}, expected a readable file"]) from None
    document = read(text, source=path, environ=environ)
    problems = document.problems
    mix = None if problems.found else _validate(document.data, problems)
    if mix is not None:
        _check_keys(mix, config, problems)
    if problems.found or mix is None:
        raise ConfigError(problems.lines())
    return mix


def _validate(data: dict[str, Any], problems: Problems) -> Mix | None:
    try:
        return Mix.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        wrong = [detail["loc"][:1] for detail in details if len(detail["loc"]) > 1]
        for detail in details:
            if detail["type"] == "too_short" and detail["loc"] in wrong:
                continue  # it has entries, but none that is right
            problems.add(detail["loc"], _expected(detail["type"], detail.get("ctx", {}), detail["msg"]))
        return None


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind == "value_error":
        return str(context["error"])
    return {
        "missing": "this key",
        "extra_forbidden": "no such key",
        "model_type": "a mapping",
        "tuple_type": "a list",
        "too_short": "at least one entry",
    }.get(kind, message)


def _check_keys(mix: Mix, config: Config, problems: Problems) -> None:
    keys = {f"{tenant.name}/{key.name}" for tenant in config.tenants.values() for key in tenant.keys}
    for index, stream in enumerate(mix.streams):
        if stream.key not in keys:
            problems.add(("streams", index, "key"), "a key of the configuration as tenant/key")
