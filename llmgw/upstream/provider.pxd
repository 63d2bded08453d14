# The types that provider.py is compiled with.

from llmgw._core.ask cimport Attempt
from llmgw._wire.call cimport Call
from llmgw._wire.lines cimport request_lines
from llmgw._wire.serving cimport Signal
from llmgw._wire.skim cimport Skim
from llmgw._wire.upstream cimport Connection


cdef class Upstream:
    cdef readonly object name, provider, dialect, timeouts
    cdef readonly object pool
    cdef readonly bytes host
    cdef readonly int key_count
    cdef readonly dict reply_heads
    cdef double _first_token_s, _idle_s
    cdef list _credentials
    cdef int _turn
    cdef dict _heads

    cpdef int next_key(self) except -1
    cpdef Signal exchange(
        self, Connection connection, Call call, Skim facts, Attempt attempt, bytes head, list body, double total_at_s,
    )
    cpdef release(self, Connection connection)


cdef Py_ssize_t size_of(list pieces) except -1
