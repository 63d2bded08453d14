cdef class Signal:
    cdef Serving waiter
    cdef bint is_set
    cdef object error            # an exception that the waiter gets, or None

    cdef int wake(self) except -1
    cdef int fail(self, object error) except -1


cdef class Serving:
    cdef object coroutine
    cdef object waits_for        # a Signal, a Future, or None
    cdef object on_done          # called once with None or the exception that ended it
    cdef readonly bint is_done
    cdef bint is_running
    cdef bint is_cancelled

    cdef int step(self, object error) except -1
    cdef int wait_for(self, object awaited) except -1
    cdef int finish(self, object failure) except -1
    cpdef int cancel(self) except -1
