# A row: how much of one unit one subject has used, in a sliding window, a calendar period, or right now.
#
# A sliding window is a ring of sub-buckets. `head` is the bucket that fills; a bucket counts while
# `head - number < RING`, which is until it has left the window whole and one bucket longer. All functions
# are to be called under the limiter's lock, with the row's old content in the undo record.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

cdef enum:
    WINDOW_BUCKETS = 128
    RING = 130
    LEASES = 2
    IMAGE_BYTES = 232               # a row up to its buckets


cdef struct Row:
    uint64_t key_low                # both 0: free, and never used where `width_us` and `unit` are 0 too
    uint64_t key_high
    int64_t width_us                # of a bucket; 0: slots, which have no window; -1: a calendar period
    int32_t unit                    # of what is counted
    int32_t degraded_by             # Redis is away, `cap` bounds this machine, as this slot's worker says, plus 1; 0: not
    int64_t head                    # number of the newest bucket, time // width; a period's start
    int64_t used                    # in the window, the period, or now; reservations included
    int64_t reserved                # of `used`, by holds that are open
    int64_t pins                    # open holds that name the row
    int64_t waiting_us[2]           # newcomers yield until then: to interactive, to batch waiters
    uint64_t waiters[2]             # in which workers those wait, a bit for each slot (modulo 64)
    int64_t hungry_us               # batch callers yield until then: interactive ones were refused
    int64_t shadow_refusals
    int64_t cap
    int64_t left[LEASES]            # of each lease
    int64_t until_us[LEASES]        # when it ends; 0: none
    int64_t unused                  # what ended leases left over, to be returned
    int64_t denied_us               # the fleet's limit is reached until then
    int64_t denied_used
    int64_t leased                  # ever admitted from leases
    int64_t owed                    # used without a lease: Redis is to be told
    int64_t returned                # of leases, by the dead: Redis may have it back
    int64_t returned_us             # when that was reserved, or later
    int32_t owner                   # of a user's row: number of the row that stands in for it, plus 1
    int32_t owned                   # of that row: how many users have a row of their own
    int64_t epoch                   # of the fleet's memory that counts this; 0: none was heard of
    int64_t heard_us                # when that answered last, on its clock
    int64_t buckets[RING]           # of a period its end, and its marks, see `mark_period`; of slots none


cdef inline void advance(Row* row, int64_t now_us) noexcept nogil:
    """Lets go what has left the window. A clock that went back moves nothing."""
    cdef int64_t number
    if row.width_us <= 0:
        return
    number = now_us // row.width_us
    if number <= row.head:
        return
    if number - row.head >= RING:
        memset(row.buckets, 0, sizeof(row.buckets))
        row.used = 0
    else:
        while row.head < number:
            row.head += 1
            row.used -= row.buckets[row.head % RING]
            row.buckets[row.head % RING] = 0
    row.head = number


cdef inline void begin_period(Row* row, int64_t start_us, int64_t end_us) noexcept nogil:
    """Another calendar period counts from nothing; an earlier one is never gone back to."""
    if row.width_us >= 0 or start_us < row.head:
        return
    if start_us > row.head:
        row.used = row.reserved = row.owed = row.returned = 0
        memset(&row.buckets[1], 0, (RING - 1) * sizeof(int64_t))
    row.head = start_us
    row.buckets[0] = end_us


cdef inline int part_of(const Row* row, int64_t at_us) noexcept nogil:
    """In which of the RING - 1 equal parts of its period a moment lies; -1: before it."""
    cdef int64_t width_us = (row.buckets[0] - row.head) // (RING - 1) + 1
    return <int>min((at_us - row.head) // width_us, RING - 2) if at_us >= row.head else -1


cdef inline void mark_period(Row* row, int64_t now_us) noexcept nogil:
    """Keeps what was used for good, plus 1, when this part of the period was first seen: that only rises."""
    cdef int part = part_of(row, now_us)
    if part >= 0 and row.buckets[1 + part] == 0:
        row.buckets[1 + part] = row.used - row.reserved + 1


cdef inline int64_t used_since(const Row* row, int64_t at_us) noexcept nogil:
    """What was used from a moment on, or more: all of the bucket it lies in; of a period, of two parts of it."""
    cdef int64_t number, total = 0
    cdef int part
    if row.width_us > 0:
        number = max(at_us // row.width_us, row.head - RING + 1)
        while number <= row.head:
            total += row.buckets[number % RING]
            number += 1
        return total
    for part in range(part_of(row, at_us) - 1, -1, -1):
        if row.buckets[1 + part]:
            return max(row.used - (row.buckets[1 + part] - 1), 0)
    return row.used


cdef inline bint counts(const Row* row, int64_t where) noexcept nogil:
    """Whether what was put in then is still part of `used`."""
    return row.head - where < RING if row.width_us > 0 else row.head == where


cdef inline void add(Row* row, int64_t where, int64_t amount) noexcept nogil:
    row.used += amount
    if row.width_us > 0:
        row.buckets[where % RING] += amount


cdef inline int64_t frees_us(const Row* row, int64_t need, int64_t now_us) noexcept nogil:
    """How long until at least `need` has left a sliding window. `need` is not above `used`."""
    cdef int64_t number = row.head - RING + 1
    if number < 0:
        number = 0
    while number <= row.head:
        need -= row.buckets[number % RING]
        if need <= 0:
            break
        number += 1
    return max((number + RING) * row.width_us - now_us, 0)


cdef inline int64_t sum_of(const Row* row) noexcept nogil:
    cdef int64_t total = 0
    cdef int index
    for index in range(RING):
        total += row.buckets[index]
    return total


cdef inline int64_t lease_left(const Row* row, int64_t now_us) noexcept nogil:
    cdef int64_t total = 0
    cdef int index
    for index in range(LEASES):
        if row.until_us[index] > now_us:
            total += row.left[index]
    return total


cdef inline void end_leases(Row* row, int64_t now_us) noexcept nogil:
    """What is left of leases whose time is over goes to `unused`."""
    cdef int index
    for index in range(LEASES):
        if row.until_us[index] and row.until_us[index] <= now_us:
            row.unused += row.left[index]
            row.left[index] = row.until_us[index] = 0


cdef inline void take_leased(Row* row, int64_t amount, int64_t now_us) noexcept nogil:
    """From the lease that ends first. There is enough."""
    cdef int first = 0 if row.until_us[0] <= row.until_us[1] else 1
    cdef int turn, index
    cdef int64_t part
    row.leased += amount
    for turn in range(LEASES):
        index = first ^ turn
        if row.until_us[index] > now_us:
            part = min(row.left[index], amount)
            row.left[index] -= part
            amount -= part
