cdef enum Reason:
    TAKEN_ON = 0
    TOO_MANY
    TOO_LARGE
    TOO_LATE


cdef class Gate:
    cdef readonly long long inflight        # requests, from their heads to the ends of their answers
    cdef readonly long long unread_bytes    # of bodies that were let in: still to come
    cdef readonly long long room_bytes      # for further bodies, until the next look
    cdef readonly double shed_share         # of requests that are refused because the loop is late
    cdef public long long max_inflight
    cdef double _debt                       # refusals owed to `shed_share`, below 1

    cpdef int enter(self, long long body_bytes) noexcept
    cpdef void leave(self) noexcept
    cpdef bint grow(self, long long body_bytes) noexcept
    cpdef void expect(self, long long body_bytes) noexcept
