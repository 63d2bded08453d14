# The types that pool.py is compiled with.

from llmgw._wire.upstream cimport Connection


cdef class Pool:
    cdef readonly object connector
    cdef readonly double age_s
    cdef readonly dict idle
    cdef readonly set open
    cdef readonly bint is_retired
    cdef readonly object closing

    cpdef Connection maybe_idle(self)
    cpdef release(self, Connection connection)
