# cython: auto_pickle=False, autotestdict=False
"""Smooth weighted round robin, as nginx does it.

Every available entry gains its weight, the one that has most is chosen and pays back what all
gained together. Over any run of picks from the same entries each gets its share to within one
pick, and the shares are spread: 5, 1, 1 gives a a b a c a a, never five a in a row.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    ENTRIES_MAX = 64                # bits of a mask
    WEIGHT_MAX = 1_000_000          # keeps every sum far inside 64 bits


cdef struct Entry:
    int64_t weight
    int64_t credit                  # gained minus paid; all credits sum to 0


@cython.final
cdef class Weighted:
    """State of one choice, for one process. A weight of 0 is never picked."""

    cdef Entry* _entries
    cdef int _count

    def __cinit__(self, weights):
        weights = tuple(weights)
        if not 1 <= len(weights) <= ENTRIES_MAX:
            raise ValueError(f"1 to {ENTRIES_MAX} weights, not {len(weights)}")
        if not all(0 <= weight <= WEIGHT_MAX for weight in weights):
            raise ValueError(f"a weight is 0 to {WEIGHT_MAX}")
        self._entries = <Entry*>PyMem_Calloc(len(weights), sizeof(Entry))
        if self._entries == NULL:
            raise MemoryError
        self._count = <int>len(weights)
        for index, weight in enumerate(weights):
            self._entries[<int>index].weight = weight

    def __dealloc__(self):
        PyMem_Free(self._entries)

    def __len__(self):
        return self._count

    def pick(self, uint64_t mask=0xFFFF_FFFF_FFFF_FFFF):
        """The index of an entry whose bit is set in `mask`; -1 if there is none."""
        cdef int64_t total = 0
        cdef int best = -1
        cdef int index
        for index in range(self._count):
            if not (mask >> index) & 1 or self._entries[index].weight == 0:
                continue
            self._entries[index].credit += self._entries[index].weight
            total += self._entries[index].weight
            if best < 0 or self._entries[index].credit > self._entries[best].credit:
                best = index
        if best >= 0:
            self._entries[best].credit -= total
        return best
