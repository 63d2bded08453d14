"""What a provider's answers say of how much more it takes."""

from __future__ import annotations

from time import time

from llmgw._core.ask import Attempt
from llmgw._wire.upstream import Connection
from llmgw.routing.healths import to_us
from llmgw.routing.hints import hints_of


def learn_pace(attempt: Attempt, connection: Connection, tokens: int, now_us: int) -> None:
    """What the provider's own headers say of what is left there, for a request of so many tokens."""
    hints = hints_of(connection.headers, connection.status, time())
    if hints is not None:
        requests_s = room_s(hints.reset_requests_s, hints.limit_requests, 1)
        tokens_s = room_s(hints.reset_tokens_s, hints.limit_tokens, tokens)
        attempt.way.health.told(
            attempt.key,
            hints.remaining_requests,
            now_us + to_us(requests_s) if requests_s >= 0 else -1,
            hints.remaining_tokens,
            now_us + to_us(tokens_s) if tokens_s >= 0 else -1,
            now_us,
        )


def room_s(reset_s: float, limit: int, wanted: int) -> float:
    """A reset is the moment when all of a limit is there again; what is wanted is there sooner."""
    return reset_s * min(wanted / limit, 1.0) if limit > 0 else reset_s
