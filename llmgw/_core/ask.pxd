# What one request asks for and comes to: the fields of ask.pyx, for who is compiled against them.

cimport cython

from llmgw._core.estimate cimport ModelEstimate
from llmgw._core.health cimport Health, Traffic
from llmgw._core.limiter cimport Hold
from llmgw._core.select cimport Tier
from llmgw._wire.call cimport Call
from llmgw._wire.skim cimport Skim
from llmgw._wire.usage cimport Usage


cdef struct Most:
    # Over all ways: the dearest prices, and the longest answer (-1: unknown).
    long long input_pusd, output_pusd, request_pusd, output_tokens


cdef class Attempt


@cython.final
cdef class Way:
    cdef readonly object upstream
    cdef readonly str model
    cdef readonly str label             # of the model in the configuration
    cdef readonly str shown
    cdef readonly str provider
    cdef readonly double total_s        # its deadline for a whole request
    cdef readonly bint is_paced         # its own figures are read
    cdef readonly tuple gauges          # the target's own and its model's
    cdef readonly Health health
    cdef readonly Traffic traffic       # of its provider
    cdef readonly ModelEstimate estimate
    cdef readonly str encoding          # to count prompts exactly, or ""
    cdef readonly bint is_priced
    cdef public long long told_us       # when the provider's own figures were last read
    cdef long long _input_pusd, _cached_pusd, _output_pusd
    cdef readonly long long request_pusd
    cdef long long _max_input, _max_output
    cdef bytes _names

    cpdef long long cost_usd_micro(self, long long input_tokens, long long cached_tokens, long long output_tokens)
    cdef long long _flat_cost_usd_micro(self, Call call, Attempt attempt)


@cython.final
cdef class Share:
    cdef readonly double share
    cdef double _credit

    cpdef bint take(self) noexcept


@cython.final
cdef class Group:
    cdef readonly Tier tier
    cdef readonly tuple ways
    cdef readonly int first
    cdef unsigned long long _bits       # of those that are there, moved
    cdef Share _canary                  # it is only asked in this share of requests


@cython.final
cdef class Away:
    cdef readonly long long wait_us


@cython.final
cdef class Permit:
    cdef readonly object principal, plan
    cdef readonly tuple caller          # gauges of every request
    cdef readonly bint is_batch, is_exact, counts_money, has_budget, limits_users
    cdef readonly double max_wait_s     # of the key
    cdef readonly int weight            # of its tenant, where tenants wait
    cdef readonly bint costs_tokens     # what is sent there is a prompt
    cdef readonly dict fallbacks
    cdef readonly object hedge, mirrored
    cdef readonly Way first             # whose estimates count; None: there is no way
    cdef tuple _groups
    cdef unsigned long long _bits, _priced
    cdef Group _canary
    cdef bint _is_text, _says_max_output, _looks_closer, _has_choice
    cdef Most _most

    cdef int _reckon(self, Way way) except -1
    cpdef estimate(self, Ask ask, Skim facts, bint counts_money)
    cdef int _reserve(self, Ask ask, long long output_tokens, bint counts_money) noexcept
    cdef unsigned long long _drawn(self) noexcept
    cdef int _pick(self, unsigned long long bits, long long now_us, Ask ask) except -2
    cdef Way _way(self, int number)
    cdef long long _wait_us(self, unsigned long long bits, long long now_us) except -2
    cpdef plain_ask(self, Call call, Skim facts)


@cython.final
cdef class Attempt:
    cdef readonly Way way
    cdef readonly unsigned long long bit
    cdef readonly unsigned long long id     # 0: nothing was sent yet
    cdef readonly bint is_over              # its target knows how it ended
    cdef public int key                     # which of the provider's keys it goes with
    cdef public bint may_be_billed          # a request went out, and no refusal came back
    cdef public str outcome
    cdef public double began_s              # monotonic
    cdef public object hold                 # a Hold of its own, where it is asked beside another; else None
    cdef bint _is_recorded
    cdef bint _is_counted                   # its target took its answer's beginning for a success
    cdef long long _begun_us                # of the clock of `health`

    cpdef int end(self, int outcome) except -1
    cpdef int set_out(self, Call call) except -1
    cpdef int came_back(self, Call call) except -1
    cpdef bint answered(self, Call call, double answered_s) except -1


@cython.final
cdef class Ask:
    cdef readonly Permit permit
    cdef readonly tuple caller
    cdef readonly bint is_batch
    cdef readonly long long input_tokens, tokens, usd_micro
    cdef readonly Attempt attempt
    cdef public unsigned long long affinity
    cdef public tuple tags
    cdef public double max_wait_s       # how long it may wait
    cdef public unsigned long long tried, barred
    cdef public int tries               # attempts at the permit's own ways
    cdef public dict refused_keys       # {bit of a way: bits of its keys that this request was refused with}, or None
    cdef public unsigned long long keys_bit     # the way that failed last for its key's sake
    cdef public int next_key            # the key with which it may be asked again at once; -1: none
    cdef public tuple further           # permits of other models that it may still fall back to; None: not yet known
    cdef public double deadline_s       # monotonic: when its caller gives up; infinite where it did not say
    cdef readonly list trail            # [(shown, word)], of what was passed over or failed
    cdef readonly tuple lacking         # gauges of a way that the last choice passed over, as its lease was short; else None
    cdef unsigned long long _bits       # the ways of this request
    cdef Permit _home                   # of the model that was asked for,
    cdef unsigned long long _home_bits  # and its ways
    cdef bint _must_price
    cdef unsigned long long _refused    # of the last decision, by their limits

    cpdef decide(self, limiter, long long now_us, bint is_waiter)
    cdef int _note_passed(self, int chosen, long long health_us) except -1
    cpdef unsigned long long left(self, bint again=*) noexcept
    cpdef double until_s(self, Call call) except? -1
    cpdef admit_nowait(self, Call call, limiter)
    cpdef int abandon(self) except -1


@cython.final
cdef class Books:
    cdef object _limiter, _append, _count, _failpoint
    cdef unsigned long long _next_id

    cdef int _tell(self, Hold hold, Call call, Attempt attempt, Ask ask, bint is_beside) except -1
    cdef int _record(self, Call call, Attempt attempt, Ask ask, Usage usage, long long cost, bint is_charged) except -1
    cpdef int sent(self, Call call, Attempt attempt, Ask ask) except -1
    cpdef int settle(self, Call call, Ask ask, Skim facts, Usage usage) except -1
