# The types that log.py is compiled with.

cdef class RequestLog:
    cdef object _on_drop, _lines, _wake, _sink, _thread
    cdef Py_ssize_t _queue_bytes, _queued_bytes, _settled_bytes
    cdef bint _idle, _urgent, _reopen, _broken
    cdef double _close_at_s, _look_at_s

    cpdef write(self, bytes line)
