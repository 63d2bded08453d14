"""One strategy over targets that differ: the gateway's own choice, health and retries, event by event.

Who is picked (`select.Tier`), what is known of a target (`health`), whether and when another attempt
follows (`routing.retry`), and the figures of the failover are what serves; arrivals, targets and time are
models (`strategies_upstream`). One machine, one priority, no fallbacks; the defaults of the configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from llmgw._core.health import FAILED, IGNORED, OK, VERDICTS, Board, Health, Policy
from llmgw._core.select import Tier
from llmgw._wire.affinity import affinity_of
from llmgw.admission import SPREAD, STEP_S
from llmgw.config import Retry, RetryBudget, Timeouts
from llmgw.failover import BLAMELESS, FINAL, PAUSE_S, SILENT_S
from llmgw.routing.catalog import STRATEGIES
from llmgw.routing.causes import PAUSES, Cause
from llmgw.routing.healths import key_of, to_us
from llmgw.routing.retry import StepKind, next_step
from llmgw.simulate.mix import Spread
from llmgw.simulate.strategies_targets import SimulatedTarget
from llmgw.simulate.strategies_upstream import Agenda, SimulatedUpstream

RETRY: Final = Retry()
BUDGET: Final = RetryBudget()
TIMEOUTS: Final = Timeouts()
SCORE: Final = (0.5, 0.3, 0.2)  # cost, latency, quality
USERS: Final = 500
INPUT_TOKENS: Final = Spread(median=600, p99=6000)
OUTPUT_TOKENS: Final = Spread(median=150, p99=1000)
ANSWERED: Final = "ok"


class Traffic(NamedTuple):
    requests_per_s: float = 50.0
    length_s: float = 120.0
    seed: int = 0


@dataclass(slots=True)
class Request:
    at_us: int
    user: int
    input_tokens: int
    output_tokens: int
    tried: int = 0  # a bit for each target
    barred: int = 0
    tries: int = 0
    waited_s: float = 0.0
    end: str = ""  # ANSWERED, or the code of the error


@dataclass(slots=True)
class TargetBook:
    """Of one target under one strategy."""

    attempts: int = 0
    failed: int = 0
    refused: int = 0  # of those: 429
    answered: int = 0
    openings: int = 0
    first_tokens_us: list[int] = field(default_factory=list)  # since the attempt began


@dataclass(slots=True)
class Book:
    """What became of the requests under one strategy."""

    strategy: str
    targets: dict[str, TargetBook]
    offered: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    first_tokens_us: list[int] = field(default_factory=list)  # since the request came
    cost_pusd: int = 0
    attempts: list[tuple[int, int, int]] = field(default_factory=list)  # (at, user, target)

    @property
    def errors(self) -> int:
        return self.ends.total() - self.ends[ANSWERED]


def poisson(traffic: Traffic) -> Iterator[Request]:
    """The same for every strategy."""
    random = Random(f"{traffic.seed}/arrivals")
    at_s = random.expovariate(traffic.requests_per_s)
    while at_s < traffic.length_s:
        yield Request(
            to_us(at_s), random.randrange(USERS), INPUT_TOKENS.draw(random), OUTPUT_TOKENS.draw(random)
        )
        at_s += random.expovariate(traffic.requests_per_s)


def play(strategy: str, targets: Sequence[SimulatedTarget], traffic: Traffic) -> Book:
    return Play(strategy, targets, traffic.seed).run(poisson(traffic))


class Play:
    def __init__(self, strategy: str, targets: Sequence[SimulatedTarget], seed: int = 0) -> None:
        self.agenda = Agenda()
        self.random = Random(f"{seed}/caller")
        self.book = Book(strategy, {target.name: TargetBook() for target in targets})
        board = Board(rows=len(targets))
        self.healths = tuple(board.health(key_of("target", target.name), Policy()) for target in targets)
        self.traffics = tuple(board.traffic(key_of("traffic", target.name)) for target in targets)
        self.targets = tuple(targets)
        self.upstreams = tuple(
            SimulatedUpstream(target, self.agenda, Random(f"{seed}/{target.name}"), TIMEOUTS.first_token)
            for target in targets
        )
        self.tier = Tier(
            board,
            key_of("tier", strategy),
            STRATEGIES[strategy],
            self.healths,
            weights=tuple(target.weight for target in targets),
            prices=tuple(target.prices_pusd for target in targets),
            qualities=tuple(target.quality for target in targets),
            score=SCORE,
        )
        self.tier.seed(seed)
        self.all = (1 << len(targets)) - 1

    def run(self, requests: Iterator[Request]) -> Book:
        self._expect(requests)
        self.agenda.run()
        for target, health in zip(self.targets, self.healths, strict=True):
            openings = health.snapshot(self.agenda.now_us)["openings"]
            assert isinstance(openings, int)
            self.book.targets[target.name].openings = openings
        return self.book

    def _expect(self, requests: Iterator[Request]) -> None:
        request = next(requests, None)
        if request is not None:
            self.agenda.note(request.at_us, self._arrive, request, requests)

    def _arrive(self, request: Request, requests: Iterator[Request]) -> None:
        self._expect(requests)
        self.book.offered += 1
        self.admit(request)

    # -- the first attempt

    def admit(self, request: Request) -> None:
        attempt = self.begin(request, self.left(request))
        if attempt is None:
            self.wait(request)
            return
        attempt.traffic.offered(self.agenda.now_us)
        attempt.send()

    def wait(self, request: Request) -> None:
        """No target is available: until the first one is, where the gateway would wait that long."""
        bits, now_us = self.left(request), self.agenda.now_us
        wait_s = max(self.tier.wait_us(bits, now_us) / 1e6, STEP_S) * (1 + SPREAD * self.random.random())
        words = {VERDICTS[verdict] for verdict in self.tier.verdicts(bits, now_us) if verdict >= 0}
        patience_s = RETRY.base_delay_s if words & PAUSES else 0.0
        if wait_s > patience_s - request.waited_s:
            self.end(request, "no_available_upstream")
            return
        request.waited_s += wait_s
        self.agenda.note(now_us + to_us(wait_s), self.admit, request)

    def left(self, request: Request, *, again: bool = False) -> int:
        return self.all & ~request.barred & (request.tried if again else ~request.tried)

    def pick(self, request: Request, bits: int) -> int:
        return self.tier.pick(
            bits,
            self.agenda.now_us,
            affinity_of(f"user-{request.user}"),
            request.input_tokens,
            request.output_tokens,
        )

    def begin(self, request: Request, bits: int) -> Attempt | None:
        """At the best of them that is available now; None: there is none."""
        while (number := self.pick(request, bits)) >= 0:
            if self.healths[number].begin(self.agenda.now_us):
                return Attempt(self, request, number)
            bits &= ~(1 << number)
        return None

    # -- further ones

    def go_on(self, request: Request, cause: Cause, stated_s: float | None) -> None:
        step = next_step(
            cause,
            attempts=request.tries,
            max_attempts=RETRY.max_attempts,
            has_untried=self.pick(request, self.left(request)) >= 0,
            can_repeat=self.left(request, again=True) != 0,
            stated_s=stated_s,
            left_s=TIMEOUTS.total - (self.agenda.now_us - request.at_us) / 1e6,
            base_s=RETRY.base_delay_s,
            max_s=RETRY.max_delay_s,
            random01=self.random.random(),
        )
        if step.kind is StepKind.FALLBACK:
            self.fail(request, cause)
        else:
            at_us = self.agenda.now_us + to_us(step.after_s)
            self.agenda.note(at_us, self.try_again, request, cause, step.kind is StepKind.SAME)

    def try_again(self, request: Request, cause: Cause, again: bool) -> None:
        attempt = self.begin(request, self.left(request, again=again))
        if attempt is None:
            self.fail(request, cause)
        elif attempt.traffic.take_retry(self.agenda.now_us, BUDGET.ratio, BUDGET.per_second):
            attempt.send()
        else:
            attempt.health.end(IGNORED, self.agenda.now_us, 0)
            self.fail(request, cause)

    def fail(self, request: Request, cause: Cause) -> None:
        codes = {Cause.RATE_LIMIT: "no_available_upstream", Cause.TIMEOUT: "upstream_timeout"}
        self.end(request, codes.get(cause, "upstream_error"))

    def end(self, request: Request, word: str) -> None:
        assert not request.end, "a request ends once"
        request.end = word
        self.book.ends[word] += 1


class Attempt:
    """It is in flight at its target from the choice until its end."""

    def __init__(self, of: Play, request: Request, number: int) -> None:
        self.of, self.request, self.number = of, request, number
        self.began_us = of.agenda.now_us
        self.health: Health = of.healths[number]
        self.traffic = of.traffics[number]
        self.book = of.book.targets[of.targets[number].name]

    def send(self) -> None:
        self.book.attempts += 1
        self.of.book.attempts.append((self.began_us, self.request.user, self.number))
        self.of.upstreams[self.number].ask(self)

    def on_first_token(self) -> None:
        now_us, book = self.of.agenda.now_us, self.of.book
        self.health.first_byte(now_us - self.began_us, now_us)
        self.book.first_tokens_us.append(now_us - self.began_us)
        book.first_tokens_us.append(now_us - self.request.at_us)

    def on_end(self) -> None:
        request = self.request
        self._tell(OK)
        self.book.answered += 1
        input_pusd, output_pusd = self.of.targets[self.number].prices_pusd
        if input_pusd >= 0 and output_pusd >= 0:
            self.of.book.cost_pusd += input_pusd * request.input_tokens + output_pusd * request.output_tokens
        self.of.end(request, ANSWERED)

    def on_failure(self, cause: Cause, stated_s: float | None = None) -> None:
        """As the failover notes it."""
        request, health, now_us, bit = self.request, self.health, self.of.agenda.now_us, 1 << self.number
        self._tell(IGNORED if cause in BLAMELESS else FAILED)
        self.book.failed += 1
        request.tries += 1
        request.tried |= bit
        if cause in FINAL:
            request.barred |= bit
        if cause is Cause.RATE_LIMIT:
            self.book.refused += 1
            health.throttled(now_us)
            health.pause(0, now_us + to_us(stated_s or PAUSE_S))
        elif cause is Cause.TIMEOUT and self.of.pick(request, self.of.left(request)) >= 0:
            health.pause(-1, now_us + to_us(SILENT_S))
        self.of.go_on(request, cause, stated_s)

    def _tell(self, outcome: int) -> None:
        now_us = self.of.agenda.now_us
        self.health.end(outcome, now_us, now_us - self.began_us)
