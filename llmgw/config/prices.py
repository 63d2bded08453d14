"""What a token costs: the model's own price in the configuration, else the table that ships."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from llmgw.config.globs import NAME_MAX
from llmgw.config.tree import Model, Price

TABLE = Path(__file__).with_name("prices.json")
# "gpt-4o-2024-08-06" and "claude-haiku-4-5-20251001" are snapshots; "gpt-4-0613" and "o1-preview"
# are names of their own, with prices of their own.
SNAPSHOT = re.compile(r"(.+)-20\d\d(-?)(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12]\d|3[01])", re.ASCII)
PICO_PER_MICRO = 1_000_000


@functools.cache
def price_table() -> Mapping[str, Price]:
    models = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
    aliases = [field.alias for field in Price.model_fields.values()]
    return MappingProxyType(
        {
            name: Price.model_validate({word: entry[word] for word in aliases if word in entry})
            for name, entry in models.items()
        }
    )


def price_of(config_model: Model | None, upstream_model: str) -> Price | None:
    """None is "unknown", which the caller counts; it is never a price of 0.

    A dated snapshot costs what its undated name costs, unless the table knows it by itself.
    """
    if config_model is not None and config_model.price is not None:
        return config_model.price
    return _listed(upstream_model) if len(upstream_model) <= NAME_MAX else None


@functools.lru_cache(maxsize=1024)  # the names come from clients where a model is "*"
def _listed(upstream_model: str) -> Price | None:
    table = price_table()
    if upstream_model in table:
        return table[upstream_model]
    snapshot = SNAPSHOT.fullmatch(upstream_model)
    return table.get(snapshot[1]) if snapshot else None


def cost_usd_micro(price: Price, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """Micro-USD, rounded up. `cached_tokens` are part of `input_tokens`.

    The counts are a provider's word: none is taken as negative, and no more of the input as cached
    than there is, so that a wrong report cannot lower the bill below that of its own input. Plain
    comparisons because four calls of min and max would cost more than all the rest (0.2 us).
    """
    if input_tokens < 0:  # noqa: PLR1730
        input_tokens = 0
    if output_tokens < 0:  # noqa: PLR1730
        output_tokens = 0
    if cached_tokens > input_tokens:
        cached_tokens = input_tokens
    elif cached_tokens < 0:
        cached_tokens = 0
    pico = (
        (input_tokens - cached_tokens) * price.input_pusd
        + cached_tokens * price.cached_input_pusd
        + output_tokens * price.output_pusd
    )
    return -(-pico // PICO_PER_MICRO)
