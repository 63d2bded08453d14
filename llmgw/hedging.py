"""A second attempt at another target, where the first has no answer yet after the usual time.

    first only ── after ──> both ── the first good answer ──> one
                              └──── one fails ──> the other alone ── fails, too ──> failover

The first good answer wins, and the other attempt is cancelled in the very call that brought it: its
connection ends there and then. One that calls the request wrong (a 404 of a misnamed deployment) is kept,
and goes to the client where the other brings nothing better. Both are in the ledger; the client pays for the
winner. Each runs in a Serving of its own, so that either can be ended alone.

What a target that was outpaced had not said by then is told its health as if it came now: it took at
least so long. Were it left out, only quick answers would be counted, the quantile would sink, and ever
more requests would be hedged. A second attempt that lost had less time, and says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import lru_cache, partial
from time import monotonic
from typing import Any, Final

from llmgw._core.ask import Ask, Attempt, Books
from llmgw._core.health import IGNORED, Board
from llmgw._core.limiter import Limiter
from llmgw._wire.call import Call
from llmgw._wire.serving import Serving
from llmgw.admission import Resources
from llmgw.config import Hedge
from llmgw.dialects import Usage
from llmgw.errors import UpstreamError
from llmgw.upstream import Reply

Begin = Callable[[Attempt], Coroutine[Any, Any, Reply]]
UsageOf = Callable[[Attempt], Usage | None]
CLIENT_ERROR: Final = 400


class Hedging:
    def __init__(self, resources: Resources) -> None:
        self.limiter: Limiter = resources.limiter
        self.board: Board = resources.board
        self.books: Books = resources.books

    async def first_good(self, call: Call, ask: Ask, begin: Begin, usage_of: UsageOf) -> Reply:
        """The answer of the attempt that was chosen, or of one beside it. Raises the later UpstreamError."""
        hedge = ask.permit.hedge
        assert hedge is not None
        after_s = after_s_of(hedge, ask.attempt)
        if not after_s or call.upload is not None:
            return await begin(ask.attempt)
        race = Race(begin, ask.attempt)
        began_s, upstream_ms = monotonic(), max(call.upstream_ms, 0.0)
        timer = asyncio.get_running_loop().call_later(after_s, self.join, call, ask, race, hedge.max_extra)
        try:
            reply = await race.run()
        finally:
            timer.cancel()
            if race.second is not None:
                call.upstream_ms = upstream_ms + (monotonic() - began_s) * 1e3  # once, though there were two
                self.account(call, ask, race, race.second, usage_of)
        return reply

    def join(self, call: Call, ask: Ask, race: Race, max_extra: float) -> None:
        """The first is late: another one sets out, where there is one, and room, and not too many did."""
        if race.is_over or not ask.has_left():
            return
        traffic = race.first.way.traffic
        if not traffic.take_hedge(self.board.now_us(), max_extra):
            return
        try:
            second = ask.beside(self.limiter)
        except OverflowError:
            second = None
        if second is None:
            traffic.give_hedge_back(self.board.now_us())
            return
        ask.note(race.first.way.shown, "hedged")
        race.start(second)

    def account(self, call: Call, ask: Ask, race: Race, second: Attempt, usage_of: UsageOf) -> None:
        """Of two attempts one is the request's: the second where it won, else the first."""
        first = race.first
        if race.winner is second:
            self.lose(call, ask, first, usage_of)
            call.fallback_used = call.fallback_used or first.outcome != "cancelled"
            self.books.take_over(call, second, ask, ask.billed_tokens(first))
            ask.follow(second)
        else:
            self.lose(call, ask, second, usage_of)
            self.books.give_up(second, ask.billed_tokens(second))
        call.provider_used, call.model_used = ask.attempt.way.upstream.name, ask.attempt.way.model

    def lose(self, call: Call, ask: Ask, loser: Attempt, usage_of: UsageOf) -> None:
        now_us = self.board.now_us()
        if not loser.is_over:
            if loser.hold is None and loser.outcome == "cancelled":
                loser.way.health.first_byte(round((monotonic() - loser.began_s) * 1e6), now_us)
            loser.end(IGNORED)
            ask.note(loser.way.shown, loser.outcome)
        self.books.passed_over(call, loser, ask, usage_of(loser))


class Race:
    """One attempt, or two; `run` ends with the first answer, or when none can come any more."""

    def __init__(self, begin: Begin, first: Attempt) -> None:
        self.begin = begin
        self.first = first
        self.second: Attempt | None = None
        self.winner: Attempt | None = None
        self.reply: Reply | None = None
        self.spare: tuple[Attempt, Reply] | None = None
        self.failure: BaseException | None = None
        self.running: dict[Attempt, Serving] = {}
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self.over.done()

    async def run(self) -> Reply:
        self.start(self.first)
        try:
            await self.over
        except BaseException:
            self.call_off()
            raise
        if self.reply is None:
            assert self.failure is not None
            raise self.failure
        return self.reply

    def start(self, attempt: Attempt) -> None:
        if attempt is not self.first:
            self.second = attempt
        serving = self.running[attempt] = Serving(self.ask(attempt), partial(self.on_done, attempt))
        serving.start()

    async def ask(self, attempt: Attempt) -> None:
        reply = await self.begin(attempt)
        if reply.connection.status >= CLIENT_ERROR and len(self.running) > 1:
            self.spare = attempt, reply
        else:
            self.winner, self.reply = attempt, reply

    def on_done(self, attempt: Attempt, failure: BaseException | None) -> None:
        del self.running[attempt]
        if self.over.done():
            return  # it lost, or its caller left
        self.failure = failure
        is_good = self.reply is not None
        if not is_good and self.running and (failure is None or isinstance(failure, UpstreamError)):
            return  # the other one may do better
        if self.spare is not None and isinstance(failure, UpstreamError):
            (self.winner, self.reply), self.spare = self.spare, None
        self.over.set_result(None)
        self.end_others()

    def end_others(self) -> None:
        for serving in list(self.running.values()):
            serving.cancel()
        if self.spare is not None:
            _, reply = self.spare
            reply.upstream.release(reply.connection)
            self.spare = None

    def call_off(self) -> None:
        """The caller left; an answer that came in the same turn of the loop is nobody's."""
        self.over.cancel()
        self.end_others()
        if self.reply is not None and self.winner is not None:
            self.reply.upstream.release(self.reply.connection)
            self.winner.outcome = "cancelled"
            self.winner = None


@lru_cache(maxsize=256)
def moment_of(hedge: Hedge) -> tuple[float, float]:
    return hedge.after_share, hedge.after_s


def after_s_of(hedge: Hedge, attempt: Attempt) -> float:
    """When an attempt is late; 0.0 where too little is known of its target to say."""
    share, after_s = moment_of(hedge)
    return attempt.way.health.quantile_us(share) / 1e6 if share else after_s
