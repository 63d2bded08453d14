"""What a request may say of itself in `x-llmgw-…` headers, as far as limits and deadlines are concerned."""

from __future__ import annotations

import re

from llmgw.config import units
from llmgw.errors import BadRequest

TAGS_MAX = 4  # so that a request's limits can be counted beforehand
# Plain seconds, as other gateways take them.
SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
# A request has ended long before.
TIMEOUT_MAX_S = 86_400.0
TIMEOUT_MAX_CHARS = 64
# 1m30s: each with its unit.
PARTS = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h|d))+", re.ASCII)
PART = re.compile(r"[\d.]+[a-z]+")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def tags_of(header: bytes | None) -> tuple[str, ...]:
    """`a,b`: each once, in order. Raises BadRequest."""
    if not header:
        return ()
    tags = tuple(dict.fromkeys(part.strip() for part in header.decode("latin-1").split(",")))
    if len(tags) > TAGS_MAX or not all(TAG.fullmatch(tag) for tag in tags):
        raise BadRequest(
            f"x-llmgw-tags takes up to {TAGS_MAX} names of letters, digits and . _ - with commas between.",
            param="x-llmgw-tags",
        )
    return tags


def is_batch(header: bytes | None, *, is_batch_key: bool) -> bool:
    """A request may stand back, but no batch key can put itself forward. Raises BadRequest."""
    if not header:
        return is_batch_key
    word = header.strip().lower()
    if word not in (b"interactive", b"batch"):
        raise BadRequest("x-llmgw-priority is interactive or batch.", param="x-llmgw-priority")
    return is_batch_key or word == b"batch"


def max_wait_s(header: bytes | None, of_key_s: float, most_s: float) -> float:
    """How long the request may wait: its own word before its key's. Raises BadRequest."""
    if not header:
        return min(of_key_s, most_s)
    try:
        return min(units.duration_s(header.decode("latin-1").strip()), most_s)
    except ValueError:
        raise BadRequest(
            "x-llmgw-max-wait is a duration such as 2s or 250ms.", param="x-llmgw-max-wait"
        ) from None


def timeout_s(header: bytes) -> float:
    """How long the caller waits for its answer: a duration, or seconds; a day at most. Raises BadRequest."""
    text = header.decode("latin-1").strip()
    within_s = 0.0
    if SECONDS.fullmatch(text):
        within_s = float(text)
    elif len(text) <= TIMEOUT_MAX_CHARS and PARTS.fullmatch(text):
        within_s = sum(map(units.duration_s, PART.findall(text)))
    if within_s <= 0:
        raise BadRequest(
            "x-llmgw-timeout is a duration such as 20s or 1m30s, or seconds.", param="x-llmgw-timeout"
        )
    return min(within_s, TIMEOUT_MAX_S)
