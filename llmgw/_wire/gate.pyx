"""What a worker has taken on, and whether it takes on more: some comparisons at each request's head.

`llmgw.overload` says what the bounds are; both lanes ask here before a body is read. Bodies count before they
arrive, since many may be let in between two looks at the memory in use. A request that comes while there is
no other one is let in whatever the memory: to refuse it would free nothing.
"""

cdef long long UNBOUNDED = 1_000_000_000_000_000_000

REASONS = ("", "inflight", "memory", "lag")


cdef class Gate:
    def __cinit__(self):
        self.max_inflight = self.room_bytes = UNBOUNDED

    cpdef int enter(self, long long body_bytes) noexcept:
        """0: it is taken on, and ends with one `leave`. Else the number of the reason, as in REASONS."""
        if self.inflight >= self.max_inflight:
            return TOO_MANY
        if body_bytes > self.room_bytes and self.inflight > 0:
            return TOO_LARGE
        if self.shed_share > 0:
            # Refusals spread evenly: nobody's luck, and no run of them.
            self._debt += self.shed_share
            if self._debt >= 1:
                self._debt -= 1
                return TOO_LATE
        self.inflight += 1
        self.room_bytes -= body_bytes
        return TAKEN_ON

    cpdef void leave(self) noexcept:
        self.inflight -= 1

    cpdef bint grow(self, long long body_bytes) noexcept:
        """Whether there is so much more room for a request that did not say how long its body is; below 0: it goes."""
        if body_bytes > 0 and body_bytes > self.room_bytes and self.inflight > 1:
            return False
        self.room_bytes -= body_bytes
        return True

    cpdef void expect(self, long long body_bytes) noexcept:
        """So many bytes of bodies that were let in are still to come; below 0: so many came, or never will."""
        self.unread_bytes += body_bytes

    def look(self, long long room_bytes, double shed_share):
        """What was just found: room between the memory in use and its bound, and the share to be refused."""
        self.room_bytes = room_bytes - self.unread_bytes
        self.shed_share = shed_share
