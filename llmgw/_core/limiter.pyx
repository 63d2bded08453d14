"""Admission: every limit of a request decided in one critical section of the shared segment.

Three regions: `limits` (the lock, the clock, the undo record), `rows` (what each subject has used, see
`window.pxd`) and `holds` (for each worker slot, what its open requests have reserved). A request is
admitted where every gauge has room, and then all are charged; a refusal charges nothing.

All processes of the machine take one robust lock. Whoever changes rows first copies them, and the
hold, to the undo record; `undo_count = 0` is the commit. The taker of a dead holder's lock puts the
copies back, so a change is whole or has not been. A section takes some 0.2 us.

Times are segment time in microseconds: the wall clock of the moment the segment began, carried on
by CLOCK_BOOTTIME, which no step of the wall clock moves. Amounts are whole: requests, tokens,
micro-USD, slots.
"""

import os
import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from llmgw._core.segment import HOLDS_BYTES, LIMITS_BYTES, ROWS_BYTES

from llmgw._core.robust cimport EOWNERDEAD, ROBUST_BYTES, in_order, robust_init, robust_lock, robust_mend, robust_unlock
from llmgw._core.segment cimport Segment
from llmgw._core.window cimport (
    IMAGE_BYTES, LEASES, RING, WINDOW_BUCKETS, Row, add, advance, begin_period, counts, end_leases, frees_us,
    lease_left, mark_period, sum_of, take_leased, used_since,
)
from llmgw._wire.text cimport put, put_unsigned

cdef extern from *:
    """
    #include <time.h>
    #ifdef CLOCK_BOOTTIME
    enum { LLMGW_CLOCK = CLOCK_BOOTTIME };
    #else
    enum { LLMGW_CLOCK = CLOCK_MONOTONIC };
    #endif
    static inline int64_t boottime_us(void)
    {
        struct timespec now;
        clock_gettime(LLMGW_CLOCK, &now);
        return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    }
    """
    int64_t boottime_us() noexcept nogil

REQUESTS, TOKENS, USD, SLOTS = range(4)
NEVER, UNKNOWN = -1, -2             # Refusal.wait_us
CALENDAR = -1                       # Gauge.window_us

cdef enum:
    UNIT_REQUESTS = 0
    UNIT_TOKENS = 1
    UNIT_USD = 2
    UNIT_SLOTS = 3
    FREE = 0
    RESERVED = 1                    # nothing went out yet
    SENT = 2                        # may be billed
    KNOWN = 3                       # what it came to is known
    PROBES = 256
    SWEEP = 64                      # rows that are looked at for idle ones at a time
    LINES_MAX_BYTES = 512
    HOLDS_STEP = 64                 # records that are put on disk at a time

CONFIG_ROWS = 8192                  # of subjects that the configuration names
USER_ROWS = 8192                    # of users
HOLDS_MAX = 16_384                  # requests that a worker may have in flight
LOCK_S = 5                          # the supervisor has ended a stuck holder by then

cdef int64_t MARK_US = 2_000_000    # of waiters: what a worker that has stopped can hold up others for
cdef int64_t DAY_US = 86_400_000_000
cdef int64_t HUNGRY_MIN_US = 100_000
cdef int64_t HUNGRY_MAX_US = 5_000_000
cdef int64_t NEVER_US = -1
cdef int64_t UNKNOWN_US = -2
cdef int64_t LACKING_US = -3        # only the machine's lease is short

HEADER_BYTES = sizeof(Header)
ROW_BYTES = sizeof(Row)
HOLD_BYTES = sizeof(HoldRecord)
assert ROW_BYTES == IMAGE_BYTES + RING * 8
assert <int>ROBUST_BYTES <= <int>LOCK_BYTES and HEADER_BYTES <= LIMITS_BYTES
assert ROW_BYTES * (CONFIG_ROWS + USER_ROWS) == ROWS_BYTES and HOLD_BYTES * HOLDS_MAX == HOLDS_BYTES


@cython.final
cdef class Gauge:
    """One limit of one subject, as the admission sees it; made once for each configuration and process.

    `key`: 16 bytes that name subject and word. `window_us`: the sliding window, 0 for what is in use at
    the same time, CALENDAR for a period that `period_start_us` and `period_end_us` name (wall clock,
    kept current by the owner). `spare`: of a user's gauge, the one that counts in its place where as many
    users as `tracked` says (of the spare) have rows of their own. `info` is the owner's.
    """

    def __init__(
        self, bytes key not None, int unit, int64_t window_us, int64_t limit, *, bint is_shadow=False,
        bint is_shared=False, object info=None, Gauge spare=None, int tracked=0,
    ):
        if PyBytes_GET_SIZE(key) != 16 or not any(key):
            raise ValueError("a key is 16 bytes, not all of them 0")
        if not 0 <= unit < UNITS or limit < 0 or limit > 1 << 60:
            raise ValueError("a gauge has a unit, and a limit from 0 to 2**60")
        if window_us < CALENDAR or (window_us == 0) != (unit == UNIT_SLOTS):
            raise ValueError("slots, and only slots, have no window")
        self.key, self.unit, self.window_us, self.limit = key, unit, window_us, limit
        self.is_shadow, self.is_shared, self.is_user = is_shadow, is_shared, spare is not None
        self.info, self.spare, self.tracked = info, spare, tracked
        memcpy(&self._low, PyBytes_AS_STRING(key), 8)
        memcpy(&self._high, PyBytes_AS_STRING(key) + 8, 8)
        self._width_us = window_us if window_us <= 0 else (window_us + WINDOW_BUCKETS - 1) // WINDOW_BUCKETS

    def __repr__(self):
        return f"<Gauge {self.info or self.key.hex()} {self.limit}>"


@cython.final
cdef class Refusal:
    """`gauge` refused, with `used` of its limit taken and `requested` asked for.

    `wait_us`: how long until there is room, NEVER (more than the whole limit), or UNKNOWN (when somebody
    gives something back); `reset_us`: until all that is used has left. Where the machine's leases are short and nothing else refused, `lacking` names
    their gauges: once they are granted or denied, the question can be put again.
    """

    cpdef bytes snapshot(self):
        """Every limit that was looked at: a `Part` each."""
        cdef int count = <int>(PyTuple_GET_SIZE(self._caller) + PyTuple_GET_SIZE(self._target))
        return snapshot_of(self._caller, self._target, count, self._amounts, self._used, self._waits)

    def __repr__(self):
        return f"<Refusal {self.gauge!r} used {self.used}, requested {self.requested}, wait {self.wait_us} us>"


@cython.final
@cython.freelist(64)
cdef class Hold:
    """What an admitted request has reserved, and where its tightest limits stand (limit -1: none)."""

    def __cinit__(self):
        self.limit_requests = self.limit_tokens = -1

    @property
    def is_open(self):
        return self.record != NULL

    @property
    def tokens(self):
        return self.record.amounts[UNIT_TOKENS] if self.record != NULL else 0

    @property
    def usd_micro(self):
        return self.record.amounts[UNIT_USD] if self.record != NULL else 0

    cpdef sent(self, bytes names, uint64_t attempt_id, int64_t input_tokens, int64_t input_pusd,
             int64_t output_pusd, int64_t request_pusd, int64_t admitted_us=0):
        """The attempt goes out and may be billed: what it is and costs if nobody lives to settle it.

        `names` is what `give_back` returns then; 760 bytes of it at most. `admitted_us`: unix time, 0: unknown.
        """
        cdef HoldRecord* record = self.record
        if record == NULL:
            return
        record.names_bytes = <int32_t>min(PyBytes_GET_SIZE(names), NAMES_MAX_BYTES)
        memcpy(record.names, PyBytes_AS_STRING(names), record.names_bytes)
        record.attempt_id = attempt_id
        record.input_tokens = input_tokens
        record.input_pusd, record.output_pusd, record.request_pusd = input_pusd, output_pusd, request_pusd
        record.relayed_bytes, record.admitted_us = 0, admitted_us
        in_order()
        record.state = SENT

    def unsent(self):
        """The attempt cannot have been billed."""
        if self.record != NULL:
            self.record.state = RESERVED

    @property
    def progress(self):
        """Address of a 64-bit number: bytes of the answer's text that have gone to the client. Until it is settled."""
        return <size_t>&self.record.relayed_bytes if self.record != NULL else 0

    cpdef known(self, int64_t tokens, int64_t usd_micro):
        """What it came to, before the ledger has it: whoever settles after a crash finds this."""
        cdef HoldRecord* record = self.record
        if record == NULL:
            return
        record.finals[UNIT_TOKENS] = tokens
        record.finals[UNIT_USD] = usd_micro
        in_order()
        record.state = KNOWN

    cpdef bytes lines(self):
        """The `x-ratelimit-…` header lines, or b"" where no such limit applies."""
        cdef char lines[LINES_MAX_BYTES]
        cdef char* at = lines
        if self.limit_requests >= 0:
            at = put_unsigned(put(at, b"x-ratelimit-limit-requests: "), <uint64_t>(self.limit_requests))
            at = put_unsigned(put(at, b"\r\nx-ratelimit-remaining-requests: "), <uint64_t>(self.remaining_requests))
            at = put(put_duration(put(at, b"\r\nx-ratelimit-reset-requests: "), self.reset_requests_us), b"\r\n")
        if self.limit_tokens >= 0:
            at = put_unsigned(put(at, b"x-ratelimit-limit-tokens: "), <uint64_t>(self.limit_tokens))
            at = put_unsigned(put(at, b"\r\nx-ratelimit-remaining-tokens: "), <uint64_t>(self.remaining_tokens))
            at = put(put_duration(put(at, b"\r\nx-ratelimit-reset-tokens: "), self.reset_tokens_us), b"\r\n")
        return PyBytes_FromStringAndSize(lines, at - lines)

    cpdef bytes snapshot(self):
        """Every limit that it passed, the caller's and its last target's: a `Part` each. Also once it is settled."""
        return snapshot_of(self._caller, self._target, self._parts, self._amounts, self._used, NULL)

    cdef inline int note(self, Gauge gauge, int64_t left, int64_t reset_us) noexcept:
        if gauge.unit == UNIT_REQUESTS:
            if self.limit_requests < 0 or left < self.remaining_requests:
                self.limit_requests, self.remaining_requests = gauge.limit, left
                self.reset_requests_us = reset_us
        elif gauge.unit == UNIT_TOKENS:
            if self.limit_tokens < 0 or left < self.remaining_tokens:
                self.limit_tokens, self.remaining_tokens = gauge.limit, left
                self.reset_tokens_us = reset_us
        return 0


@cython.final
cdef class Limiter:
    """One for each process. `slot` is the worker's, -1 the supervisor's, who only looks and gives back.

    Without a segment it stands alone, in memory of its own: for simulations. `wake_slot` is called with
    the number of each slot where somebody waits, when something was given back.
    """

    def __init__(self, Segment segment=None, int slot=-1, *, uint32_t rows=1024, uint32_t holds=4096):
        if self._header != NULL:
            raise ValueError("a limiter is made once")
        self.segment, self.slot, self._settled = segment, slot, []
        if segment is None:
            self._stand_alone(rows, holds)
        else:
            self._header = <Header*>segment.unit("limits", 0)
            self._rows = <Row*>segment.unit("rows", 0)
            self._config_rows, self._user_rows = CONFIG_ROWS, USER_ROWS
            if slot >= 0:
                self._holds = <HoldRecord*>segment.unit("holds", slot)
                self._holds_max = HOLDS_MAX
        self._free = <uint32_t*>malloc(sizeof(uint32_t) * max(self._holds_max, 1))
        if self._free == NULL:
            raise MemoryError()
        if self._holds_max:
            self._make_records()

    cdef int _stand_alone(self, uint32_t rows, uint32_t holds) except -1:
        self._owned = <char*>calloc(1, sizeof(Header) + 2 * rows * sizeof(Row) + holds * sizeof(HoldRecord))
        if self._owned == NULL:
            raise MemoryError()
        self._header = <Header*>self._owned
        self._rows = <Row*>(self._owned + sizeof(Header))
        self._config_rows = self._user_rows = rows
        self._holds = <HoldRecord*>(self._owned + sizeof(Header) + 2 * rows * sizeof(Row))
        self._holds_max, self.slot = holds, 0
        if robust_init(self._header.lock):
            raise OSError("no lock can be made")
        return 0

    def __dealloc__(self):
        free(self._free)
        free(self._owned)

    # -- the supervisor's part

    def prepare(self):
        """Once, before any worker runs: the lock is made anew, the clock goes on, an unfinished change goes back."""
        self._repair()
        memset(self._header.lock, 0, LOCK_BYTES)
        if robust_init(self._header.lock):
            raise OSError("no lock can be made")
        memset(self._header.waiting_us, 0, sizeof(self._header.waiting_us))
        boot = boot_id()
        cdef uint64_t low = int.from_bytes(boot[:8], "little")
        cdef uint64_t high = int.from_bytes(boot[8:], "little")
        is_other = self._header.boot[0] != low or self._header.boot[1] != high
        if self._header.anchor_us == 0 or is_other or self.now() < self._header.last_us:
            start_us = max(time.time_ns() // 1000, self._header.last_us)
            self._header.anchor_us = start_us - boottime_us()
            self._header.boot[0], self._header.boot[1] = low, high

    def give_back(self, int slot, int64_t now_us):
        """Settles what a dead worker left open, at what had gone to its clients.

        [(names, attempt id, is it billed, input tokens, output tokens, micro-USD, admitted in unix us)], the
        amounts as far as they are known. What leases had paid for is left to `take_owed`, of any worker. To be called by the
        supervisor when the process is gone.
        """
        cdef HoldRecord* records = <HoldRecord*>(<Segment>self.segment).unit("holds", slot)
        cdef int64_t actual[UNITS]
        cdef uint32_t index
        found = []
        self._lock()                        # what it was about to change goes back first
        self._unlock()
        for index in range(HOLDS_MAX):
            record = &records[index]
            if record.names_bytes < 0:      # the end of those that were ever used
                break
            if record.state == FREE:
                continue
            what = lost(record, actual)
            self._lock()
            self._close(record, 0, actual, now_us, True, True)
            self._unlock()
            found.append(what)
        self._header.waiting_us[slot] = 0
        for index in range(self._config_rows + self._user_rows):
            if self._rows[index].degraded_by == slot + 1:   # who else is without Redis degrades it anew
                self._lock()
                if self._rows[index].degraded_by == slot + 1:
                    self._rows[index].degraded_by = 0
                self._unlock()
        return found

    # -- the clock

    cdef int64_t now(self) noexcept nogil:
        return self._header.anchor_us + boottime_us()

    def now_us(self):
        return self.now()

    @property
    def is_new(self):
        """Nothing was ever counted here: to be asked before `prepare`."""
        return self._header.anchor_us == 0

    @property
    def repairs(self):
        """How often a change was put back whose process had died in it."""
        return self._header.repairs

    # -- the lock

    cdef int _lock(self) except -1:
        cdef int state = robust_lock(self._header.lock, LOCK_S)
        if state == EOWNERDEAD:
            self._repair()
            robust_mend(self._header.lock)
        elif state:
            raise RuntimeError(f"the segment's lock cannot be taken: {os.strerror(state)}")
        self._header.undo_at = 0
        return 0

    cdef void _unlock(self) noexcept:
        robust_unlock(self._header.lock)

    cdef void _repair(self) noexcept:
        """Puts back what a change had not finished. Buckets that it let go stay gone: they had left."""
        cdef Header* header = self._header
        cdef int64_t index
        if header.undo_count <= 0 or header.undo_count > PARTS_MAX:
            header.undo_count = 0
            return
        for index in range(header.undo_count - 1, -1, -1):
            undo = &header.undo[index]
            row = &self._rows[undo.row]
            if undo.bucket >= 0:
                row.buckets[undo.bucket] = undo.bucket_value
            memcpy(row, undo.image, IMAGE_BYTES)
            if row.width_us > 0:
                row.used = sum_of(row)
        if header.undo_at:
            memcpy(<char*>header + header.undo_at, &header.undo_hold, sizeof(HoldRecord) - NAMES_MAX_BYTES)
        header.repairs += 1
        in_order()
        header.undo_count = 0

    # -- rows

    cdef Row* _row_of(self, Gauge gauge, int64_t now_us) noexcept:
        """NULL where the table is full."""
        cdef Row* row = &self._rows[gauge._row]
        if row.key_low == gauge._low and row.key_high == gauge._high:
            return row
        if gauge.spare is None:
            return self._claim(gauge, now_us, NULL)
        spare = self._row_of(gauge.spare, now_us)
        if spare == NULL:
            return NULL
        row = self._claim(gauge, now_us, spare)
        return row if row != NULL else spare

    cdef Row* _look(self, Gauge gauge) noexcept:
        """The gauge's row if there is one. Needs no lock for a glance at one field."""
        cdef uint32_t size = self._user_rows if gauge.is_user else self._config_rows
        cdef uint32_t start = self._config_rows if gauge.is_user else 0
        cdef uint32_t probe
        for probe in range(min(<uint32_t>PROBES, size)):
            row = &self._rows[start + (<uint32_t>(gauge._low % size) + probe) % size]
            if row.key_low == gauge._low and row.key_high == gauge._high:
                return row
            if is_unused(row):
                break
        return NULL

    cdef Row* _claim(self, Gauge gauge, int64_t now_us, Row* spare) noexcept:
        """Finds the gauge's row, or makes one in the place of a row that holds nothing. Under the lock."""
        cdef uint32_t size = self._user_rows if gauge.is_user else self._config_rows
        cdef uint32_t start = self._config_rows if gauge.is_user else 0
        cdef uint32_t first = <uint32_t>(gauge._low % size)
        cdef uint32_t probe, index
        cdef uint32_t vacant = <uint32_t>-1, idle = <uint32_t>-1
        for probe in range(min(<uint32_t>PROBES, size)):
            index = start + (first + probe) % size
            row = &self._rows[index]
            if row.key_low == gauge._low and row.key_high == gauge._high:
                gauge._row = index
                return row
            if row.key_low == 0 and row.key_high == 0:
                vacant = index if vacant == <uint32_t>-1 else vacant
                if is_unused(row):          # nobody's search went beyond
                    break
            elif idle == <uint32_t>-1 and self._is_idle(row, now_us):
                idle = index
        if spare != NULL and spare.owned >= gauge.spare.tracked:
            self._sweep(now_us)
            if spare.owned >= gauge.spare.tracked:
                return NULL
        index = vacant if vacant != <uint32_t>-1 else idle
        if index == <uint32_t>-1:
            return NULL
        row = &self._rows[index]
        self._clear(row)
        row.width_us, row.unit = gauge._width_us, gauge.unit
        memset(&row.degraded_by, 0, sizeof(Row) - (<char*>&row.degraded_by - <char*>row))
        if spare != NULL:
            spare.owned += 1
            row.owner = <int32_t>(spare - self._rows) + 1
        in_order()
        row.key_high = gauge._high
        in_order()
        row.key_low = gauge._low
        gauge._row = index
        return row

    cdef void _clear(self, Row* row) noexcept:
        """Whoever dies in here, or while a row is made, leaves a user too many counted, never one too few."""
        cdef int32_t owner = row.owner
        row.key_low = row.key_high = 0
        in_order()
        row.owner = 0
        in_order()
        if owner and self._rows[owner - 1].owned:
            self._rows[owner - 1].owned -= 1

    cdef void _sweep(self, int64_t now_us) noexcept:
        """Clears rows of users who are gone, some at a time: their tenant tracks others in their place."""
        cdef uint32_t turn
        for turn in range(min(<uint32_t>SWEEP, self._user_rows)):
            self._hand = (self._hand + 1) % self._user_rows
            row = &self._rows[self._config_rows + self._hand]
            if row.owner and self._is_idle(row, now_us):
                self._clear(row)

    cdef bint _is_idle(self, Row* row, int64_t now_us) noexcept:
        """Whether its place can be taken: nothing in it counts, and the running change does not want it."""
        cdef uint32_t number = <uint32_t>(row - self._rows)
        cdef int64_t index
        if not is_empty(row, now_us):
            return False
        for index in range(self._header.undo_count):
            if self._header.undo[index].row == number:
                return False
        return True

    cdef Row* _journaled(self, Gauge gauge, int64_t now_us) except NULL:
        """The gauge's row, up to now, with its old content in the undo record. Under the lock."""
        cdef Row* row = self._row_of(gauge, now_us)
        if row == NULL:
            raise OverflowError("there is no room for another limit in the segment")
        remember(self._header, self._rows, row)
        advance(row, now_us)
        begin_period(row, gauge.period_start_us, gauge.period_end_us)
        end_leases(row, now_us)
        return row

    # -- admission

    cdef HoldRecord* _take_record(self) except NULL:
        cdef HoldRecord* record
        if self._free_count == 0:
            self._make_records()
        self._free_count -= 1
        record = &self._holds[self._free[self._free_count]]
        return record

    cdef int _make_records(self) except -1:
        cdef uint32_t index, count = min(<uint32_t>HOLDS_STEP, self._holds_max - self._holds_made)
        if count == 0:
            raise OverflowError("more requests are in flight than a worker may have")
        cdef HoldRecord* first = &self._holds[self._holds_made]
        if self.segment is not None:
            # One further, so that the mark of the end is on disk.
            try:
                (<Segment>self.segment).reserve(<char*>first, (count + (self._holds_made + count < self._holds_max)) * sizeof(HoldRecord))
            except OSError as error:
                raise OverflowError("there is no room on the disk for more requests in flight") from error
        if self._holds_made + count < self._holds_max:
            first[count].names_bytes = -1
        for index in range(count, 0, -1):
            memset(&first[index - 1], 0, sizeof(HoldRecord))
            self._free[self._free_count] = self._holds_made + index - 1
            self._free_count += 1
        self._holds_made += count
        return 0

    def admit(
        self, tuple caller not None, tuple target not None, int64_t tokens, int64_t usd_micro, int64_t now_us, *,
        bint is_batch=False, bint is_waiter=False,
    ):
        """A Hold, or a Refusal. Everything or nothing, over both tuples of gauges.

        OverflowError: more requests, or more limits, than there is room for.
        """
        return self.decide(caller, target, tokens, usd_micro, now_us, is_batch, is_waiter)

    cdef object decide(
        self, tuple caller, tuple target, int64_t tokens, int64_t usd_micro, int64_t now_us, bint is_batch, bint is_waiter,
    ):
        if tokens < 0 or usd_micro < 0:
            raise ValueError("amounts are not negative")
        if PyTuple_GET_SIZE(caller) + PyTuple_GET_SIZE(target) > PARTS_MAX:
            raise OverflowError("too many limits for one request")
        cdef HoldRecord* record = self._take_record()
        record.amounts[UNIT_REQUESTS] = record.amounts[UNIT_SLOTS] = 1
        record.amounts[UNIT_TOKENS], record.amounts[UNIT_USD] = tokens, usd_micro
        record.caller_parts = record.target_parts = 0
        record.names_bytes = 0
        record.attempt_id = record.admitted_us = 0
        hold = <Hold>Hold.__new__(Hold)
        hold._caller, hold._target, hold._is_batch = caller, target, is_batch
        memcpy(hold._amounts, record.amounts, sizeof(record.amounts))
        refusal = None
        try:
            refusal = self._take(record, hold, caller, target, now_us, is_batch, is_waiter)
        finally:
            if record.state == FREE:
                self._give_record(record)
        if refusal is not None:
            return refusal
        hold.record = record
        return hold

    cdef inline int _give_record(self, HoldRecord* record) noexcept:
        self._free[self._free_count] = <uint32_t>(record - self._holds)
        self._free_count += 1
        return 0

    def switch(self, Hold hold not None, tuple target not None, int64_t now_us, int64_t billed_tokens=0):
        """Another target: what the first was asked settles at `billed_tokens`, the new one's limits are taken.

        None, or the Refusal of the new target; then the hold has the caller's part alone.
        """
        cdef HoldRecord* record = hold.record
        cdef int64_t actual[UNITS]
        cdef uint64_t waiters = 0
        if record == NULL:
            raise ValueError("the hold is settled")
        if record.caller_parts + PyTuple_GET_SIZE(target) > PARTS_MAX:
            raise OverflowError("too many limits for one request")
        record.state = RESERVED
        if record.target_parts:
            actual[UNIT_REQUESTS], actual[UNIT_SLOTS] = 1, 0
            actual[UNIT_TOKENS], actual[UNIT_USD] = billed_tokens, 0
            waiters = self._settle(record, hold._target, record.caller_parts, actual, now_us, False)
        hold._target, hold._parts = target, record.caller_parts
        refusal = self._take(record, hold, (), target, now_us, hold._is_batch, False)
        self._wake(waiters, now_us)
        return refusal

    cdef object _take(
        self, HoldRecord* record, Hold hold, tuple caller, tuple target, int64_t now_us, bint is_batch, bint is_waiter,
    ):
        """Charges all gauges and adds them to the record, or returns the Refusal."""
        cdef PyObject* gauges[PARTS_MAX]
        cdef Row* rows[PARTS_MAX]
        cdef int64_t waits[PARTS_MAX]
        cdef int first = <int>PyTuple_GET_SIZE(caller), count = first + <int>PyTuple_GET_SIZE(target), index
        cdef int worst = -1
        cdef int64_t used[PARTS_MAX]
        cdef int64_t reset_us = 0
        cdef bint is_good = False
        for index in range(count):
            gauges[index] = <PyObject*>(PyTuple_GET_ITEM(caller, index) if index < first else PyTuple_GET_ITEM(target, index - first))
            if not isinstance(<object>gauges[index], Gauge):
                raise TypeError("gauges are asked for")
        if count == 0:
            record.state = RESERVED
            return None
        self._lock()
        try:
            is_good = self._judge(record, gauges, rows, waits, count, now_us, is_batch, is_waiter)
            if is_good:
                self._charge(record, hold, gauges, rows, count, first, now_us)
            else:
                worst = worst_of(waits, count)
                for index in range(count):
                    used[index] = used_of(rows[index])
                if worst >= 0:
                    reset_us = resets_us(rows[worst], now_us)
                    if not is_batch and not is_waiter:
                        mark_hungry(rows, waits, count, now_us)
        finally:
            self._commit()
        # No object is made under the lock: the collector could run there, and all workers wait for it.
        return None if is_good else refusal_of(record.amounts, caller, target, gauges, waits, used, worst, reset_us)

    cdef bint _judge(
        self, HoldRecord* record, PyObject** gauges, Row** rows, int64_t* waits, int count, int64_t now_us,
        bint is_batch, bint is_waiter,
    ) except -1:
        """Whether every gauge has room; `waits` tells of each for how long it has none (0: it has)."""
        cdef bint is_good = True
        cdef int index
        for index in range(count):
            gauge = <Gauge>gauges[index]
            row = rows[index] = self._journaled(gauge, now_us)
            waits[index] = wait_of(row, gauge, record.amounts[gauge.unit], now_us)
            if waits[index] == 0 and (is_batch or not is_waiter):
                waits[index] = yields_us(self._header, row, now_us, is_batch, is_waiter)
            if waits[index] and gauge.is_shadow:
                row.shadow_refusals += not is_waiter
                if gauge.spare is not None and not is_waiter:      # where the users of a tenant are counted together
                    spare = self._look(gauge.spare)
                    if spare != NULL and spare != row:
                        spare.shadow_refusals += 1
                waits[index] = 0
            is_good = is_good and waits[index] == 0
        return is_good

    cdef int _charge(
        self, HoldRecord* record, Hold hold, PyObject** gauges, Row** rows, int count, int first, int64_t now_us,
    ) noexcept:
        cdef Header* header = self._header
        cdef int index, part
        cdef int64_t amount
        keep_hold(header, record)
        for index in range(count):
            gauge, row = <Gauge>gauges[index], rows[index]
            amount = record.amounts[gauge.unit]
            part = record.caller_parts + record.target_parts
            record.rows[part] = <uint32_t>(row - self._rows)
            record.where[part] = row.head
            if index < first:
                record.caller_parts += 1
            else:
                record.target_parts += 1
            if row.width_us > 0:
                header.undo[index].bucket_value = row.buckets[row.head % RING]
                in_order()
                header.undo[index].bucket = <int32_t>(row.head % RING)
                in_order()
            hold._used[part] = row.used
            add(row, row.head, amount)
            row.reserved += amount
            row.pins += 1
            if gauge.is_shared and not gauge.is_shadow:
                if row.degraded_by:
                    row.leased += amount
                    row.owed += amount
                else:
                    take_leased(row, amount, now_us)
            if row.width_us > 0 and not gauge.is_shadow:
                hold.note(gauge, max(gauge.limit - row.used, 0), (row.head + RING) * row.width_us - now_us)
        hold._parts = record.caller_parts + record.target_parts
        if record.state == FREE:
            record.state = RESERVED
        if now_us > header.last_us:
            header.last_us = now_us
        return 0

    # -- who waits

    def mark(self, Gauge gauge not None, bint is_batch, int64_t now_us):
        """Somebody stands in line there in this worker: newcomers yield for MARK_US, or until `unmark`."""
        cdef int64_t until_us = now_us + MARK_US
        if self.slot < 0:
            raise ValueError("only workers have waiters")
        self._lock()
        row = self._row_of(gauge, now_us)
        if row != NULL:
            if row.waiting_us[is_batch] <= now_us:
                row.waiters[is_batch] = 0       # what is left of workers that died
            row.waiters[is_batch] |= slot_bit(self.slot)
            row.waiting_us[is_batch] = max(row.waiting_us[is_batch], until_us)
            self._header.waiting_us[self.slot] = max(self._header.waiting_us[self.slot], until_us)
        self._unlock()

    def unmark(self, Gauge gauge not None, bint is_batch, int64_t now_us):
        """Nobody stands there in this worker any more."""
        if self.slot < 0:
            raise ValueError("only workers have waiters")
        self._lock()
        row = self._row_of(gauge, now_us)
        if row != NULL:
            row.waiters[is_batch] &= ~slot_bit(self.slot)
        self._unlock()

    # -- settling

    def settle(self, Hold hold not None, int64_t tokens, int64_t usd_micro, int64_t now_us, int64_t requests=1):
        """The request came to this. Once; a hold that is settled stays so."""
        self.close_hold(hold, tokens, usd_micro, now_us, requests)

    cdef int close_hold(self, Hold hold, int64_t tokens, int64_t usd_micro, int64_t now_us, int64_t requests) except -1:
        cdef HoldRecord* record = hold.record
        cdef int64_t actual[UNITS]
        cdef uint64_t waiters
        if record == NULL:
            return 0
        actual[UNIT_REQUESTS], actual[UNIT_SLOTS] = requests, 0
        actual[UNIT_TOKENS], actual[UNIT_USD] = max(tokens, 0), max(usd_micro, 0)
        gauges = hold._caller + hold._target if hold._target else hold._caller
        waiters = self._settle(record, gauges, 0, actual, now_us, True)
        hold.record = NULL
        self._give_record(record)
        return self._wake(waiters, now_us)

    cdef uint64_t _settle(
        self, HoldRecord* record, tuple gauges, int first, int64_t* actual, int64_t now_us, bint is_over,
    ) except? 0xFFFFFFFFFFFFFFFF:
        """Closes those parts; the workers where somebody waits for them, to be woken when all is in order."""
        cdef uint64_t waiters
        cdef int index, count = record.caller_parts + record.target_parts - first
        self._lock()
        waiters = self._close(record, first, actual, now_us, is_over, False)
        self._unlock()
        for index in range(min(count, <int>PyTuple_GET_SIZE(gauges))):
            gauge = <Gauge>PyTuple_GET_ITEM(gauges, index)
            if gauge.is_shared and gauge.unit != UNIT_SLOTS and actual[gauge.unit] != record.amounts[gauge.unit]:
                at_us = record.where[first + index] * max(gauge._width_us, 1) if gauge._width_us > 0 else record.where[first + index]
                self._settled.append((gauge, at_us, actual[gauge.unit] - record.amounts[gauge.unit]))
        return waiters

    cdef uint64_t _close(
        self, HoldRecord* record, int first, int64_t* actual, int64_t now_us, bint is_over, bint is_dead,
    ) noexcept:
        """Settles the parts from `first` on and takes them off the record. Where somebody waits for them."""
        cdef Header* header = self._header
        cdef uint64_t waiters = 0
        cdef int index, unit
        keep_hold(header, record)
        for index in range(first, record.caller_parts + record.target_parts):
            row = &self._rows[record.rows[index]]
            remember(header, self._rows, row)
            advance(row, now_us)
            end_leases(row, now_us)
            unit = <int>row.unit
            settle_row(header, row, record.where[index], record.amounts[unit], actual[unit])
            if is_dead and row.leased and unit != UNIT_SLOTS:
                owe(row, record.where[index], actual[unit] - record.amounts[unit])
            if unit == UNIT_SLOTS and row.until_us[0]:
                row.left[0] += 1
            row.pins -= 1
            waiters |= waiters_of(header, row, False, now_us) | waiters_of(header, row, True, now_us)
        record.target_parts = 0
        if is_over:
            record.state = FREE
        in_order()
        header.undo_count = 0
        return waiters

    cdef int _wake(self, uint64_t waiters, int64_t now_us) except -1:
        cdef int slot
        if waiters == 0 or self.wake_slot is None:
            return 0
        for slot in range(SLOTS_MAX):
            if waiters & slot_bit(slot) and self._header.waiting_us[slot] > now_us:
                self.wake_slot(slot)
        return 0

    # -- looking, and rebuilding

    def read(self, Gauge gauge not None, int64_t now_us):
        """(used, of which reserved by open holds)."""
        cdef int64_t used, reserved
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            used, reserved = row.used, row.reserved
        finally:
            self._commit()
        return used, reserved

    def foresee(
        self, tuple caller not None, tuple target not None, int64_t tokens, int64_t usd_micro, int64_t now_us, *,
        bint is_batch=False, bint is_waiter=False,
    ):
        """What `admit` would say now, and nothing is written: (the Refusal or None, a snapshot of every limit)."""
        cdef PyObject* gauges[PARTS_MAX]
        cdef int64_t used[PARTS_MAX]
        cdef int64_t waits[PARTS_MAX]
        cdef int64_t amounts[UNITS]
        cdef Row row
        cdef int first = <int>PyTuple_GET_SIZE(caller), count = first + <int>PyTuple_GET_SIZE(target), index
        cdef bint is_good = True
        if count > PARTS_MAX:
            raise OverflowError("too many limits for one request")
        amounts[UNIT_REQUESTS] = amounts[UNIT_SLOTS] = 1
        amounts[UNIT_TOKENS], amounts[UNIT_USD] = tokens, usd_micro
        for index in range(count):
            gauges[index] = <PyObject*>(PyTuple_GET_ITEM(caller, index) if index < first else PyTuple_GET_ITEM(target, index - first))
            if not isinstance(<object>gauges[index], Gauge):
                raise TypeError("gauges are asked for")
        self._lock()
        for index in range(count):
            gauge = <Gauge>gauges[index]
            self._glance(gauge, &row, now_us)
            used[index] = used_of(&row)
            waits[index] = wait_of(&row, gauge, amounts[gauge.unit], now_us)
            if waits[index] == 0 and (is_batch or not is_waiter):
                waits[index] = yields_us(self._header, &row, now_us, is_batch, is_waiter)
            if gauge.is_shadow:
                waits[index] = 0
            is_good = is_good and waits[index] == 0
        self._unlock()
        found = refusal_of(amounts, caller, target, gauges, waits, used, worst_of(waits, count), 0)
        return None if is_good else found, found.snapshot()

    cdef void _glance(self, Gauge gauge, Row* row, int64_t now_us) noexcept:
        """A copy of the row that would count, up to now; of an empty one where there is none. Under the lock."""
        cdef Row* found = self._look(gauge)
        if found == NULL and gauge.spare is not None:
            found = self._look(gauge.spare)
            if found != NULL and (found.owned < gauge.spare.tracked or self._can_sweep(found, now_us)):
                found = NULL                    # this user would get a row of its own
        if found != NULL:
            memcpy(row, found, sizeof(Row))
        else:
            memset(row, 0, sizeof(Row))
            row.width_us, row.unit = gauge._width_us, gauge.unit
        advance(row, now_us)
        begin_period(row, gauge.period_start_us, gauge.period_end_us)
        end_leases(row, now_us)

    cdef bint _can_sweep(self, Row* spare, int64_t now_us) noexcept:
        """Whether `_sweep` would make room for another user of the tenant."""
        cdef uint32_t turn, hand
        for turn in range(1, min(<uint32_t>SWEEP, self._user_rows) + 1):
            hand = (self._hand + turn) % self._user_rows
            row = &self._rows[self._config_rows + hand]
            if row.owner == <int32_t>(spare - self._rows) + 1 and self._is_idle(row, now_us):
                return True
        return False

    def shadow_refusals(self, Gauge gauge not None):
        """How many requests a shadow limit would have refused so far."""
        row = self._look(gauge)
        return row.shadow_refusals if row != NULL else 0

    def charge(self, Gauge gauge not None, int64_t at_us, int64_t amount, int64_t now_us):
        """Counts what the ledger says was used at a moment of the past."""
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            where = at_us // row.width_us if row.width_us > 0 else row.head
            if row.width_us == 0 or at_us > now_us or not counts(row, where):
                return
            if row.width_us < 0 and not gauge.period_start_us <= at_us < gauge.period_end_us:
                return
            keep_bucket(self._header, row, where)
            add(row, where, amount)
        finally:
            self._commit()

    cdef void _commit(self) noexcept:
        in_order()
        self._header.undo_count = 0
        self._unlock()

    # -- leases

    def grant(self, Gauge gauge not None, int64_t amount, int64_t expires_us, int64_t now_us):
        """So much was deducted at the fleet's store, for use until then. For slots `expires_us` is ignored."""
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            row.denied_us = 0
            if row.width_us == 0:
                row.left[0] += amount
                row.until_us[0] = INT64_MAX
            elif expires_us <= now_us:
                row.unused += amount
            else:
                give_lease(row, amount, expires_us)
        finally:
            self._commit()

    def deny(self, Gauge gauge not None, int64_t until_us, int64_t used):
        """The whole fleet's limit is reached until then, with so much used."""
        self._lock()
        try:
            row = self._journaled(gauge, self.now() if self._owned == NULL else 0)
            row.denied_us, row.denied_used = until_us, used
        finally:
            self._commit()

    def lease_left(self, Gauge gauge not None, int64_t now_us):
        self._lock()
        try:
            return lease_left(self._journaled(gauge, now_us), now_us)
        finally:
            self._commit()

    def leased(self, Gauge gauge not None):
        """What was ever admitted from leases, or under a cap in their place: its growth is the demand."""
        row = self._look(gauge)
        return row.leased if row != NULL else 0

    def heard(self, Gauge gauge not None):
        """(epoch of the fleet's memory that counts this, when it answered last); zeros: none was heard of."""
        row = self._look(gauge)
        if row == NULL:
            return 0, 0
        return row.epoch, row.heard_us

    def hear(self, Gauge gauge not None, int64_t epoch, int64_t heard_us, int64_t now_us):
        """That memory has counted what was used here. What is known of a later one stays."""
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            if epoch > row.epoch:
                row.epoch, row.heard_us = epoch, heard_us
            elif epoch == row.epoch:
                row.heard_us = max(row.heard_us, heard_us)
            if row.width_us < 0:
                mark_period(row, now_us)
        finally:
            self._commit()

    def used_since(self, Gauge gauge not None, int64_t at_us, int64_t now_us):
        """What was used since then, reservations included, or a little more."""
        self._lock()
        try:
            return used_since(self._journaled(gauge, now_us), at_us)
        finally:
            self._commit()

    def take_unused(self, Gauge gauge not None, int64_t now_us):
        """What ended leases left over; whoever takes it returns it."""
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            amount, row.unused = row.unused, 0
            return amount
        finally:
            self._commit()

    def release_lease(self, Gauge gauge not None, int64_t amount, int64_t now_us):
        """Takes up to `amount` out of the running leases; whoever takes it returns it."""
        cdef int64_t taken = 0, part
        cdef int index
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            for index in range(LEASES):
                part = min(row.left[index], amount - taken)
                row.left[index] -= part
                taken += part
            return taken
        finally:
            self._commit()

    def take_owed(self, Gauge gauge not None, int64_t now_us):
        """(used without a lease, returned by the dead, when that was reserved or later): whoever takes it tells Redis."""
        cdef int64_t owed, returned, returned_us
        row = self._look(gauge)
        if row != NULL and row.owed == 0 and row.returned == 0:
            return 0, 0, 0
        self._lock()
        try:
            row = self._journaled(gauge, now_us)
            owed, returned, returned_us = row.owed, row.returned, row.returned_us
            row.owed = row.returned = row.returned_us = 0
        finally:
            self._commit()
        return owed, returned, returned_us

    def take_settled(self):
        """[(gauge, when it was admitted, difference)] of shared gauges since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def degrade(self, Gauge gauge not None, int64_t cap):
        """The store is away: this machine admits up to `cap` in the window."""
        self._set_degraded(gauge, 1, max(cap, 0))

    def recover(self, Gauge gauge not None):
        self._set_degraded(gauge, 0, 0)

    cdef int _set_degraded(self, Gauge gauge, int64_t is_degraded, int64_t cap) except -1:
        self._lock()
        try:
            row = self._journaled(gauge, self.now() if self._owned == NULL else 0)
            row.degraded_by, row.cap = (max(self.slot, 0) + 1) * <int32_t>is_degraded, cap
            row.denied_us = 0
        finally:
            self._commit()
        return 0

    def is_degraded(self, Gauge gauge not None):
        row = self._look(gauge)
        return row != NULL and row.degraded_by != 0


# -- parts of a decision


cdef inline void remember(Header* header, Row* rows, Row* row) noexcept nogil:
    """Keeps the row's head for a repair. Under the lock, before the row changes."""
    undo = &header.undo[header.undo_count]
    undo.row = <uint32_t>(row - rows)
    undo.bucket = -1
    memcpy(undo.image, row, IMAGE_BYTES)
    in_order()
    header.undo_count += 1
    in_order()


cdef inline void keep_bucket(Header* header, Row* row, int64_t where) noexcept nogil:
    """Of the row that was remembered last."""
    undo = &header.undo[header.undo_count - 1]
    if row.width_us > 0:
        undo.bucket_value = row.buckets[where % RING]
        in_order()
        undo.bucket = <int32_t>(where % RING)
        in_order()


cdef inline void keep_hold(Header* header, HoldRecord* record) noexcept nogil:
    memcpy(&header.undo_hold, record, sizeof(HoldRecord) - NAMES_MAX_BYTES)
    in_order()
    header.undo_at = <char*>record - <char*>header
    in_order()


cdef inline bint is_unused(Row* row) noexcept nogil:
    return row.key_low == 0 and row.key_high == 0 and row.width_us == 0 and row.unit == 0


cdef inline bint is_empty(Row* row, int64_t now_us) noexcept nogil:
    """Whether nothing in the row counts any more."""
    if row.pins or row.owned or row.unused or lease_left(row, now_us):
        return False
    if row.width_us > 0:
        return now_us // row.width_us - row.head >= RING
    if row.width_us < 0 and now_us > row.buckets[0] + DAY_US:   # far from any step of the wall clock
        return True
    return row.used == 0 and not row.degraded_by


cdef int64_t wait_of(Row* row, Gauge gauge, int64_t amount, int64_t now_us) noexcept:
    """0: there is room. Else how long there is none; `LACKING_US` where only the lease is short."""
    cdef int64_t limit = gauge.limit
    cdef int64_t over
    if limit == 0 or amount > limit:
        return NEVER_US
    if row.degraded_by and gauge.is_shared:
        limit = min(limit, row.cap)
    over = row.used + amount - limit
    if over > 0:
        return blocked_us(row, gauge, over, now_us)
    if gauge.is_shared and not row.degraded_by and not gauge.is_shadow and lease_left(row, now_us) < amount:
        return max(row.denied_us - now_us, 1) if row.denied_us > now_us else LACKING_US
    return 0


cdef int64_t blocked_us(Row* row, Gauge gauge, int64_t over, int64_t now_us) noexcept:
    """How long until `over` has left. What holds only have reserved may be given back before."""
    if row.width_us == 0:
        return UNKNOWN_US
    if gauge.unit == UNIT_USD and row.reserved >= over:
        return UNKNOWN_US
    if row.width_us < 0:
        return max(gauge.period_end_us - now_us, 1)
    # More than the window holds: the bound is lower than the limit (a share), and even an empty window is short.
    return max(frees_us(row, min(over, row.used), now_us), 1)


cdef inline uint64_t slot_bit(int slot) noexcept nogil:
    return <uint64_t>1 << (slot & 63)


cdef inline uint64_t waiters_of(Header* header, Row* row, bint is_batch, int64_t now_us) noexcept nogil:
    """The workers where somebody waits there; a bit for each slot."""
    cdef uint64_t bits = row.waiters[is_batch], living = 0
    cdef int slot
    if bits == 0 or row.waiting_us[is_batch] <= now_us:
        return 0
    for slot in range(SLOTS_MAX):
        if header.waiting_us[slot] > now_us:
            living |= slot_bit(slot)
    return bits & living


cdef inline int64_t yields_us(Header* header, Row* row, int64_t now_us, bint is_batch, bint is_waiter) noexcept nogil:
    """Whether there is room, but for others: newcomers leave it to those who wait, batch to interactive callers."""
    if waiters_of(header, row, False, now_us):
        return UNKNOWN_US
    if is_waiter or not is_batch:
        return 0
    if waiters_of(header, row, True, now_us):
        return UNKNOWN_US
    return max(row.hungry_us - now_us, 0)


cdef inline void mark_hungry(Row** rows, int64_t* waits, int count, int64_t now_us) noexcept nogil:
    """An interactive caller was refused there: batch callers leave it room for a while."""
    cdef int index
    for index in range(count):
        row = rows[index]
        if waits[index] != 0 and waits[index] != NEVER_US:
            row.hungry_us = max(row.hungry_us, now_us + min(max(row.width_us * 8, HUNGRY_MIN_US), HUNGRY_MAX_US))


cdef inline int worst_of(int64_t* waits, int count) noexcept nogil:
    """Which gauge has no room for longest; -1: all have, only leases are short."""
    cdef int index, worst = -1
    for index in range(count):
        if waits[index] != 0 and waits[index] != LACKING_US and (worst < 0 or is_worse(waits[index], waits[worst])):
            worst = index
    return worst


cdef inline int64_t used_of(Row* row) noexcept nogil:
    """By this machine, or by the whole fleet where that said no."""
    return max(row.used, row.denied_used) if row.denied_us else row.used


cdef inline int64_t resets_us(Row* row, int64_t now_us) noexcept nogil:
    """How long until a sliding window is empty; of a fleet's, which is known by its sum alone, it may be sooner."""
    if row.width_us <= 0:
        return 0
    if row.denied_us > now_us:
        return (row.head + RING) * row.width_us - now_us
    return frees_us(row, row.used, now_us) if row.used else 0


cdef Refusal refusal_of(
    int64_t* amounts, tuple caller, tuple target, PyObject** gauges, int64_t* waits, int64_t* used, int worst,
    int64_t reset_us,
):
    """Of the gauge that is `worst`; of short leases where none is."""
    cdef int index, count = <int>(PyTuple_GET_SIZE(caller) + PyTuple_GET_SIZE(target))
    refusal = <Refusal>Refusal.__new__(Refusal)
    refusal._caller, refusal._target = caller, target
    memcpy(refusal._amounts, amounts, sizeof(refusal._amounts))
    memcpy(refusal._used, used, count * sizeof(int64_t))
    memcpy(refusal._waits, waits, count * sizeof(int64_t))
    if worst < 0:
        refusal.lacking = tuple([<Gauge>gauges[index] for index in range(count) if waits[index] == LACKING_US])
        refusal.gauge, refusal.wait_us = refusal.lacking[0] if refusal.lacking else None, UNKNOWN_US
    else:
        refusal.gauge, refusal.used, refusal.wait_us = <Gauge>gauges[worst], used[worst], waits[worst]
        refusal.reset_us = reset_us
    if refusal.gauge is not None:
        refusal.requested = amounts[refusal.gauge.unit]
    return refusal


cdef bytes snapshot_of(tuple caller, tuple target, int count, int64_t* amounts, int64_t* used, int64_t* waits):
    cdef bytes parts = PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(Part))
    cdef Part* part = <Part*>PyBytes_AS_STRING(parts)
    cdef int index, first = <int>PyTuple_GET_SIZE(caller) if caller is not None else 0
    for index in range(count):
        gauge = <Gauge>(PyTuple_GET_ITEM(caller, index) if index < first else PyTuple_GET_ITEM(target, index - first))
        memcpy(part.key, &gauge._low, 8)
        memcpy(part.key + 8, &gauge._high, 8)
        part.used, part.limit, part.asked = used[index], gauge.limit, amounts[gauge.unit]
        part.wait_us = waits[index] if waits != NULL else 0
        part += 1
    return parts


cdef inline bint is_worse(int64_t wait_us, int64_t than_us) noexcept nogil:
    if wait_us == NEVER_US or than_us == NEVER_US:
        return than_us != NEVER_US
    return wait_us > than_us


cdef inline void settle_row(Header* header, Row* row, int64_t where, int64_t reserved, int64_t actual) noexcept nogil:
    """In the bucket that the reservation stands in; if that has left, only an excess counts, and now."""
    if counts(row, where):
        keep_bucket(header, row, where)
        add(row, where, actual - reserved)
        row.reserved -= reserved
    else:
        if row.width_us > 0:
            row.reserved -= reserved
        if actual > reserved and row.width_us > 0:
            keep_bucket(header, row, row.head)
            add(row, row.head, actual - reserved)


cdef inline void owe(Row* row, int64_t where, int64_t delta) noexcept nogil:
    """A dead worker's request came to another amount than its lease had paid for. What has left does not come back."""
    cdef int64_t at_us = where * row.width_us if row.width_us > 0 else where
    if delta > 0:
        if row.width_us > 0 or counts(row, where):
            row.owed += delta
    elif delta < 0 and counts(row, where):
        row.returned_us = min(row.returned_us, at_us) if row.returned else at_us
        row.returned -= delta


cdef inline void give_lease(Row* row, int64_t amount, int64_t expires_us) noexcept nogil:
    """Beside the running one, or in its place if there are two: then the whole ends with the earlier."""
    cdef int index = 0 if row.until_us[0] == 0 else 1
    if row.until_us[index]:
        row.left[index] += amount
        row.until_us[index] = min(row.until_us[index], expires_us)
    else:
        row.left[index], row.until_us[index] = amount, expires_us


cdef object lost(HoldRecord* record, int64_t* actual):
    """What a dead worker's request came to, as far as that is known: (names, …) as `give_back` tells."""
    cdef int64_t output_tokens = 0, pico
    actual[UNIT_REQUESTS], actual[UNIT_SLOTS] = 1, 0
    if record.state == KNOWN:
        actual[UNIT_TOKENS], actual[UNIT_USD] = record.finals[UNIT_TOKENS], record.finals[UNIT_USD]
        output_tokens = max(actual[UNIT_TOKENS] - record.input_tokens, 0)
    elif record.state == SENT:
        output_tokens = (record.relayed_bytes + 3) // 4
        pico = record.input_tokens * record.input_pusd + output_tokens * record.output_pusd + record.request_pusd
        actual[UNIT_TOKENS] = record.input_tokens + output_tokens
        actual[UNIT_USD] = (pico + 999_999) // 1_000_000
    else:
        actual[UNIT_TOKENS] = actual[UNIT_USD] = 0
    names = PyBytes_FromStringAndSize(record.names, min(max(record.names_bytes, 0), NAMES_MAX_BYTES))
    return (names, record.attempt_id, record.state != RESERVED, actual[UNIT_TOKENS] - output_tokens,
            output_tokens, actual[UNIT_USD], record.admitted_us)


cdef char* put_duration(char* at, int64_t value_us) noexcept:
    """As OpenAI writes it: 250ms, 1.5s, 6m0s, 1h2m3s; rounded up to the millisecond."""
    cdef int64_t ms = (value_us + 999) // 1000
    if ms < 1000:
        return put(put_unsigned(at, <uint64_t>(ms)), b"ms")
    if ms >= 3_600_000:
        at = put(put_unsigned(at, <uint64_t>(ms // 3_600_000)), b"h")
    if ms >= 60_000:
        at = put(put_unsigned(at, <uint64_t>(ms // 60_000 % 60)), b"m")
    at = put_unsigned(at, <uint64_t>(ms // 1000 % 60))
    ms %= 1000
    if ms:
        at[0] = 46
        at[1] = <char>(48 + ms // 100)
        at[2] = <char>(48 + ms // 10 % 10)
        at[3] = <char>(48 + ms % 10)
        at += 4
        while (at - 1)[0] == 48:
            at -= 1
    return put(at, b"s")


def boot_id():
    """16 bytes that are another at each boot; zeros where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
