"""One line of calls to Redis: numbered upward, one exchange in the air, none of them lost sight of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from llmgw.limits.fleet import Beat, Call, Claim, Lease, Reply
from llmgw.store.adapter import Store, StoreAway

FORGET_US = 1_800_000_000  # half of what the store keeps replies for


class Exchange(NamedTuple):
    calls: list[Call]
    replies: list[Reply]
    sent_us: int  # on the machine's clock, before anything went out


class Line:
    """`asker` is unique in the fleet; `number` is above that of any earlier line of this asker."""

    def __init__(self, store: Store, asker: str, number: int) -> None:
        self._store = store
        self.asker = asker
        self._number = number
        self._unanswered: tuple[list[Call], int] | None = None

    def next_number(self) -> int:
        self._number += 1
        return self._number

    async def exchange(self, calls: Iterable[Call], now_us: int) -> Exchange:
        """StoreAway leaves the calls to `recall`."""
        sent = list(calls)
        assert self._unanswered is None, "what has no answer yet is asked again first"
        try:
            replies = await self._store.exchange(sent)
        except (StoreAway, asyncio.CancelledError):
            self._unanswered = [call for call in sent if not isinstance(call, (Beat, Claim))], now_us
            raise
        return Exchange(sent, replies, now_us)

    async def recall(self, now_us: int) -> Exchange | None:
        """Makes the calls again whose answer never came, by the same numbers: what came of them?"""
        if self._unanswered is None:
            return None
        calls, sent_us = self._unanswered
        if now_us - sent_us > FORGET_US or not calls:
            self._unanswered = None
            self._store.counters.stranded += sum(
                ask.wanted for call in calls if isinstance(call, Lease) for ask in call.asks
            )
            return None
        replies = await self._store.exchange(calls)
        self._unanswered = None
        return Exchange(calls, replies, sent_us)
