"""Sums of records, by any of the words of BY."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from llmgw.config import is_glob
from llmgw.ledger.reader import Record

Group = tuple[str, ...]  # a value for each word


@dataclass(slots=True)
class Sum:
    """Of a group. What its tenants pay for, and apart from it the cost of attempts that they do not."""

    requests: int = 0
    attempts: int = 0  # those that nobody pays for too
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # input tokens too
    cost_usd_micro: int = 0
    uncharged_usd_micro: int = 0
    unpriced: int = 0  # attempts that used tokens at an unknown price: the cost lacks them

    def add(self, record: Record) -> None:
        input_tokens, output_tokens = record["input_tokens"], record["output_tokens"]
        cost_usd_micro = record["cost_usd_micro"]
        self.attempts += 1
        if cost_usd_micro is None:
            self.unpriced += bool(input_tokens or output_tokens)
            cost_usd_micro = 0
        if record["charged"]:  # at most one attempt of a request is
            self.requests += 1
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            self.cached_tokens += record["cached_tokens"]
            self.cost_usd_micro += cost_usd_micro
        else:
            self.uncharged_usd_micro += cost_usd_micro


def model_name(record: Record) -> str:
    """The configured name; what was asked for where that is a pattern."""
    label: str = record["model"]
    requested: str = record["model_requested"]
    return requested if is_glob(label) else label


BY: Final[dict[str, Callable[[Record], Sequence[str]]]] = {
    "tenant": lambda record: (record["tenant_id"],),
    "key": lambda record: (f"{record['tenant_id']}/{record['key_name']}",),
    "model": lambda record: (model_name(record),),
    "provider": lambda record: (record["provider_used"],),
    "user": lambda record: (record["user"] or "",),
    "tag": lambda record: record["tags"] or ("",),
    "day": lambda record: (record["ts"][:10],),  # UTC
}


class Totals:
    """`rows` by group, and `total` of all: a record with two tags is in two rows, but once in the total."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.rows: dict[Group, Sum] = {}
        self.total = Sum()
        self._values = [BY[word] for word in self.by]

    def add(self, record: Record) -> None:
        self.total.add(record)
        for group in product(*(values(record) for values in self._values)):
            found = self.rows.get(group)
            if found is None:
                found = self.rows[group] = Sum()
            found.add(record)
