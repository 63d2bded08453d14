"""What a model costs and how much it takes: its own words in the configuration, else the table that ships."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmgw._core.ask import cost_usd_micro as _cost_usd_micro
from llmgw.config.globs import NAME_MAX
from llmgw.config.routing import Price, Target
from llmgw.config.tree import Model

TABLE = Path(__file__).with_name("prices.json")
# "gpt-4o-2024-08-06" and "claude-haiku-4-5-20251001" are snapshots; "gpt-4-0613" and "o1-preview"
# are names of their own, with prices of their own.
SNAPSHOT = re.compile(r"(.+)-20\d\d(-?)(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12]\d|3[01])", re.ASCII)


class Bounds(NamedTuple):
    """What one request may have; None is unknown."""

    max_input_tokens: int | None
    max_output_tokens: int | None


class Entry(NamedTuple):
    price: Price
    bounds: Bounds


UNKNOWN = Bounds(None, None)


@functools.cache
def table() -> Mapping[str, Entry]:
    models = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
    return MappingProxyType({name: _entry(words) for name, words in models.items()})


def _entry(words: Mapping[str, Any]) -> Entry:
    aliases = {field.alias for field in Price.model_fields.values()}
    price = Price.model_validate({word: value for word, value in words.items() if word in aliases})
    return Entry(price, Bounds(words.get("max_input"), words.get("max_output")))


def price_of(config_model: Model | None, target: Target | None, upstream_model: str) -> Price | None:
    """The target's, else its model's, else that of the table. None is "unknown"; it is never a price of 0.

    A dated snapshot costs what its undated name costs, unless the table knows it by itself.
    """
    for node in (target, config_model):
        if node is not None and node.price is not None:
            return node.price
    entry = maybe_listed(upstream_model)
    return entry.price if entry else None


def bounds_of(config_model: Model | None, upstream_model: str) -> Bounds:
    """Each of the two from the configuration where it is given there."""
    entry = maybe_listed(upstream_model)
    bounds = entry.bounds if entry else UNKNOWN
    if config_model is None or config_model.max_input is config_model.max_output is None:
        return bounds
    return Bounds(
        bounds.max_input_tokens if config_model.max_input is None else config_model.max_input,
        bounds.max_output_tokens if config_model.max_output is None else config_model.max_output,
    )


def maybe_listed(upstream_model: str) -> Entry | None:
    return _listed(upstream_model) if len(upstream_model) <= NAME_MAX else None


@functools.lru_cache(maxsize=1024)  # the names come from clients where a model is "*"
def _listed(upstream_model: str) -> Entry | None:
    if upstream_model in table():
        return table()[upstream_model]
    snapshot = SNAPSHOT.fullmatch(upstream_model)
    return table().get(snapshot[1]) if snapshot else None


def cost_usd_micro(price: Price, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """Micro-USD of one request, rounded up. `cached_tokens` are part of `input_tokens`."""
    return _cost_usd_micro(input_tokens, cached_tokens, output_tokens, *price.per_unit)
