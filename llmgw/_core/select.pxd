cimport cython
from libc.stdint cimport int64_t, uint64_t

from llmgw._core.health cimport Board, Health, TargetRow, Thresholds

cdef enum:
    ENTRIES_MAX = 64                # bits of a mask


cdef struct TierRow:
    uint64_t key_low                # both 0: free
    uint64_t key_high
    int64_t credits[ENTRIES_MAX]    # gained minus paid; all of them sum to 0
    int64_t unused[6]               # to a multiple of a cache line


cdef struct Entry:
    TargetRow* row
    const Thresholds* limits
    int64_t weight                  # 0: never picked
    double input_pusd               # per token; below 0: unknown
    double output_pusd
    double quality
    uint64_t name                   # of the target, for its place in a hash


cdef struct Choice:                 # what a strategy looks at
    uint64_t available
    int64_t now_us
    uint64_t affinity
    double input_tokens
    double output_tokens


@cython.final
cdef class Tier:
    cdef readonly Board board
    cdef readonly tuple healths
    cdef readonly int strategy
    cdef readonly bint is_shared    # False: the table is full, and this process has credits of its own
    cdef double _score_cost, _score_latency, _score_quality
    cdef Entry* _entries
    cdef int _count
    cdef uint64_t _usable           # those of some weight
    cdef uint64_t _random           # state of the generator
    cdef TierRow* _row
    cdef TierRow* _owned
    cpdef int pick(
        self, uint64_t mask, int64_t now_us, uint64_t affinity=*, int64_t input_tokens=*, int64_t output_tokens=*,
    ) except -2
    cpdef int64_t wait_us(self, uint64_t mask, int64_t now_us) noexcept
    cdef int _add(self, Health health, int64_t weight, tuple price, double quality) except -1
    cdef int _find_row(self, bytes key) except -1
    cdef uint64_t _spared(self, int64_t now_us) noexcept
    cdef int _soundest(self, uint64_t among, int64_t now_us) noexcept
    cdef int _verdict(self, int index, uint64_t spared, int64_t now_us) noexcept
    cdef uint64_t _available(self, uint64_t mask, uint64_t spared, int64_t now_us) noexcept
    cdef int _choose(self, Choice* choice) except -2
    cdef int _in_turn(self, uint64_t available) except -2
    cdef int _least_busy(self, uint64_t available) noexcept
    cdef int _fastest(self, Choice* choice) noexcept
    cdef int _cheapest(self, Choice* choice) noexcept
    cdef int _hashed(self, Choice* choice) noexcept
    cdef int _best_mix(self, Choice* choice) noexcept
    cdef double _latency_load(self, Entry* entry, double unseen_us, int64_t now_us) noexcept
    cdef double _unseen_us(self, uint64_t available, int64_t now_us) noexcept
    cdef uint64_t _draw(self) noexcept
