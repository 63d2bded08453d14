# What the shared segment says of a target, and how it is judged. The judging reads without the lock: each
# field is right by itself, and `Health.begin` judges once more under the lock.

cimport cython
from libc.math cimport ceil, exp
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t

from llmgw._core.segment cimport Segment

cdef enum:
    LOCK_BYTES = 128
    SLOTS_MAX = 256                 # as many as `server.workers` may be
    KEYS = 32
    BUCKETS = 10                    # of a breaker's window
    SECONDS = 11                    # of traffic: ten whole ones and the running one
    BINS = 176                      # of time to first token, 8 an octave, from 64 us to 18 min
    FADE_US = 10_000_000            # time constant of the average of time to first token
    FORGET_US = 30_000_000          # a pace far above what is asked for is forgotten after that
    SECOND_US = 1_000_000
    STATES_COUNT = 3
    EVENTS_COUNT = 5

    STATE_CLOSED = 0
    STATE_OPEN = 1
    STATE_HALF_OPEN = 2

    VERDICT_GO = 0
    VERDICT_PROBE = 1
    VERDICT_OPEN = 2
    VERDICT_COOLING = 3
    VERDICT_PACED = 4


cdef struct TargetRow:
    uint64_t key_low                # both 0: free
    uint64_t key_high
    int32_t state                   # of the breaker
    int32_t inflight                # attempts: the sum of `slots`
    int64_t open_until_us           # OPEN: no probe before then
    int64_t probe_us                # HALF_OPEN: when the last probe was handed out
    double pace_per_s               # at `filled_us`; 0: none
    double tokens                   # attempts that the pace allows, at `filled_us`
    int64_t filled_us
    double ewma_us                  # of time to first token, at `ewma_at_us`; 0: none yet
    int64_t ewma_at_us
    int64_t paused_us[KEYS]         # each key rests until then
    int64_t seen_us                 # the latest moment that was told
    int64_t opened_us               # the last opening
    int64_t open_us                 # how long it lasts; 0: closed since
    int64_t openings
    int32_t failures                # in a row
    int32_t successes               # in HALF_OPEN
    double share                    # of failures, at the last opening
    int64_t width_us                # of a bucket
    int64_t head                    # number of the newest bucket, time // width
    int32_t ended[BUCKETS]          # attempts
    int32_t failed[BUCKETS]         # of those
    int64_t second                  # number of the running one
    int32_t begun                   # attempts, in it
    int32_t begun_before            # and in the one before
    int64_t throttles               # 429s
    int64_t cut_us                  # when the pace was last cut
    double cut_per_s                # the pace just after that
    int64_t needed_us               # when the pace last was near what is asked for
    int32_t samples                 # of time to first token, counted up to MEAN_SAMPLES
    uint32_t weight                 # the sum of `bins`
    int64_t aged_us                 # when `bins` were last halved
    uint32_t bins[BINS]             # 16 for each sample, halved from time to time
    int64_t failing_us              # when the first failure of the row ended
    int64_t begun_since             # attempts, after that
    int32_t begun_in[BUCKETS]       # attempts that began in each; `begun` of the pace is another count
    int64_t begun_us                # the latest attempt's begin
    int32_t blamed                  # why it last failed, in whatever numbers its users have; 0: unknown
    int32_t slots[SLOTS_MAX]        # attempts in flight, of each worker


cdef struct TrafficRow:
    uint64_t key_low                # both 0: free
    uint64_t key_high
    int64_t second                  # number of the newest bucket
    int32_t offered[SECONDS]        # requests
    int32_t retries[SECONDS]
    int32_t hedges[SECONDS]


cdef struct BoardHeader:
    char lock[LOCK_BYTES]
    int64_t repairs                 # how often a process died with the lock


cdef struct Thresholds:
    int64_t failures                # in a row
    double failure_rate
    int64_t min_requests
    int64_t width_us                # of a bucket: a tenth of the window
    int64_t slow_us                 # 0: none is slow
    int64_t open_us
    int64_t max_open_us
    int64_t successes
    int64_t probe_every_us
    bint is_breaking
    bint is_paced
    int keys


@cython.final
cdef class Policy:
    cdef Thresholds _limits


@cython.final
cdef class Board:
    cdef readonly object segment    # Segment, or None
    cdef readonly int slot
    cdef BoardHeader* _header
    cdef TargetRow* _targets
    cdef TrafficRow* _traffics
    cdef int _targets_max, _traffics_max
    cdef char* _owned               # the memory of one that stands alone
    cdef int lock(self) except -1
    cdef void unlock(self) noexcept
    cdef void _repair(self) noexcept
    cdef char* find(self, char* rows, size_t row_bytes, int count, bytes key) except? NULL
    cdef int64_t now(self) noexcept


@cython.final
cdef class Health:
    cdef readonly bytes key
    cdef readonly bint is_shared    # False: the table is full, and this process counts for itself
    cdef Board _board
    cdef TargetRow* row
    cdef TargetRow* _owned
    cdef Thresholds limits
    cdef int _slot
    cdef int64_t _begun_us          # this process's latest attempt
    cdef int64_t spared_us          # when `Tier.pick` last chose it in spite of its breaker; 0: never
    cpdef int verdict(self, int64_t now_us) noexcept
    cpdef int64_t wait_us(self, int64_t now_us) noexcept
    cpdef int maybe_key(self, int first, int64_t now_us) noexcept
    cpdef bint begin(self, int64_t now_us) except -1
    cpdef void first_byte(self, int64_t latency_us, int64_t now_us) except *
    cpdef void end(self, int outcome, int64_t now_us, int64_t duration_us=*) except *
    cpdef void pause(self, int key, int64_t until_us) except *
    cpdef void throttled(self, int64_t now_us) except *
    cpdef void blame(self, int cause) noexcept
    cpdef void told(self, int key, int64_t remaining_requests, int64_t reset_requests_us, int64_t remaining_tokens,
                    int64_t reset_tokens_us, int64_t now_us) except *
    cpdef int64_t quantile_us(self, double share) noexcept
    cdef void _judge(self, int outcome, int64_t now_us, int64_t duration_us) noexcept
    cdef void _step(self, int event, int64_t now_us) noexcept
    cdef int64_t _moment(self) noexcept


@cython.final
cdef class Traffic:
    cdef readonly bytes key
    cdef Board _board
    cdef TrafficRow* _row
    cdef TrafficRow* _owned
    cpdef void offered(self, int64_t now_us) except *
    cpdef bint take_retry(self, int64_t now_us, double ratio, double per_s) except -1
    cpdef bint take_hedge(self, int64_t now_us, double ratio) except -1
    cpdef int give_hedge_back(self, int64_t now_us) except -1
    cdef bint _take(self, int32_t* taken, int64_t now_us, double ratio, double per_s) except -1


# -- judging

cdef inline int64_t breaker_wait_us(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Until the breaker lets an attempt through; 0: it does."""
    if row.state == STATE_CLOSED or not limits.is_breaking:
        return 0
    if row.state == STATE_OPEN:
        return max(row.open_until_us - now_us, 0)
    return max(row.probe_us + limits.probe_every_us - now_us, 0)


cdef inline int64_t keys_wait_us(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Until one of the keys may be used."""
    cdef int64_t soonest_us = INT64_MAX
    cdef int key
    for key in range(limits.keys):
        if row.paused_us[key] <= now_us:
            return 0
        soonest_us = min(soonest_us, row.paused_us[key])
    return soonest_us - now_us


cdef inline int64_t pace_wait_us(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Until the pace allows an attempt. What it grows by since the last one counts from the next one on."""
    cdef double wait_us
    if row.pace_per_s <= 0 or not limits.is_paced or row.tokens >= 1:
        return 0
    if now_us - row.needed_us >= FORGET_US:
        return 0
    wait_us = ceil((1 - row.tokens) / row.pace_per_s * 1e6 - 1e-3)
    return max(row.filled_us + <int64_t>wait_us - now_us, 0)


cdef inline void in_window(
    const TargetRow* row, const Thresholds* limits, int64_t now_us, int32_t* ended, int32_t* failed,
) noexcept nogil:
    """Attempts that ended in the window. Reads only."""
    cdef int64_t number = max(now_us // limits.width_us, row.head)
    cdef int64_t at = row.head
    ended[0] = failed[0] = 0
    if row.width_us != limits.width_us:
        return
    while at > number - BUCKETS and at > row.head - BUCKETS:
        ended[0] += row.ended[at % BUCKETS]
        failed[0] += row.failed[at % BUCKETS]
        at -= 1


cdef inline int32_t begun_in_window(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    cdef int64_t number = max(now_us // limits.width_us, row.head)
    cdef int64_t at = row.head
    cdef int32_t begun = 0
    while at > number - BUCKETS and at > row.head - BUCKETS:
        begun += row.begun_in[at % BUCKETS]
        at -= 1
    return begun


cdef inline double share_of(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Of failures lately; where nothing ended in the window, when the breaker opened last."""
    cdef int32_t ended = 0, failed = 0
    in_window(row, limits, now_us, &ended, &failed)
    return <double>failed / ended if ended > 0 else row.share


cdef inline bint is_ejected(const TargetRow* row, const Thresholds* limits) noexcept nogil:
    return row.state != STATE_CLOSED and limits.is_breaking


cdef inline int verdict_of(const TargetRow* row, const Thresholds* limits, int64_t now_us, bint is_spared) noexcept nogil:
    """`is_spared`: whatever its breaker says."""
    cdef bint is_probe = not is_spared and is_ejected(row, limits)
    if is_probe and breaker_wait_us(row, limits, now_us) > 0:
        return VERDICT_OPEN
    if keys_wait_us(row, limits, now_us) > 0:
        return VERDICT_COOLING
    if pace_wait_us(row, limits, now_us) > 0:
        return VERDICT_PACED
    return VERDICT_PROBE if is_probe else VERDICT_GO


cdef inline double latency_of(const TargetRow* row, int64_t now_us) noexcept nogil:
    """Time to first token as a choice sees it; 0: unknown.

    It fades while nothing is known anew, so that a target that was slow is tried again, but not while an
    attempt that began since is there to tell: else all requests would follow the first one before it had its
    answer. Streams that had their first token tell nothing, and whoever tells nothing for so long is not waited for.
    """
    cdef int64_t age_us = now_us - row.ewma_at_us
    cdef bint is_awaited = row.inflight > 0 and row.begun_us >= row.ewma_at_us and now_us - row.begun_us < FADE_US
    if is_awaited or age_us <= 0 or row.ewma_us <= 0:
        return row.ewma_us
    return row.ewma_us * exp(-<double>age_us / FADE_US)
