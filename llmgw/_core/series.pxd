cimport cython
from libc.stdint cimport uint64_t

from llmgw._core.segment cimport Segment


cdef struct Arena:
    uint64_t used_bytes             # this head and all records; written last, so that a record is whole or absent
    uint64_t reserved_bytes         # on disk


@cython.final
cdef class Series:
    cdef readonly Segment segment
    cdef Arena* _arena
    cdef dict _places               # (family, key) -> offset of the values in the arena
    cdef object _spare              # bytearray: where a count goes for which not even overflow has room

    cdef uint64_t* find(self, int family, bytes key, int values) except NULL
    cdef Py_ssize_t _place(self, int family, bytes key, int values, uint64_t limit_bytes) except -1
    cdef int _append(self, int family, bytes key, int values) except -1
