# cython: auto_pickle=False, autotestdict=False
"""What one request asks for and comes to: estimated, reserved, sent, settled, recorded.

    Permit  one key on one route for one model: what is the same for all of its requests
    Way     one target of it: where it goes, its limits, prices and estimates
    Ask     one request: what it reserves, and the ways it may go
    Books   what becomes of its attempts: in the call, the ledger and the limits

An attempt has one record in the ledger. It is written when the next attempt begins, or when the request
is settled; the client pays for the last one alone. The order is that of a crash: the hold knows the
figures, then the ledger has them, then the hold is closed. What a worker leaves in between is written by
the supervisor under the same attempt id, and a reader takes one of the two.

Compiled because it runs for every request: 2 us in ordinary Python, a seventh of what nginx spends.
"""

from secrets import randbits

cimport cython

from cpython.unicode cimport PyUnicode_DecodeASCII

from llmgw._core.estimate cimport ModelEstimate
from llmgw._core.limiter cimport Hold, Limiter
from llmgw._core.record cimport compose_record
from llmgw._wire.call cimport Call
from llmgw._wire.skim cimport Skim

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

# Passed on as they come, but read: prompts with `max_tokens`.
PROMPTED = frozenset({"/v1/messages"})

cdef enum:
    ID_BITS = 62                    # of a process's first attempt id; the following ones count up from there


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

    A maximum of -1 is unknown. `names` begins what the supervisor needs to account for a dead worker.
    """

    cdef readonly object upstream
    cdef readonly str model
    cdef readonly str label             # of the model in the configuration
    cdef readonly tuple gauges          # the target's own
    cdef readonly ModelEstimate estimate
    cdef readonly str encoding          # to count prompts exactly, or ""
    cdef readonly bint is_priced
    cdef long long _input_pusd, _cached_pusd, _output_pusd
    cdef readonly long long request_pusd
    cdef long long _max_input, _max_output
    cdef bytes _names

    def __init__(
        self, object upstream, str model not None, str label not None, tuple gauges not None,
        ModelEstimate estimate not None, tuple prices, long long max_input, long long max_output,
        str encoding not None, bytes names not None,
    ):
        self.upstream, self.model, self.label, self.gauges = upstream, model, label, gauges
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

    cdef long long _flat_cost_usd_micro(self, Call call):
        """Of an answer without tokens: its price as a request, if it has one."""
        if self.request_pusd and 200 <= call.status < 400 and call.method not in FREE:
            return self.cost_usd_micro(0, 0, 0)
        return -1


cdef struct Most:
    # Over all ways: the dearest prices, and the longest answer (-1: unknown).
    long long input_pusd, output_pusd, request_pusd, output_tokens


@cython.final
cdef class Permit:
    """`ways`: what `order` gives where the strategy chooses nothing, else None, and `choose` gives them.

    `counts_money`: a budget applies, if only a shadow one; `has_budget`: one that refuses.
    """

    cdef readonly object principal, plan
    cdef readonly tuple caller          # gauges of every request
    cdef readonly bint is_batch, is_exact, counts_money, has_budget, limits_users
    cdef readonly double max_wait_s     # of the key
    cdef readonly int weight            # of its tenant, where tenants wait
    cdef readonly bint costs_tokens     # what is sent there is a prompt
    cdef tuple _ways
    cdef object _choose
    cdef bint _is_text, _says_max_output
    cdef Most _most

    def __init__(
        self, principal, plan, tuple caller not None, route, str call_endpoint not None, *, bint is_batch, bint is_exact, bint limits_users,
        double max_wait_s, int weight,
    ):
        self.principal, self.plan, self.caller = principal, plan, caller
        self.is_batch, self.is_exact, self.limits_users = is_batch, is_exact, limits_users
        self.max_wait_s, self.weight = max_wait_s, weight
        self.costs_tokens = route.costs_tokens or call_endpoint in PROMPTED
        self._is_text = route.is_text
        self._says_max_output = route.says_max_output
        self.counts_money, self.has_budget = in_money(caller), in_money(caller, True)

    def lead(self, tuple ways not None, choose=None):
        """Where its requests can go: always in this order, or, of these, what `choose()` gives."""
        cdef Way way
        self._ways, self._choose = ways if choose is None else None, choose
        self._most.output_tokens = 0
        for way in ways:
            self._most.input_pusd = max(self._most.input_pusd, way._input_pusd)
            self._most.output_pusd = max(self._most.output_pusd, way._output_pusd)
            self._most.request_pusd = max(self._most.request_pusd, way.request_pusd)
            if way._max_output < 0 or self._most.output_tokens < 0:
                self._most.output_tokens = -1
            else:
                self._most.output_tokens = max(self._most.output_tokens, way._max_output)

    def order(self):
        """Best first; a later one is only chosen when it is asked for."""
        return self._ways if self._ways is not None else self._choose()

    def plain_ask(self, Call call not None, Skim facts):
        """Of a request that says nothing of itself which limits must heed. None: `Admission.ask` looks closer."""
        cdef Way way
        cdef bint has_tokens = self.costs_tokens and facts is not None
        if call.tags is not None or call.priority is not None or call.max_wait is not None:
            return None
        if self.limits_users and call.user is not None:
            return None
        ask = Ask(self.caller, self.order(), self.is_batch)
        ask.max_wait_s = self.max_wait_s
        way = ask.maybe_way(0)
        if way is None or (self.has_budget and not (has_tokens and way.is_priced)):
            return None
        if has_tokens:
            self.estimate(ask, way, facts, self.counts_money)
        return ask

    cpdef estimate(self, Ask ask, Way way, Skim facts, bint counts_money):
        """Sets what to reserve: by the first way's tokens and the dearest way's price, as it may go any of them."""
        cdef long long output_tokens = 0
        ask.input_tokens = way.estimate.input_tokens(facts.prompt_bytes, way._max_input)
        if self._is_text:
            output_tokens = way.estimate.output_tokens(
                facts.max_output_tokens if self._says_max_output else facts.max_tokens, facts.n, self._most.output_tokens,
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


def in_money(gauges, bint enforced=False):
    """Whether one of them is a budget; `enforced`: one that refuses."""
    for gauge in gauges:
        if gauge.unit == USD and not (enforced and gauge.is_shadow):
            return True
    return False


@cython.final
cdef class Ask:
    """`caller`: the gauges that hold whichever way it goes. `ways` are looked at only as far as they are needed.

    `way` is the number of the one it was admitted to, `pending` the one whose attempt has no record yet.
    """

    cdef readonly tuple caller
    cdef readonly bint is_batch
    cdef readonly long long input_tokens, tokens, usd_micro
    cdef readonly int way
    cdef public tuple tags
    cdef public double max_wait_s       # how long it may wait
    cdef Way pending
    cdef tuple _all                     # of a plan that chooses nothing
    cdef list _chosen                   # of one that does, so far
    cdef object _further

    def __init__(self, tuple caller not None, object ways, bint is_batch):
        self.caller, self.is_batch, self.tags = caller, is_batch, ()
        if isinstance(ways, tuple):
            self._all = ways
        else:
            self._chosen, self._further = [], iter(ways)

    cpdef Way maybe_way(self, int index):
        """The way of that rank; None where there are no more."""
        if self._all is not None:
            return <Way>self._all[index] if index < len(self._all) else None
        while len(self._chosen) <= index:
            way = next(self._further, None)
            if way is None:
                return None
            self._chosen.append(way)
        return <Way>self._chosen[index]

    @property
    def admitted(self):
        return self.maybe_way(self.way)

    def cost(self, long long usd_micro):
        """What is not priced by tokens is reserved at its price as a request."""
        self.usd_micro = usd_micro

    def amounts(self, gauges):
        """What it asks of each."""
        each = (1, self.tokens, self.usd_micro, 1)      # by unit
        return [each[gauge.unit] for gauge in gauges]

    cpdef decide(self, limiter, long long now_us, bint is_waiter):
        """A Hold on the first way that has room, or the Refusal. What the caller's own limits refuse, no way can serve."""
        cdef int index = 0
        refusal = None
        while True:
            way = self.maybe_way(index)
            if way is None:
                return refusal
            if isinstance(limiter, Limiter):
                answer = (<Limiter>limiter).decide(
                    self.caller, way.gauges, self.tokens, self.usd_micro, now_us, self.is_batch, is_waiter,
                )
            else:       # of a simulation
                answer = limiter.admit(
                    self.caller, way.gauges, self.tokens, self.usd_micro, now_us, is_batch=self.is_batch, is_waiter=is_waiter,
                )
            if isinstance(answer, Hold):
                self.way = index
                return answer
            if answer.gauge not in way.gauges:
                return answer
            if refusal is None or is_sooner(answer.wait_us, refusal.wait_us):
                refusal = answer
            index += 1

    def admit_nowait(self, Call call not None, limiter):
        """Reserves where there is room: `call.hold` has it then, and the answer is None; else it is the Refusal."""
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

    def goes(self, int index):
        """It goes that way from here on."""
        self.way = index


cdef bint is_sooner(long long wait_us, long long than_us):
    """Of two targets, which will have room first; one that never will (-1) is the last."""
    return wait_us != -1 and (than_us == -1 or wait_us < than_us)


@cython.final
cdef class Books:
    """One for each worker. `append` takes a record; `failpoint`, where it is not None, the name of a place."""

    cdef object _limiter, _append, _failpoint
    cdef unsigned long long _next_id

    def __init__(self, limiter, append, failpoint=None):
        self._limiter, self._append, self._failpoint = limiter, append, failpoint
        self._next_id = randbits(ID_BITS)

    def sent(self, Call call not None, Way way not None, Ask ask not None):
        """An attempt goes out: from here on it may be billed, also if nobody lives to see its end."""
        self._next_id += 1
        call.attempt_id = self._next_id
        ask.pending = way
        names = way._names + call.request_id.encode()
        if ask.tags or call.user:
            names += b"\0" + ",".join(ask.tags).encode() + b"\0" + (call.user or "").encode("utf-8", "replace")
        (<Hold?>call.hold).sent(
            names, call.attempt_id, ask.input_tokens, way._input_pusd, way._output_pusd, way.request_pusd,
        )
        if self._failpoint is not None:
            self._failpoint("sent")

    def passed_over(self, Call call not None, Ask ask not None, usage):
        """The attempt failed and another follows: it is on record, and not the client's to pay."""
        cdef Way way = ask.pending
        if way is None:
            return
        ask.pending = None
        cost = way.cost_usd_micro(usage[0], usage[2], usage[1]) if usage is not None else -1
        self._record(call, way, ask, usage, cost, False)

    def settle(self, Call call not None, Ask ask, Skim facts, usage):
        """What the request cost, once. `usage`: (input, output, cached tokens, is it estimated), or None: no tokens."""
        cdef Way way = ask.pending if ask is not None else None
        cdef long long tokens, usd_micro
        if usage is not None:
            call.input_tokens, call.output_tokens, call.cached_tokens, is_estimated = usage
            call.usage_source = "estimated" if is_estimated else "reported"
        if way is not None:
            if usage is not None:
                call.cost_usd_micro = way.cost_usd_micro(call.input_tokens, call.cached_tokens, call.output_tokens)
            else:
                call.cost_usd_micro = way._flat_cost_usd_micro(call)
        tokens = max(call.input_tokens, 0) + max(call.output_tokens, 0)
        usd_micro = max(call.cost_usd_micro, 0)
        if self._failpoint is not None:
            self._failpoint("before-settle")
        hold = <Hold?>call.hold
        hold.known(tokens, usd_micro)
        if way is not None:
            ask.pending = None
            self._record(call, way, ask, usage, call.cost_usd_micro, True)
            if self._failpoint is not None:
                self._failpoint("recorded")
        if isinstance(self._limiter, Limiter):
            (<Limiter>self._limiter).close_hold(hold, tokens, usd_micro, (<Limiter>self._limiter).now(), 1)
        else:
            self._limiter.settle(hold, tokens, usd_micro, self._limiter.now_us())
        if self._failpoint is not None:
            self._failpoint("after-settle")
        if way is not None and facts is not None and usage is not None and not is_estimated:
            # An answer that the caller cut off says nothing of the model's own length.
            is_cut = facts.max_tokens >= 0 or facts.max_output_tokens >= 0
            way.estimate.learn(facts.prompt_bytes, call.input_tokens, 0 if is_cut else call.output_tokens)

    cdef int _record(self, Call call, Way way, Ask ask, usage, long long cost, bint is_charged) except -1:
        cdef long long input_tokens = 0, output_tokens = 0, cached_tokens = 0
        source = None
        if usage is not None:
            input_tokens, output_tokens, cached_tokens, is_estimated = usage
            source = "estimated" if is_estimated else "reported"
        self._append(compose_record(
            call, id_text(call.attempt_id), call.outcome, is_charged, False, ask.tags, way.label,
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
