"""One machine: what a worker is made of, without its sockets. All its workers are one here."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple, cast

from llmgw._core.ask import Ask, Books, Permit
from llmgw._core.estimate import Estimator
from llmgw._core.limiter import HOLDS_MAX, Gauge, Limiter
from llmgw._wire.call import Call
from llmgw._wire.skim import Skim
from llmgw.access import Keyring, Principal
from llmgw.admission import Resources, tag_of
from llmgw.config import Config
from llmgw.errors import Forbidden, GatewayError, Unauthenticated
from llmgw.ledger import LedgerFile
from llmgw.limits.queue import Queue
from llmgw.limits.rules import Rules
from llmgw.metrics import Metrics
from llmgw.routing import Catalog
from llmgw.simulate.clock import Clock
from llmgw.simulate.standins import Refusals, SimulatedAdmission, SimulatedLimiter, call_of, facts_of
from llmgw.simulate.tally import Tally
from llmgw.simulate.traffic import Request
from llmgw.simulate.wire import SimulatedStore, Wire
from llmgw.store.leases import Leases
from llmgw.waiting import WaitingRoom

USERS_MAX: Final = 8192  # rows of users, as in the segment
HOLDS_MIN: Final = 1024


class World(NamedTuple):
    """What all machines of a run have in common."""

    config: Config
    clock: Clock  # the true one
    estimator: Estimator
    catalog: Catalog
    keyring: Keyring
    principals: dict[tuple[str, str], Principal]
    tally: Tally
    wire: Wire | None
    machines: int

    @classmethod
    def of(
        cls, config: Config, clock: Clock, estimator: Estimator, wire: Wire | None, machines: int
    ) -> World:
        keyring = Keyring(config)
        principals = principals_of(keyring)
        return cls(config, clock, estimator, Catalog(config), keyring, principals, Tally(), wire, machines)


def principals_of(keyring: Keyring) -> dict[tuple[str, str], Principal]:
    """By name: nobody has the credentials of a ledger's keys."""
    return {(one.tenant, one.key_name): one for one in keyring.everyone()}


class Machine:
    """Made in the run's loop."""

    def __init__(self, world: World, index: int, clock: Clock) -> None:
        self.world = world
        self.clock = clock
        self.refusals = Refusals()
        rows = rows_of(world.config)
        limiter = SimulatedLimiter(clock, rows, max(HOLDS_MAX // world.machines, HOLDS_MIN))
        self.limiter = cast("Limiter", limiter)
        waiting = WaitingRoom(
            Queue(world.config.queue.max_waiting), self.limiter, cast("Metrics", self.refusals), ()
        )
        self.leases = self._leases(index, waiting)
        resources = Resources(
            self.limiter,
            world.estimator,
            waiting,
            cast("LedgerFile", None),
            cast("Books", None),
            self.leases,
        )
        self.admission = SimulatedAdmission(clock, world.config, resources, self.refusals, world.catalog)
        self.shared = [gauge for gauge in self.admission.rules.configured() if gauge.is_shared]
        self.permits: dict[tuple[str, str, str, str], Permit] = {}

    def _leases(self, index: int, waiting: WaitingRoom) -> Leases | None:
        wire, redis = self.world.wire, self.world.config.redis
        if wire is None or redis is None:
            return None
        store = SimulatedStore(wire, redis.deadline_s, index)
        leases = Leases(self.limiter, store, f"machine-{index}", 0, tag_of, grace_s=redis.grace_s)
        leases.on_news = waiting.on_release
        leases.start()
        return leases

    # -- a request

    async def serve(self, request: Request) -> None:
        tally, call = self.world.tally, call_of(request)
        book = tally.book(request.tenant, request.key)
        book.offered += 1
        arrived_us = self.clock.now_us()
        leaving = None
        if request.leaves_us:
            task = asyncio.current_task()
            assert task is not None, "a request is served by a task"
            leaving = asyncio.get_running_loop().call_later(request.leaves_us / 1e6, task.cancel)
        self.refusals.last = ""
        try:
            permit = self.permit(call)
            ask = await self.admit(call, facts_of(request), permit)
        except GatewayError as error:
            tally.refuse(request.tenant, request.key, self.refusals.last, error.code or error.type)
            self.refusals.last = ""
        except asyncio.CancelledError:
            book.left += 1
            if call.hold is not None:  # it was admitted the moment its caller left
                self.limiter.settle(call.hold, 0, 0, self.clock.now_us())
        else:
            self.answer(request, call, ask, self.clock.now_us() - arrived_us)
        finally:
            if leaving is not None:
                leaving.cancel()
            if call.queue_ms > 0:
                book.waits_us.append(round(call.queue_ms * 1e3))

    async def admit(self, call: Call, facts: Skim, permit: Permit) -> Ask:
        """As the gateway does. Raises GatewayError."""
        ask = permit.plain_ask(call, facts) or self.admission.ask(call, facts, permit)
        if permit.is_exact:
            await self.admission.count(call, ask, permit)
        refusal = ask.admit_nowait(call, self.limiter)
        if refusal is not None:
            await self.admission.contend(call, permit, ask, refusal)
        return ask

    def permit(self, call: Call) -> Permit:
        """As the gateway judges. Raises GatewayError."""
        place = (call.tenant_id, call.key_name, call.endpoint, call.model_requested)
        permit = self.permits.get(place)
        if permit is not None:
            return permit
        world = self.world
        principal = world.principals.get(place[:2])
        if principal is None:
            raise Unauthenticated("The configuration has no such key.")
        world.keyring.permit_route(principal, call.endpoint)
        if call.model_requested:
            world.keyring.permit_model(principal, call.model_requested)
            plan = world.catalog.find(call.model_requested)
        else:
            if not principal.may_pass_on:
                raise Forbidden("The key has no access to routes without a model.")
            plan = world.catalog.find_route(call.endpoint)
        self.permits[place] = self.admission.permit(principal, plan, call)
        return self.permits[place]

    def answer(self, request: Request, call: Call, ask: Ask, waited_us: int) -> None:
        """The provider begins to answer. What it will have come to is known already."""
        tally, way = self.world.tally, ask.attempt.way
        prompt, output = request.used()
        cost = way.cost_usd_micro(prompt, request.cached_tokens, output)
        book = tally.book(request.tenant, request.key)
        book.admitted += 1
        book.input_tokens += prompt
        book.output_tokens += output
        book.usd_micro += max(cost, 0)
        book.unpriced += cost < 0
        if call.queue_ms <= 0 and waited_us:
            tally.lease_waits_us.append(waited_us)
        tokens = prompt + output
        gauges = ask.caller + way.gauges
        reserved, came_to = [1, ask.tokens, ask.usd_micro, 1], [1, tokens, max(cost, 0), 1]
        tally.admit(gauges, self.world.clock.now_us(), reserved, came_to)
        lasts_us = request.duration_us
        if 0 < request.leaves_us < lasts_us:
            lasts_us = max(request.leaves_us - waited_us, 0)

        def end() -> None:
            ask.abandon()
            self.limiter.settle(call.hold, tokens, max(cost, 0), self.clock.now_us())
            tally.end(gauges)
            if output == request.output_tokens:
                own_length = output if request.max_tokens < 0 else 0
                way.estimate.learn(request.prompt_bytes, prompt, own_length)

        asyncio.get_running_loop().call_later(lasts_us / 1e6, end)

    # -- what a run asks now and then

    def refresh(self) -> None:
        self.admission.refresh(0.0)

    def leased(self, gauge: Gauge) -> int:
        """On lease, and not used."""
        return self.limiter.lease_left(gauge, self.clock.now_us())


def rows_of(config: Config) -> int:
    """With half of them free, so that looking for a row is short."""
    configured = sum(1 for _ in Rules(config).configured())
    users = sum(
        tenant.users.tracked
        for tenant in config.tenants.values()
        if tenant.users.budgets or any(tenant.users.limits.items())
    )
    return 32 + 2 * configured + 2 * min(users, USERS_MAX)
