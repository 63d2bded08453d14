"""Active health checks: a provider is asked now and then how it is, beside the requests.

One worker of a machine asks; the targets' health in the segment tells all of them. Whatever a provider
answers below 500 is a sign of life: whether our key is good there is another matter, which requests find out.
A check has a connection of its own, so that it sees what a new one meets, and takes none from a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from random import random
from time import monotonic
from typing import Final

from llmgw._core.health import Board, Health
from llmgw._wire.call import Call
from llmgw._wire.serving import Serving
from llmgw.config import HealthCheck
from llmgw.dialects import OTHER
from llmgw.errors import UpstreamError
from llmgw.metrics import Metrics
from llmgw.routing.causes import class_number
from llmgw.routing.healths import Healths, to_us
from llmgw.upstream import Upstream

logger = logging.getLogger("llmgw")

# Machines that started together do not ask together: each time it is this part earlier or later.
JITTER: Final = 0.1
ILL_FROM: Final = 500
WELL: Final = "ok"


class Checkup:
    """Of the providers of one configuration, from now on until `close`. Made on the loop."""

    def __init__(
        self, upstreams: Iterable[Upstream], healths: Healths, board: Board, metrics: Metrics
    ) -> None:
        self.checks: list[Check] = []
        for upstream in upstreams:
            settings = upstream.provider.health_check
            if settings is not None:
                targets = [health for provider, _, health in healths.known() if provider == upstream.name]
                self.checks.append(Check(upstream, settings, targets, board, metrics))

    def close(self) -> None:
        for check in self.checks:
            check.close()


class Check:
    """One provider's: the next one is due `every` after the last began, and never beside it."""

    def __init__(
        self,
        upstream: Upstream,
        settings: HealthCheck,
        targets: list[Health],
        board: Board,
        metrics: Metrics,
    ) -> None:
        self.upstream, self.settings, self.targets = upstream, settings, targets
        self.board, self.metrics = board, metrics
        self.turn = 0
        self.serving: Serving | None = None
        self.began_s = 0.0
        self.rest(random() * settings.every_s)

    def rest(self, seconds: float) -> None:
        self.timer = asyncio.get_running_loop().call_later(seconds, self.begin)

    def begin(self) -> None:
        self.began_s = monotonic()
        self.serving = Serving(self.run(), self.on_done)
        self.serving.start()

    async def run(self) -> None:
        """Tells each target how its provider is."""
        outcome = await self.outcome()
        now_us = self.board.now_us()
        for health in self.targets:
            if outcome != WELL:
                health.blame(class_number(outcome))
            health.checked(outcome == WELL, now_us, to_us(monotonic() - self.began_s))
        self.metrics.health_check(self.upstream.name, outcome)

    async def outcome(self) -> str:
        """`ok`, or a word for what is wrong."""
        within_s = self.settings.timeout_s
        until_s = self.began_s + within_s
        try:
            connection = await self.upstream.pool.connect(until_s)
            try:
                await connection.ask(self.head(), [], None, within_s, within_s, until_s)
            finally:
                connection.close()
        except UpstreamError as error:
            return error.cause
        return WELL if connection.status < ILL_FROM else "server_error"

    def head(self) -> bytes:
        """A GET of the path below the provider's address, with its keys in turn."""
        call = Call()
        call.route, call.method = OTHER, "GET"
        path, mark, query = self.settings.path.partition("?")
        call.endpoint, call.query = "/v1" + path, mark + query
        self.turn = (self.turn + 1) % self.upstream.key_count
        return self.upstream.head(call, "", self.turn, 0)

    def on_done(self, failure: BaseException | None) -> None:
        self.serving = None
        if isinstance(failure, asyncio.CancelledError):
            return
        if failure is not None:  # a bug of ours; the next one may do better
            logger.error("a health check of %s failed", self.upstream.name, exc_info=failure)
        every_s = self.settings.every_s * (1 + JITTER * (2 * random() - 1))
        self.rest(max(self.began_s + every_s - monotonic(), 0.0))

    def close(self) -> None:
        self.timer.cancel()
        if self.serving is not None:
            self.serving.cancel()
