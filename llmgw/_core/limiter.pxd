# What the limiter keeps in the shared segment, beside the rows.

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from llmgw._core.window cimport IMAGE_BYTES, Row

cdef enum:
    UNITS = 4
    PARTS_MAX = 32                  # rows of a hold
    NAMES_MAX_BYTES = 760
    SLOTS_MAX = 256                 # as many as `server.workers` may be
    LOCK_BYTES = 128


cdef struct HoldRecord:
    int32_t state                   # FREE, RESERVED, SENT, KNOWN
    int32_t caller_parts            # the first so many rows
    int32_t target_parts            # the others
    int32_t names_bytes
    uint64_t attempt_id
    int64_t amounts[UNITS]          # reserved, in each unit
    int64_t finals[UNITS]           # what it came to, in the state KNOWN
    int64_t input_tokens            # of the prompt, estimated
    int64_t input_pusd              # per token
    int64_t output_pusd
    int64_t request_pusd
    int64_t relayed_bytes           # of text, to the client
    int64_t admitted_us             # wall clock
    int64_t where[PARTS_MAX]        # the bucket's number, or the period's start
    uint32_t rows[PARTS_MAX]
    char names[NAMES_MAX_BYTES]     # what the ledger needs where the worker dies


cdef struct Undo:
    uint32_t row
    int32_t bucket                  # index in the ring; -1: none was changed
    int64_t bucket_value
    char image[IMAGE_BYTES]


cdef struct Header:
    char lock[LOCK_BYTES]
    int64_t anchor_us               # segment time is this plus CLOCK_BOOTTIME
    int64_t last_us                 # the latest moment that was seen
    uint64_t boot[2]                # which boot the anchor is for
    int64_t repairs                 # of what dead holders of the lock had begun
    int64_t waiting_us[SLOTS_MAX]   # until then what rows say of waiters in that slot's worker is true
    int64_t undo_count              # rows in `undo`; > 0: a change is under way
    int64_t undo_at                 # offset of a hold's record from the header; 0: none
    HoldRecord undo_hold
    Undo undo[PARTS_MAX]


cdef struct Part:                       # of a snapshot: one limit, as one request found it
    char key[16]
    int64_t used                        # without the request
    int64_t limit
    int64_t asked
    int64_t wait_us                     # 0: it had room; else as a Refusal's


@cython.final
cdef class Gauge:
    cdef readonly bytes key
    cdef readonly int unit
    cdef readonly int64_t window_us
    cdef public int64_t limit
    cdef readonly bint is_shadow, is_user, is_shared
    cdef readonly object info
    cdef readonly Gauge spare
    cdef readonly int tracked
    cdef public int64_t period_start_us, period_end_us
    cdef uint64_t _low, _high
    cdef int64_t _width_us
    cdef uint32_t _row                  # where it was found last


@cython.final
cdef class Refusal:
    cdef readonly Gauge gauge
    cdef readonly int64_t used, requested, wait_us, reset_us
    cdef readonly tuple lacking
    cdef tuple _caller, _target
    cdef int64_t _amounts[UNITS]
    cdef int64_t _used[PARTS_MAX]       # of each limit that was looked at
    cdef int64_t _waits[PARTS_MAX]
    cpdef bytes snapshot(self)


@cython.final
cdef class Hold:
    cdef HoldRecord* record             # NULL: settled
    cdef tuple _caller, _target
    cdef bint _is_batch
    cdef int _parts                     # of `_used`
    cdef int64_t _amounts[UNITS]        # what was asked for
    cdef int64_t _used[PARTS_MAX]       # before that, of each limit
    cdef readonly int64_t limit_requests, remaining_requests, reset_requests_us
    cdef readonly int64_t limit_tokens, remaining_tokens, reset_tokens_us
    cpdef sent(self, bytes names, uint64_t attempt_id, int64_t input_tokens, int64_t input_pusd,
             int64_t output_pusd, int64_t request_pusd, int64_t admitted_us=*)
    cpdef known(self, int64_t tokens, int64_t usd_micro)
    cpdef bytes lines(self)
    cpdef bytes snapshot(self)
    cdef inline int note(self, Gauge gauge, int64_t left, int64_t reset_us) noexcept


@cython.final
cdef class Limiter:
    cdef readonly object segment        # Segment, or None
    cdef readonly int slot
    cdef public object wake_slot
    cdef Header* _header
    cdef Row* _rows
    cdef uint32_t _config_rows, _user_rows, _hand
    cdef HoldRecord* _holds
    cdef uint32_t _holds_max, _holds_made, _free_count
    cdef uint32_t* _free                # numbers of free records, the top one last
    cdef char* _owned                   # the memory of one that stands alone
    cdef list _settled
    cdef int _stand_alone(self, uint32_t rows, uint32_t holds) except -1
    cdef int64_t now(self) noexcept nogil
    cdef int _lock(self) except -1
    cdef void _unlock(self) noexcept
    cdef void _repair(self) noexcept
    cdef Row* _row_of(self, Gauge gauge, int64_t now_us) noexcept
    cdef Row* _look(self, Gauge gauge) noexcept
    cdef Row* _claim(self, Gauge gauge, int64_t now_us, Row* spare) noexcept
    cdef void _clear(self, Row* row) noexcept
    cdef void _sweep(self, int64_t now_us) noexcept
    cdef bint _is_idle(self, Row* row, int64_t now_us) noexcept
    cdef Row* _journaled(self, Gauge gauge, int64_t now_us) except NULL
    cdef HoldRecord* _take_record(self) except NULL
    cdef int _make_records(self) except -1
    cdef object decide(
        self, tuple caller, tuple target, int64_t tokens, int64_t usd_micro, int64_t now_us, bint is_batch, bint is_waiter,
    )
    cdef inline int _give_record(self, HoldRecord* record) noexcept
    cdef object _take(
        self, HoldRecord* record, Hold hold, tuple caller, tuple target, int64_t now_us, bint is_batch, bint is_waiter,
    )
    cdef bint _judge(
        self, HoldRecord* record, PyObject** gauges, Row** rows, int64_t* waits, int count, int64_t now_us,
        bint is_batch, bint is_waiter,
    ) except -1
    cdef int _charge(
        self, HoldRecord* record, Hold hold, PyObject** gauges, Row** rows, int count, int first, int64_t now_us,
    ) noexcept
    cdef bint _can_sweep(self, Row* spare, int64_t now_us) noexcept
    cdef void _glance(self, Gauge gauge, Row* row, int64_t now_us) noexcept
    cdef int close_hold(self, Hold hold, int64_t tokens, int64_t usd_micro, int64_t now_us, int64_t requests) except -1
    cdef uint64_t _settle(
        self, HoldRecord* record, tuple gauges, int first, int64_t* actual, int64_t now_us, bint is_over,
    ) except? 0xFFFFFFFFFFFFFFFF
    cdef uint64_t _close(
        self, HoldRecord* record, int first, int64_t* actual, int64_t now_us, bint is_over, bint is_dead,
    ) noexcept
    cdef int _wake(self, uint64_t waiters, int64_t now_us) except -1
    cdef void _commit(self) noexcept
    cdef int _set_degraded(self, Gauge gauge, int64_t is_degraded, int64_t cap) except -1
