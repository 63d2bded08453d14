# cython: nonecheck=True
"""What one request asks for and comes to: estimated, reserved, sent, settled, recorded.

    Permit   one key on one route for one model: what is the same for all of its requests
    Way      one target of it: where it goes, its limits, health, prices and estimates
    Ask      one request: what it reserves, and the ways it may still go
    Attempt  one request to one target, from the choice to its end
    Away     nobody who could serve it is available now
    Books    what becomes of its attempts: in the call, the ledger and the limits

An attempt that went out has one record in the ledger. It is written when the next attempt begins, or when
the request is settled; the client pays for the one that served it alone. The order is that of a crash: the hold knows the
figures, then the ledger has them, then the hold is closed. What a worker leaves in between is written by
the supervisor under the same attempt id, and a reader takes one of the two.

Compiled because it runs for every request: 2 us in ordinary Python, a seventh of what nginx spends.
"""

from secrets import randbits

cimport cython
from libc.math cimport INFINITY

from cpython.unicode cimport PyUnicode_DecodeASCII

from llmgw._core.clock cimport monotonic_ns, monotonic_s
from llmgw._core.estimate cimport ModelEstimate
from llmgw._core.health cimport STATE_HALF_OPEN, Health, Traffic
from llmgw._core.limiter cimport Hold, Limiter
from llmgw._core.record cimport compose_record
from llmgw._core.select cimport Tier
from llmgw._wire.call cimport Call
from llmgw._wire.skim cimport Skim
from llmgw._wire.usage cimport Usage

from llmgw._core.limiter import USD as _USD
from llmgw.errors import Overloaded

cdef extern from *:
    """
    /* Tokens are a provider's word and prices an operator's: their product may be beyond 64 bits. */
    static inline long long micro_of(
        long long input, long long cached, long long output,
        long long input_pusd, long long cached_pusd, long long output_pusd, long long request_pusd)
    {
        __int128 pico = (__int128)(input - cached) * input_pusd + (__int128)cached * cached_pusd
            + (__int128)output * output_pusd + request_pusd;
        __int128 micro = (pico + 999999) / 1000000;
        return micro > ((__int128)1 << 60) ? 1LL << 60 : (long long)micro;
    }
    """
    long long micro_of(
        long long input, long long cached, long long output, long long input_pusd, long long cached_pusd,
        long long output_pusd, long long request_pusd,
    ) noexcept nogil

# Methods that cost nothing at a provider: what they fetch or remove was paid for when it was made.
FREE = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

cdef int USD = _USD
cdef const char* HEX = b"0123456789abcdef"

cdef enum:
    ID_BITS = 62                    # of a process's first attempt id; the following ones count up from there
    WAYS_MAX = 64                   # bits of a number
    TRAIL_MAX = 32                  # steps that are remembered of one request
    WELL = 0                        # OK, FAILED and IGNORED of `health`
    IGNORED = 2
    TOLD_EVERY_US = 50_000

# Of `health`, as `x-llmgw-route` says it.
VERDICTS = ("ok", "ok", "open", "cooling", "paced")


def cost_usd_micro(
    long long input_tokens, long long cached_tokens, long long output_tokens, long long input_pusd,
    long long cached_pusd, long long output_pusd, long long request_pusd,
):
    """Micro-USD, rounded up; prices are pico-USD per token, and per request. `cached_tokens` are part of the input.

    The counts are a provider's word: none is taken as negative, and no more of the input as cached than
    there is, so that a wrong report cannot lower the bill below that of its own input.
    """
    input_tokens = max(input_tokens, 0)
    cached_tokens = min(max(cached_tokens, 0), input_tokens)
    return micro_of(
        input_tokens, cached_tokens, max(output_tokens, 0), input_pusd, cached_pusd, output_pusd, request_pusd,
    )


@cython.final
cdef class Way:
    """`prices`: pico-USD per input, cached input and output token, and per request; None: unknown.

    A maximum of -1 is unknown. `names` begins what the supervisor needs to account for a dead worker;
    `shown` is "provider/model" in configuration's words, for whoever wants to know where a request went.
    """

    def __init__(
        self, object upstream, str model not None, str label not None, str shown not None, tuple gauges not None,
        Health health not None, Traffic traffic not None, ModelEstimate estimate not None, tuple prices,
        long long max_input, long long max_output, str encoding not None, bytes names not None,
    ):
        self.upstream, self.model, self.label, self.shown, self.gauges = upstream, model, label, shown, gauges
        self.health, self.traffic = health, traffic
        self.provider, self.total_s, self.is_paced = upstream.name, upstream.timeouts.total, upstream.provider.pacing
        self.estimate, self.encoding, self._names = estimate, encoding, names
        self._max_input, self._max_output = max_input, max_output
        self.is_priced = prices is not None
        if prices is not None:
            self._input_pusd, self._cached_pusd, self._output_pusd, self.request_pusd = prices

    cpdef long long cost_usd_micro(self, long long input_tokens, long long cached_tokens, long long output_tokens):
        """-1 where no price is known."""
        if not self.is_priced:
            return -1
        input_tokens = max(input_tokens, 0)
        return micro_of(
            input_tokens, min(max(cached_tokens, 0), input_tokens), max(output_tokens, 0),
            self._input_pusd, self._cached_pusd, self._output_pusd, self.request_pusd,
        )

    cdef long long _flat_cost_usd_micro(self, Call call, Attempt attempt):
        """Without tokens: its price as a request, if it has one and may have been done."""
        if self.request_pusd and attempt.may_be_billed and call.method not in FREE:
            return self.cost_usd_micro(0, 0, 0)
        return -1


@cython.final
cdef class Share:
    """Every so many requests of a model, evenly: the part that a canary or a mirror gets."""

    def __init__(self, double share):
        if not 0 <= share <= 1:
            raise ValueError("a share is 0 to 1")
        self.share = share

    cpdef bint take(self) noexcept:
        self._credit += self.share
        if self._credit < 1 - 1e-9:
            return False
        self._credit -= 1
        return True


@cython.final
cdef class Group:
    """The ways of one permit in one tier; None where it may not go or does not speak the route.

    A way's bit is that of its number in the tier, moved by `first`, so that one number of 64 bits holds all.
    """

    def __init__(self, Tier tier not None, tuple ways not None, int first, Share canary=None):
        if first < 0 or first + len(ways) > WAYS_MAX:
            raise ValueError(f"a model has up to {WAYS_MAX} targets")
        self.tier, self.ways, self.first, self._canary = tier, ways, first, canary
        for number, way in enumerate(ways):
            if way is not None:
                self._bits |= 1ULL << <int>(first + number)


@cython.final
cdef class Away:
    """`wait_us`: until the first target may be available again, -1 where there is none at all."""

    def __init__(self, long long wait_us):
        self.wait_us = wait_us


@cython.final
cdef class Permit:
    """`counts_money`: a budget applies, if only a shadow one; `has_budget`: one that refuses.

    `fallbacks`: by class of failure, the permits for other models, in order. `hedge` and `mirrored` are the
    plan's, None where it has none.
    """

    def __init__(
        self, principal, plan, tuple caller not None, route, *, bint is_batch, bint is_exact, bint limits_users,
        bint looks_closer, double max_wait_s, int weight,
    ):
        self.principal, self.plan, self.caller = principal, plan, caller
        self.is_batch, self.is_exact, self.limits_users = is_batch, is_exact, limits_users
        self.max_wait_s, self.weight = max_wait_s, weight
        self.costs_tokens = route.costs_tokens
        self._is_text = route.is_text
        self._says_max_output = route.says_max_output
        self._looks_closer = looks_closer
        self.counts_money, self.has_budget = in_money(caller), in_money(caller, True)
        self._groups, self.fallbacks = (), {}
        self.hedge = plan.model.hedge if plan.model is not None else None
        self.mirrored = plan.mirrored

    def lead(self, tuple groups not None, dict fallbacks not None):
        """Where its requests can go, best group first, and then by class of failure."""
        cdef Group group
        cdef Permit other
        self._groups, self.fallbacks = groups, fallbacks
        self._has_choice = sum([len(group.ways) for group in groups]) > 1
        self._most.output_tokens = 0
        for group in groups:
            self._bits |= group._bits
            if group._canary is not None:
                self._canary = group
            for number, way in enumerate(group.ways):
                if way is not None:
                    if self.first is None and group._canary is None:
                        self.first = way
                    if way.is_priced:
                        self._priced |= 1ULL << <int>(group.first + number)
                    self._reckon(way)
        for others in fallbacks.values():
            for other in others:
                for group in other._groups:
                    for way in group.ways:
                        if way is not None:
                            self._reckon(way)

    cdef int _reckon(self, Way way) except -1:
        self._most.input_pusd = max(self._most.input_pusd, way._input_pusd)
        self._most.output_pusd = max(self._most.output_pusd, way._output_pusd)
        self._most.request_pusd = max(self._most.request_pusd, way.request_pusd)
        if way._max_output < 0 or self._most.output_tokens < 0:
            self._most.output_tokens = -1
        else:
            self._most.output_tokens = max(self._most.output_tokens, way._max_output)
        return 0

    cpdef plain_ask(self, Call call, Skim facts):
        """Of a request that says nothing of itself which limits must heed. None: `Admission.ask` looks closer."""
        cdef bint has_tokens = self.costs_tokens and facts is not None
        if self._looks_closer or call.tags is not None or call.priority is not None or call.max_wait is not None:
            return None
        if self.limits_users and call.user is not None:
            return None
        if self.first is None or (self.has_budget and not (has_tokens and self.first.is_priced)):
            return None
        ask = Ask(self, self.caller, self.is_batch)
        ask.max_wait_s = self.max_wait_s
        if has_tokens:
            self.estimate(ask, facts, self.counts_money)
        return ask

    cpdef estimate(self, Ask ask, Skim facts, bint counts_money):
        """Sets what to reserve: by the first way's tokens and the dearest way's price, as it may go any of them."""
        cdef long long output_tokens = 0
        cdef Way way = self.first
        ask.input_tokens = way.estimate.input_tokens(facts.prompt_bytes, way._max_input)
        if self._is_text:
            output_tokens = way.estimate.output_tokens(
                facts.max_output_tokens if self._says_max_output else facts.max_tokens,
                choices_of(facts), self._most.output_tokens,
            )
        self._reserve(ask, output_tokens, counts_money)

    def count(self, Ask ask not None, long long input_tokens, bint counts_money):
        """The prompt was counted: that goes before its estimate."""
        cdef long long output_tokens = ask.tokens - ask.input_tokens
        ask.input_tokens = input_tokens
        self._reserve(ask, output_tokens, counts_money)

    cdef int _reserve(self, Ask ask, long long output_tokens, bint counts_money) noexcept:
        ask.tokens = ask.input_tokens + output_tokens
        ask.usd_micro = 0
        if counts_money:
            ask.usd_micro = micro_of(
                ask.input_tokens, 0, output_tokens, self._most.input_pusd, 0, self._most.output_pusd, self._most.request_pusd,
            )
        return 0

    cdef unsigned long long _drawn(self) noexcept:
        """The ways of one request: a canary is among them as often as its share says."""
        if self._canary is None or self._canary._canary.take():
            return self._bits
        return self._bits & ~self._canary._bits

    cdef int _pick(self, unsigned long long bits, long long now_us, Ask ask) except -2:
        """The number of the best way that is available now; -1: none."""
        cdef Group group
        cdef int number
        for group in self._groups:
            if bits & group._bits:
                number = group.tier.pick(
                    (bits & group._bits) >> group.first, now_us, ask.affinity, ask.input_tokens, ask.tokens - ask.input_tokens,
                )
                if number >= 0:
                    return group.first + number
        return -1

    cdef Way _way(self, int number):
        cdef Group group
        for group in self._groups:
            if number < group.first + <int>len(group.ways):
                return <Way>group.ways[number - group.first]
        return None

    cdef long long _wait_us(self, unsigned long long bits, long long now_us) except -2:
        cdef Group group
        cdef long long soonest_us = -1, wait_us
        for group in self._groups:
            if bits & group._bits:
                wait_us = group.tier.wait_us((bits & group._bits) >> group.first, now_us)
                if wait_us >= 0 and (soonest_us < 0 or wait_us < soonest_us):
                    soonest_us = wait_us
        return soonest_us

    def verdicts(self, unsigned long long bits, long long now_us):
        """[(way, verdict of `health`)] of those ways, in the groups' order."""
        cdef Group group
        found = []
        for group in self._groups:
            mask = (bits & group._bits) >> group.first
            if mask:
                for number, verdict in enumerate(group.tier.verdicts(mask, now_us)):
                    if mask >> number & 1:
                        found.append((group.ways[number], verdict))
        return found

    @property
    def bits(self):
        return self._bits

    @property
    def ways(self):
        """All of them, in the groups' order."""
        return tuple(way for group in self._groups for way in (<Group>group).ways if way is not None)


def in_money(gauges, bint enforced=False):
    """Whether one of them is a budget; `enforced`: one that refuses."""
    for gauge in gauges:
        if gauge.unit == USD and not (enforced and gauge.is_shadow):
            return True
    return False


@cython.final
cdef class Attempt:
    """One request to one target. `outcome` is its word in metrics and the ledger.

    It counts as in flight at its target from the choice until `end`, which is told once.
    """

    def __init__(self, Way way not None, int number, long long begun_us):
        self.way, self.bit, self._begun_us = way, 1ULL << number, begun_us
        self.outcome = "cancelled"

    cpdef int set_out(self, Call call) except -1:
        """The request goes there now."""
        call.attempts += 1
        call.provider_used, call.model_used = self.way.provider, self.way.model
        self.began_s = monotonic_s()
        if call.attempts == 1:
            self.way.traffic.offered(health_now_us())

    cpdef int came_back(self, Call call) except -1:
        """Its answer began, or it failed."""
        call.upstream_ms = max(call.upstream_ms, 0.0) + (monotonic_s() - self.began_s) * 1e3

    cpdef bint answered(self, Call call, double answered_s) except -1:
        """What its answer's beginning says of its target. Whether it is time to read the provider's own figures:
        that costs as much as a tenth of a request."""
        cdef long long now_us = health_now_us()
        call.ttft_ms = (answered_s - call.started_s) * 1e3
        if self.outcome == "ok":
            self.way.health.first_byte(<long long>((answered_s - self.began_s) * 1e6), now_us)
            if self.way.health.row.state == STATE_HALF_OPEN and not self.way.health.limits.slow_us:
                # A probe's answer began: a stream may take minutes to say more. Where slow ones count, its end says.
                self._is_counted = True
                self.way.health.checked(True, now_us, now_us - self._begun_us)
        if not self.way.is_paced or now_us - self.way.told_us < TOLD_EVERY_US:
            return False
        self.way.told_us = now_us
        return True

    cpdef int end(self, int outcome) except -1:
        """`outcome`: OK, FAILED or IGNORED of `health`."""
        if not self.is_over:
            self.is_over = True
            if outcome == WELL and self._is_counted:
                outcome = IGNORED
            now_us = health_now_us()
            self.way.health.end(outcome, now_us, now_us - self._begun_us)
        return 0


@cython.final
cdef class Ask:
    """`caller`: the gauges that hold whichever way it goes. `attempt` is the last one that was chosen.

    `permit` is of the model that is being asked: another one after a fallback. `tried` and `barred` are its
    ways that were asked, and that are not to be asked again.
    """

    def __init__(self, Permit permit not None, tuple caller not None, bint is_batch):
        self.permit, self.caller, self.is_batch, self.tags = permit, caller, is_batch, ()
        self.deadline_s = INFINITY
        self.next_key = -1
        self._home = permit
        self._bits = self._home_bits = permit._drawn()

    cpdef double until_s(self, Call call) except? -1:
        """When its time is over, on the monotonic clock: waiting at limits does not count."""
        return min(call.started_s + call.queue_ms * 1e-3 + self.attempt.way.total_s, self.deadline_s)

    def hold_to_price(self):
        """A budget applies: only ways whose price is known. Whether there is one."""
        self._must_price = True
        self._bits &= self.permit._priced
        return self._bits != 0

    def cost(self, long long usd_micro):
        """What is not priced by tokens is reserved at its price as a request."""
        self.usd_micro = usd_micro

    def amounts(self, gauges):
        """What it asks of each."""
        each = (1, self.tokens, self.usd_micro, 1)      # by unit
        return [each[gauge.unit] for gauge in gauges]

    def billed_tokens(self, Attempt attempt not None):
        """What its provider may count of an attempt that failed or lost."""
        return self.input_tokens if attempt.may_be_billed else 0

    def note(self, str shown not None, str word not None):
        """For `x-llmgw-route` and explanations."""
        if self.trail is None:
            self.trail = []
        if len(self.trail) < TRAIL_MAX:
            self.trail.append((shown, word))

    cpdef decide(self, limiter, long long now_us, bint is_waiter):
        """A Hold with an attempt begun at the best way that has room; else the Refusal, or Away.

        What the caller's own limits refuse, no way can serve.
        """
        cdef unsigned long long asked = self._bits & ~self.tried & ~self.barred
        cdef unsigned long long bits = asked
        cdef long long health_us = health_now_us()
        cdef int number
        cdef Way way
        refusal = self.lacking = None
        self._refused = 0
        while True:
            number = self.permit._pick(bits, health_us, self)
            if number < 0:
                return refusal if refusal is not None else Away(self.permit._wait_us(asked, health_us))
            way = self.permit._way(number)
            bits &= ~(1ULL << number)
            if isinstance(limiter, Limiter):
                answer = (<Limiter>limiter).decide(
                    self.caller, way.gauges, self.tokens, self.usd_micro, now_us, self.is_batch, is_waiter,
                )
            else:       # of a simulation
                answer = limiter.admit(
                    self.caller, way.gauges, self.tokens, self.usd_micro, now_us, is_batch=self.is_batch, is_waiter=is_waiter,
                )
            if isinstance(answer, Hold):
                if way.health.begin(health_us):
                    self.attempt = Attempt(way, number, health_us)
                    if self.permit._has_choice:
                        self._note_passed(number, health_us)
                    return answer
                limiter.settle(answer, 0, 0, now_us, 0)     # others were quicker
            elif answer.gauge not in way.gauges:
                return answer
            else:
                if answer.lacking is not None:
                    self.lacking = answer.lacking
                self._refused |= 1ULL << number
                if refusal is None or is_sooner(answer.wait_us, refusal.wait_us):
                    refusal = answer

    cdef int _note_passed(self, int chosen, long long health_us) except -1:
        """Why those that come before the chosen one, or beside it, were not to be had."""
        cdef Group group
        cdef Way way
        cdef int number, verdict
        for group in self.permit._groups:
            if group.first > chosen:
                break
            number = group.first - 1
            for way in group.ways:
                number += 1
                if way is None or number == chosen or not (self._bits & ~self.tried & ~self.barred) >> number & 1:
                    continue
                if self._refused >> number & 1:
                    self.note(way.shown, "limit")
                    continue
                verdict = way.health.verdict(health_us)
                if verdict > 1:
                    self.note(way.shown, VERDICTS[verdict])
        return 0

    cpdef admit_nowait(self, Call call, limiter):
        """Reserves where there is room: `call.hold` has it then, and the answer is None; else a Refusal, or Away."""
        try:
            now_us = limiter.now_us() if not isinstance(limiter, Limiter) else (<Limiter>limiter).now()
            answer = self.decide(limiter, now_us, False)
        except OverflowError as error:
            raise Overloaded("The gateway has no room for another request or another limit.") from error
        if not isinstance(answer, Hold):
            return answer
        call.hold = answer
        call.limit_lines = (<Hold>answer).lines()
        return None

    cpdef unsigned long long left(self, bint again=False) noexcept:
        """Ways that were not tried yet, or, `again`, that were and may be asked again: a bit for each."""
        return self._bits & ~self.barred & (self.tried if again else ~self.tried)

    def has_left(self, bint again=False):
        """Whether a way is available that was not tried yet, or, `again`, one that was."""
        return self.permit._wait_us(self.left(again), health_now_us()) == 0

    def can_repeat(self):
        """Whether there is a way that was tried and may be asked again, now or later."""
        return self.left(True) != 0

    def wait_us(self, bint again=False):
        """Until the first such way may be available; -1: there is none."""
        return self.permit._wait_us(self.left(again), health_now_us())

    def switch(self, Hold hold not None, limiter, long long billed_tokens, unsigned long long bits):
        """To the best of those ways, with the limits it has: None, and an attempt has begun; else a Refusal, or Away.

        What the last one was sent stays counted there.
        """
        cdef long long health_us = health_now_us()
        cdef int number
        cdef Way way
        refusal = self.lacking = None
        while True:
            number = self.permit._pick(bits, health_us, self)
            if number < 0:
                return refusal if refusal is not None else Away(self.permit._wait_us(bits, health_us))
            way = self.permit._way(number)
            bits &= ~(1ULL << number)
            answer = limiter.switch(hold, way.gauges, limiter.now_us(), billed_tokens)
            billed_tokens = 0
            if answer is not None:
                if answer.lacking is not None:
                    self.lacking = answer.lacking
                self.note(way.shown, "limit")
                refusal = answer if refusal is None or is_sooner(answer.wait_us, refusal.wait_us) else refusal
            elif way.health.begin(health_us):
                self.attempt = Attempt(way, number, health_us)
                return None

    def beside(self, limiter):
        """Another way at the same time, with a hold of its own: its Attempt; None where none has room."""
        cdef unsigned long long bits = self.left(False) & ~self.attempt.bit
        cdef long long health_us = health_now_us()
        cdef int number
        cdef Way way
        cdef Attempt attempt
        while True:
            number = self.permit._pick(bits, health_us, self)
            if number < 0:
                return None
            way = self.permit._way(number)
            bits &= ~(1ULL << number)
            answer = limiter.admit((), way.gauges, self.tokens, 0, limiter.now_us(), is_batch=self.is_batch)
            if not isinstance(answer, Hold):
                continue
            if way.health.begin(health_us):
                attempt = Attempt(way, number, health_us)
                attempt.hold = answer
                return attempt
            limiter.settle(answer, 0, 0, limiter.now_us(), 0)

    def follow(self, Attempt attempt not None):
        """From here on that one is the request's."""
        self.attempt = attempt

    def fall_back(self, Permit permit not None):
        """To another model: its ways are as good as new. Back at its own, a request has the canary that it had."""
        cdef unsigned long long drawn = self._home_bits if permit is self._home else permit._drawn()
        self.permit = permit
        self._bits = drawn & (permit._priced if self._must_price else permit._bits)
        self.tried = self.barred = self._refused = self.keys_bit = 0
        self.tries, self.next_key, self.refused_keys = 0, -1, None

    def verdicts(self):
        """[(way, word)] of the ways that the last decision passed over, for explanations."""
        found = []
        for way, verdict in self.permit.verdicts(self._bits & ~self.tried & ~self.barred, health_now_us()):
            if verdict > 1:
                found.append((way, VERDICTS[verdict]))
        return found

    cpdef int abandon(self) except -1:
        """The request is over, however: what was chosen and not ended counts for nothing."""
        if self.attempt is not None and not self.attempt.is_over:
            self.attempt.end(IGNORED)


cdef inline long long choices_of(Skim facts) noexcept:
    """Answers that the request is to have: each prompt gets `n`."""
    return <long long>facts.n * facts.prompts


cdef inline long long health_now_us() noexcept:
    """The clock of `health`."""
    return <long long>(monotonic_ns() // 1000)


cdef bint is_sooner(long long wait_us, long long than_us):
    """Of two targets, which will have room first; one that never will (-1) is the last."""
    return wait_us != -1 and (than_us == -1 or wait_us < than_us)


@cython.final
cdef class Books:
    """One for each worker. `append` takes a record, `count` provider and outcome of an attempt; `failpoint`, where it
    is not None, the name of a place."""

    def __init__(self, limiter, append, count, failpoint=None):
        self._limiter, self._append, self._count, self._failpoint = limiter, append, count, failpoint
        self._next_id = randbits(ID_BITS)

    cpdef int sent(self, Call call, Attempt attempt, Ask ask) except -1:
        """An attempt goes out: from here on it may be billed, also if nobody lives to see its end."""
        cdef Way way = attempt.way
        self._next_id += 1
        attempt.id = self._next_id
        if attempt.hold is None:
            self._tell(call.hold, call, attempt, ask, False)
        else:
            self._tell(attempt.hold, call, attempt, ask, True)
        if self._failpoint is not None:
            self._failpoint("sent")

    cdef int _tell(self, Hold hold, Call call, Attempt attempt, Ask ask, bint is_beside) except -1:
        """The hold, which attempt it stands for if nobody lives to settle it."""
        cdef Way way = attempt.way
        names = way._names + call.request_id.encode()
        if is_beside:
            names = b"beside" + names
        if ask.tags or call.user:
            user = (call.user or "").replace("\0", "")
            names += b"\0" + ",".join(ask.tags).encode() + b"\0" + user.encode("utf-8", "replace")
        hold.sent(
            names, attempt.id, ask.input_tokens, way._input_pusd, way._output_pusd, way.request_pusd,
            <long long>((call.received_s + max(call.queue_ms, 0) * 1e-3) * 1e6),
        )
        return 0

    def take_over(self, Call call not None, Attempt attempt not None, Ask ask not None, long long billed_tokens):
        """The attempt beside the request's own won: from here on the request's hold stands for it.

        The other one's target keeps `billed_tokens` of it; the winner's limits stay in the winner's hold.
        """
        self._limiter.switch(call.hold, (), self._limiter.now_us(), billed_tokens)
        self._tell(call.hold, call, attempt, ask, False)
        (<Hold?>attempt.hold).unsent()

    def passed_over(self, Call call not None, Attempt attempt not None, Ask ask not None, Usage usage):
        """The attempt failed or lost: it is on record, and not the client's to pay."""
        cdef Way way = attempt.way
        if attempt.id == 0 or attempt._is_recorded:
            return
        if usage is not None:
            cost = way.cost_usd_micro(usage.input_tokens, usage.cached_tokens, usage.output_tokens)
        else:
            cost = way._flat_cost_usd_micro(call, attempt)
        self._record(call, attempt, ask, usage, cost, False)

    def give_up(self, Attempt attempt not None, long long billed_tokens):
        """Closes the hold that an attempt beside another had."""
        if attempt.hold is not None and (<Hold>attempt.hold).record != NULL:
            self._limiter.settle(attempt.hold, billed_tokens, 0, self._limiter.now_us(), attempt.id != 0)

    cpdef int settle(self, Call call, Ask ask, Skim facts, Usage usage) except -1:
        """What the request cost, once. `usage` is None for an answer without tokens."""
        cdef Attempt attempt = ask.attempt if ask is not None else None
        cdef Way way = None
        cdef long long tokens, usd_micro, choices, each
        if attempt is not None and attempt.id != 0 and not attempt._is_recorded:
            way = attempt.way
        if usage is not None:
            call.input_tokens, call.output_tokens = usage.input_tokens, usage.output_tokens
            call.cached_tokens = usage.cached_tokens
            call.usage_source = "estimated" if usage.is_estimated else "reported"
        if way is not None:
            if usage is not None:
                call.cost_usd_micro = way.cost_usd_micro(call.input_tokens, call.cached_tokens, call.output_tokens)
            else:
                call.cost_usd_micro = way._flat_cost_usd_micro(call, attempt)
        tokens = max(call.input_tokens, 0) + max(call.output_tokens, 0)
        usd_micro = max(call.cost_usd_micro, 0)
        if self._failpoint is not None:
            self._failpoint("before-settle")
        hold = <Hold?>call.hold
        hold.known(tokens, usd_micro)
        if way is not None:
            self._record(call, attempt, ask, usage, call.cost_usd_micro, True)
            if self._failpoint is not None:
                self._failpoint("recorded")
        if isinstance(self._limiter, Limiter):
            (<Limiter>self._limiter).close_hold(hold, tokens, usd_micro, (<Limiter>self._limiter).now(), 1)
        else:
            self._limiter.settle(hold, tokens, usd_micro, self._limiter.now_us())
        if attempt is not None and attempt.hold is not None:
            self.give_up(attempt, tokens)
        if self._failpoint is not None:
            self._failpoint("after-settle")
        if way is not None and facts is not None and usage is not None and not usage.is_estimated:
            # An answer that the caller cut off says nothing of the model's own length.
            is_cut = facts.max_tokens >= 0 or facts.max_output_tokens >= 0
            choices = choices_of(facts)
            each = (max(call.output_tokens, 0) + choices - 1) // choices
            way.estimate.learn(facts.prompt_bytes, call.input_tokens, 0 if is_cut else each)

    cdef int _record(self, Call call, Attempt attempt, Ask ask, Usage usage, long long cost, bint is_charged) except -1:
        cdef long long input_tokens = 0, output_tokens = 0, cached_tokens = 0
        cdef Way way = attempt.way
        source = None
        attempt._is_recorded = True
        self._count(way.provider, attempt.outcome)
        if usage is not None:
            input_tokens, output_tokens, cached_tokens = usage.input_tokens, usage.output_tokens, usage.cached_tokens
            source = "estimated" if usage.is_estimated else "reported"
        self._append(compose_record(
            call, way.upstream.name, way.model, id_text(attempt.id), attempt.outcome, is_charged, False, ask.tags, way.label,
            call.status if is_charged else 0, input_tokens, output_tokens, cached_tokens, source, cost, -1.0,
        ))
        return 0


cdef str id_text(unsigned long long attempt_id):
    """16 hex digits."""
    cdef char digits[16]
    cdef int index
    for index in range(15, -1, -1):
        digits[index] = HEX[attempt_id & 15]
        attempt_id >>= 4
    return PyUnicode_DecodeASCII(digits, 16, NULL)
