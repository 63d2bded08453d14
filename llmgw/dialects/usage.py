"""Tokens of one answer: as the provider reported them, or counted from what was relayed."""

from __future__ import annotations

from typing import NamedTuple

from llmgw._wire.usage import read_usage

# English text of the current vocabularies; errs upward for code and for other scripts in UTF-8.
BYTES_PER_TOKEN = 4


class Usage(NamedTuple):
    """`cached_tokens` are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    is_estimated: bool = False


def reported_usage(raw: bytes | None) -> Usage | None:
    """`raw` is a provider's usage object. None where it tells nothing that can be charged."""
    counts = read_usage(raw) if raw is not None else None
    return Usage(*counts) if counts is not None else None


def estimated_usage(prompt_bytes: int, text_bytes: int) -> Usage:
    """At least one token each way that bytes went: unknown usage is never free."""
    return Usage(-(-prompt_bytes // BYTES_PER_TOKEN), -(-text_bytes // BYTES_PER_TOKEN), is_estimated=True)
