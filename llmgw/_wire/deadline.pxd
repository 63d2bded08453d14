cdef class Watched:
    cdef object __weakref__
    cdef double deadline_s       # on the monotonic clock; 0: none
    cdef long long due_tick      # when the wheel will look at it next; 0: it will not

    cdef int on_deadline(self) except -1


cdef class Wheel:
    cdef readonly double now_s   # monotonic, as of the last turn
    cdef readonly bytes date     # the HTTP date of the last turn
    cdef list slots
    cdef long long tick
    cdef long long date_s        # the unix second that `date` shows

    cdef int watch(self, Watched item, double deadline_s) except -1
    cdef int forget(self, Watched item) except -1
    cdef int look_at(self, Watched item) except -1
    cdef int show_date(self) except -1


cdef double monotonic_s() noexcept nogil
