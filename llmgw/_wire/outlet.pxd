from llmgw._wire.deadline cimport Watched


cdef class Feeder(Watched):
    """What writes into an Outlet over time: the connection to a provider."""

    cdef int pause_feed(self) except -1
    cdef int resume_feed(self) except -1


cdef class Outlet(Watched):
    cdef public bint is_gone     # the client left
    cdef public bint is_begun    # an answer's first byte went out
    cdef readonly bint is_slow   # the client takes less than it is sent
    cdef Feeder feeder           # slowed down while the client is slow, or None

    cpdef int answer(self, int status, bytes head, bytes body) except -1
    cpdef int begin(self, int status, bytes head, long long length) except -1
    cpdef int write(self, bytes data) except -1
    cpdef int end(self) except -1
    cpdef int cut(self) except -1
    cpdef int slow_down(self) except -1
    cpdef int speed_up(self) except -1
