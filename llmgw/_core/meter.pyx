"""What a worker counts: one call when a request starts, one when it has ended.

The series of a request (its tenant, model, provider and status) are looked up once and kept as
pointers into the segment, so that the end of a request is a dozen additions in memory. Everything
is a 64-bit integer: seconds as micro- or nanoseconds, money as micro-dollars; `metrics` knows the
names and turns them into the units that are shown.

Labels are the caller's duty: names from the configuration, never text of an unauthenticated request.
"""

cimport cython
from libc.math cimport NAN, isnan
from libc.stdint cimport uint64_t

from llmgw._core.clock cimport monotonic_s
from llmgw._core.segment cimport Segment, Worker
from llmgw._core.series cimport Series
from llmgw._wire.call cimport Call

from llmgw._core.series import key_of

# Numbers of the families in the segment. A number is never given another meaning: the version of
# `series` in `segment.wanted` goes up when one of them changes its values.
REQUESTS = 1            # tenant, model, provider, status
DURATION = 2            # model, provider; a histogram in us
FIRST_TOKEN = 3         # model, provider; a histogram in us
OVERHEAD = 4            # no label; a histogram in ns
TOKENS = 5              # tenant, model; three values: input, output, cached
COST = 6                # tenant, model; micro-USD
ATTEMPTS = 7            # provider, outcome
PRICE_UNKNOWN = 8       # model
LINES_DROPPED = 9       # no label
REFUSED = 10            # tenant, limit
SHADOW_REFUSED = 11     # tenant, limit
QUEUE_WAIT = 12         # no label; a histogram in us
LEDGER_LOST = 13        # no label
REDIS_COMMANDS = 15     # result
REDIS_DEGRADED = 16     # no label; us
LEASE_STRANDED = 17     # unit
ALERTS = 18             # result
MIRRORED = 19           # model, outcome
MIRROR_LATENCY = 20     # model, side; a histogram in us
OVERLOADED = 21         # reason
HEALTH_CHECKS = 22      # provider, outcome

# Upper bounds of the buckets, included. 100 us to 300 s: a cached answer to a long generation.
DURATION_BOUNDS_US = (
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 120_000_000, 300_000_000,
)
# 10 us to 1 s: the gateway's own part is some tens of us, and what is above 1 ms is a fault.
OVERHEAD_BOUNDS_NS = (
    10_000, 20_000, 30_000, 40_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 1_000_000_000,
)
# 1 ms to 600 s: the first opening of a window of a second, to the longest that a caller may wait.
WAIT_BOUNDS_US = (
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000, 120_000_000, 300_000_000, 600_000_000,
)

# Family -> (labels in its key, values in its record). A histogram has a value for each bound, one
# for what is above the last, and the sum.
SHAPES = {
    REQUESTS: (4, 1),
    DURATION: (2, len(DURATION_BOUNDS_US) + 2),
    FIRST_TOKEN: (2, len(DURATION_BOUNDS_US) + 2),
    OVERHEAD: (0, len(OVERHEAD_BOUNDS_NS) + 2),
    TOKENS: (2, 3),
    COST: (2, 1),
    ATTEMPTS: (2, 1),
    PRICE_UNKNOWN: (1, 1),
    LINES_DROPPED: (0, 1),
    REFUSED: (2, 1),
    SHADOW_REFUSED: (2, 1),
    QUEUE_WAIT: (0, len(WAIT_BOUNDS_US) + 2),
    LEDGER_LOST: (0, 1),
    REDIS_COMMANDS: (1, 1),
    REDIS_DEGRADED: (0, 1),
    LEASE_STRANDED: (1, 1),
    ALERTS: (1, 1),
    MIRRORED: (2, 1),
    MIRROR_LATENCY: (2, len(DURATION_BOUNDS_US) + 2),
    OVERLOADED: (1, 1),
    HEALTH_CHECKS: (2, 1),
}

cdef enum:
    DURATIONS = 20
    OVERHEADS = 19
    WAITS = 17
    KEPT_BUNDLES = 65_536           # then the table is built anew: a bound, not a size that is ever met

cdef uint64_t DURATION_US[DURATIONS]
cdef uint64_t OVERHEAD_NS[OVERHEADS]
cdef uint64_t WAIT_US[WAITS]

for _index, _bound in enumerate(DURATION_BOUNDS_US):
    DURATION_US[<int>_index] = _bound
for _index, _bound in enumerate(OVERHEAD_BOUNDS_NS):
    OVERHEAD_NS[<int>_index] = _bound
for _index, _bound in enumerate(WAIT_BOUNDS_US):
    WAIT_US[<int>_index] = _bound
assert len(DURATION_BOUNDS_US) == DURATIONS and len(OVERHEAD_BOUNDS_NS) == OVERHEADS
assert len(WAIT_BOUNDS_US) == WAITS


cdef inline void observe(uint64_t* values, const uint64_t* bounds, int count, uint64_t value) noexcept nogil:
    cdef int bucket = 0
    while bucket < count and value > bounds[bucket]:
        bucket += 1
    values[bucket] += 1
    values[count + 1] += value


cdef inline uint64_t scaled(double seconds, double units) noexcept nogil:
    """Seconds in whole units; 0 for what is negative (a clock of another place) or no number."""
    if not seconds > 0:
        return 0
    return <uint64_t>(seconds * units + 0.5) if seconds < 1e9 else <uint64_t>(1e9 * units)


@cython.final
@cython.internal
cdef class Bundle:
    """The series of all requests with the same tenant, model, provider and status; NULL: not needed yet."""

    cdef uint64_t* requests
    cdef uint64_t* duration
    cdef uint64_t* first_token
    cdef uint64_t* tokens
    cdef uint64_t* cost
    cdef uint64_t* price_unknown


@cython.final
@cython.internal
cdef class Cell:
    cdef uint64_t* value


@cython.final
cdef class Meter:
    """The only writer of a slot's metrics; made by the worker that has taken the slot over."""

    cdef readonly Segment segment
    cdef Worker* _worker
    cdef Series _series
    cdef uint64_t* _overhead
    cdef uint64_t* _lines_dropped
    cdef uint64_t* _queue_wait
    cdef uint64_t* _ledger_lost
    cdef dict _bundles                  # (tenant, model, provider, status) -> Bundle
    cdef dict _attempts                 # (provider, outcome) -> Cell
    cdef dict _refusals                 # (tenant, limit), or (reason,) of an overload -> Cell

    def __init__(self, Segment segment, int slot):
        self.segment = segment
        self._worker = segment.worker(slot)
        self._worker.inflight = 0
        self._worker.waiting_interactive = self._worker.waiting_batch = self._worker.redis_state = 0
        self._series = Series(segment, slot)
        for family, (labels, values) in SHAPES.items():
            if labels:
                self._series.ensure_overflow(family, labels, values)
        self._overhead = self._find(OVERHEAD, b"")
        self._lines_dropped = self._find(LINES_DROPPED, b"")
        self._queue_wait = self._find(QUEUE_WAIT, b"")
        self._ledger_lost = self._find(LEDGER_LOST, b"")
        self._bundles, self._attempts, self._refusals = {}, {}, {}

    def started(self):
        self._worker.inflight += 1

    def finished(self, Call call not None, str model_label not None, double overhead_s=NAN, double now_s=-1.0):
        """Counts a request that has ended, whatever ended it. Goes with one `started`.

        `model_label` is the name or pattern of the configuration that served it, "" if none did.
        `overhead_s` is by default what the request took without its waiting; `now_s` is the monotonic clock
        where the caller has just read it.
        """
        cdef Bundle bundle = self._bundle(call, model_label)
        cdef double took_s = (now_s if now_s >= 0 else monotonic_s()) - call.started_s
        if isnan(overhead_s):
            overhead_s = took_s - (max(call.upstream_ms, 0.0) + call.queue_ms) * 1e-3
        self._worker.inflight -= 1
        bundle.requests[0] += 1
        observe(bundle.duration, DURATION_US, DURATIONS, scaled(took_s, 1e6))
        observe(self._overhead, OVERHEAD_NS, OVERHEADS, scaled(overhead_s, 1e9))
        if call.stream and call.ttft_ms >= 0:
            observe(self._first_token(bundle, call, model_label), DURATION_US, DURATIONS, scaled(call.ttft_ms, 1e3))
        if call.input_tokens > 0 or call.output_tokens > 0 or call.cost_usd_micro > 0:
            self._count_usage(bundle, call, model_label)

    def attempt(self, str provider not None, str outcome not None):
        """Counts one call to a provider. `outcome` is one of a few fixed words."""
        self._kept(self._attempts, ATTEMPTS, (provider, outcome))[0] += 1

    def refused(self, str tenant not None, str limit_label not None):
        """Counts one request that a limit refused. `limit_label` is like "tenant:tpm" or "provider:openai:rpm"."""
        self._kept(self._refusals, REFUSED, (tenant, limit_label))[0] += 1

    def mirrored(self, str model_label not None, str outcome not None):
        """Counts one copy of a request, by what became of it: one of a few fixed words."""
        self._add(MIRRORED, key_of(model_label, outcome), 1)

    def mirror_latency(self, str model_label not None, str side not None, double seconds):
        """Counts a request that was copied, and its copy. `side` is "primary" or "mirror"."""
        observe(self._find(MIRROR_LATENCY, key_of(model_label, side)), DURATION_US, DURATIONS, scaled(seconds, 1e6))

    def overloaded(self, str reason not None):
        """Counts one request that this worker had no room for. `reason` is one of a few fixed words."""
        self._kept(self._refusals, OVERLOADED, (reason,))[0] += 1

    def health_check(self, str provider not None, str outcome not None):
        """Counts one active health check. `outcome` is one of a few fixed words."""
        self._add(HEALTH_CHECKS, key_of(provider, outcome), 1)

    def shadow_refused(self, str tenant not None, str limit_label not None, long long count=1):
        """Counts requests that a limit in shadow mode would have refused."""
        self._add(SHADOW_REFUSED, key_of(tenant, limit_label), count)

    def queue_depth(self, long long interactive, long long batch):
        """Says how many requests of each priority wait in the worker's queue now."""
        self._worker.waiting_interactive, self._worker.waiting_batch = interactive, batch

    def queue_waited(self, double seconds):
        """Counts one request that waited and left the queue, whatever for."""
        observe(self._queue_wait, WAIT_US, WAITS, scaled(seconds, 1e6))

    def ledger_lost(self, long long lines):
        """Counts ledger lines that could not be written. Any thread of the worker may call it."""
        self._ledger_lost[0] += <uint64_t>max(lines, 0)

    def redis_command(self, str result not None, long long count=1):
        """Counts commands to Redis. `result` is one of a few fixed words."""
        self._add(REDIS_COMMANDS, key_of(result), count)

    def redis_up(self, is_up):
        """Says whether Redis answers this worker; None where it uses none."""
        self._worker.redis_state = 0 if is_up is None else 2 if is_up else 1

    def redis_degraded(self, double seconds):
        """Counts time in which this worker held to the machine's share, since Redis was away."""
        self._add(REDIS_DEGRADED, b"", <long long>scaled(seconds, 1e6))

    def lease_stranded(self, str unit not None, long long amount):
        """Counts what may have been leased and can never be returned."""
        self._add(LEASE_STRANDED, key_of(unit), amount)

    def alert(self, str result not None):
        """Counts one alert, by what became of it: one of a few fixed words."""
        self._add(ALERTS, key_of(result), 1)

    def dropped_lines(self, long long lines):
        """Counts log lines that were given up. Any thread of the worker may call it."""
        self._lines_dropped[0] += <uint64_t>max(lines, 0)

    cdef uint64_t* _find(self, int family, bytes key) except NULL:
        return self._series.find(family, key, SHAPES[family][1])

    cdef uint64_t* _kept(self, dict cells, int family, tuple labels) except NULL:
        """A counter that requests count with: looked up once."""
        cdef Cell cell = <Cell>cells.get(labels)
        if cell is None:
            if len(cells) >= KEPT_BUNDLES:
                cells.clear()
            cell = Cell()
            cell.value = self._find(family, key_of(*labels))
            cells[labels] = cell
        return cell.value

    cdef int _add(self, int family, bytes key, long long amount) except -1:
        """For counts that are rare, or of batches."""
        self._find(family, key)[0] += <uint64_t>max(amount, 0)
        return 0

    cdef inline Bundle _bundle(self, Call call, str model):
        key = (call.tenant_id, model, call.provider_used, call.status)
        found = self._bundles.get(key)
        return <Bundle>found if found is not None else self._new_bundle(key)

    cdef Bundle _new_bundle(self, tuple key):
        tenant, model, provider, status = key
        if len(self._bundles) >= KEPT_BUNDLES:
            self._bundles.clear()
        bundle = Bundle()
        bundle.requests = self._find(REQUESTS, key_of(tenant, model, provider, str(status)))
        bundle.duration = self._find(DURATION, key_of(model, provider))
        self._bundles[key] = bundle
        return bundle

    cdef uint64_t* _first_token(self, Bundle bundle, Call call, str model) except NULL:
        if bundle.first_token == NULL:
            bundle.first_token = self._find(FIRST_TOKEN, key_of(model, call.provider_used))
        return bundle.first_token

    cdef int _count_usage(self, Bundle bundle, Call call, str model) except -1:
        if bundle.tokens == NULL:
            bundle.tokens = self._find(TOKENS, key_of(call.tenant_id, model))
        bundle.tokens[0] += <uint64_t>max(call.input_tokens, 0)
        bundle.tokens[1] += <uint64_t>max(call.output_tokens, 0)
        bundle.tokens[2] += <uint64_t>max(call.cached_tokens, 0)
        if call.cost_usd_micro >= 0:
            if bundle.cost == NULL:
                bundle.cost = self._find(COST, key_of(call.tenant_id, model))
            bundle.cost[0] += <uint64_t>call.cost_usd_micro
            return 0
        if bundle.price_unknown == NULL:
            bundle.price_unknown = self._find(PRICE_UNKNOWN, key_of(model))
        bundle.price_unknown[0] += 1
        return 0
