"""In place of what has sockets, threads or a clock of its own: what the admission wants of it, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from llmgw._core.limiter import Limiter
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim, skim
from llmgw.admission import Admission, Resources
from llmgw.config import Config
from llmgw.config.encodings import ENCODINGS
from llmgw.dialects import INFERENCE, OTHER, dialect_of
from llmgw.limits.exact import ExactCounter
from llmgw.metrics import Metrics
from llmgw.routing import Catalog
from llmgw.simulate.clock import Clock
from llmgw.simulate.traffic import Request
from llmgw.upstream import Upstream


def call_of(request: Request) -> Call:
    call = Call()
    call.endpoint, call.method = request.endpoint, "POST"
    call.route = INFERENCE.get(request.endpoint, OTHER)
    call.tenant_id, call.key_name = request.tenant, request.key
    call.model_requested = request.model
    call.user = request.user or None
    call.tags = ",".join(request.tags).encode() if request.tags else None
    call.max_wait, call.priority = request.max_wait, request.priority
    call.body = b"%d" % request.prompt_tokens
    return call


def facts_of(request: Request) -> Skim:
    """Of a body of the request's size."""
    head = b'"max_tokens":%d,' % request.max_tokens if request.max_tokens >= 0 else b""
    return skim(b'{%b"messages":"%b"}' % (head, b" " * (request.prompt_bytes - len('""'))))


class KnownCount:
    """In place of a vocabulary: the body says how many tokens it has."""

    async def count(self, body: bytes, _: int) -> int:
        return int(body)

    def close(self) -> None:
        """It has no thread."""


class Provider:
    """What the admission wants to know of an upstream."""

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self.provider = config.providers[name]
        self.timeouts = self.provider.timeouts
        self.dialect = dialect_of(self.provider)


class Refusals:
    """In place of a worker's metrics: `last` is the limit that refused last, until somebody clears it."""

    def __init__(self) -> None:
        self.last = ""

    def refused(self, tenant: str, limit: str) -> None:
        self.last = limit

    def queue_waited(self, waited_s: float) -> None:
        """The call knows."""

    def queue_depth(self, interactive: int, batch: int) -> None:
        """Not asked for."""


class SimulatedLimiter:
    """A limiter of the machine's own, on the machine's own clock. All else it does is the limiter's."""

    OWN: Final = frozenset(("now_us", "slot", "wake_slot"))
    slot: Final = 0

    def __init__(self, clock: Clock, rows: int, holds: int) -> None:
        self._limiter = Limiter(rows=rows, holds=holds)
        self.now_us = clock.now_us
        for name in dir(self._limiter):
            if not name.startswith("_") and name not in self.OWN:
                setattr(self, name, getattr(self._limiter, name))

    @property
    def wake_slot(self) -> Callable[[int], object] | None:
        return self._limiter.wake_slot

    @wake_slot.setter
    def wake_slot(self, wake: Callable[[int], object] | None) -> None:
        self._limiter.wake_slot = wake


class SimulatedAdmission(Admission):
    """The gateway's, on the machine's clock."""

    def __init__(
        self, clock: Clock, config: Config, resources: Resources, refusals: Refusals, catalog: Catalog
    ) -> None:
        self.clock = clock
        upstreams = {name: cast("Upstream", Provider(config, name)) for name in config.providers}
        super().__init__(config, resources, upstreams, cast("Metrics", refusals), catalog)

    def refresh(self, _: float) -> None:
        super().refresh(self.clock.wall_s())

    def load_vocabularies(self) -> None:
        self.counters = dict.fromkeys(ENCODINGS, cast("ExactCounter", KnownCount()))
