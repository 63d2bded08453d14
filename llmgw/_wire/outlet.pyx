"""Where an answer goes: the fast lane's connection, or aiohttp's response. One interface for both.

`head` is a block of header lines, each ended by CRLF, without the framing (Content-Length,
Transfer-Encoding, Connection, Date), which is the lane's own.
"""


cdef class Feeder(Watched):
    cdef int pause_feed(self) except -1:
        return 0

    cdef int resume_feed(self) except -1:
        return 0


cdef class Outlet(Watched):
    cpdef int answer(self, int status, bytes head, bytes body) except -1:
        """A whole answer."""
        self.begin(status, head, len(body))
        self.write(body)
        return self.end()

    cpdef int begin(self, int status, bytes head, long long length) except -1:
        """The head of an answer that comes in pieces; `length` in bytes, -1 where it is not known."""
        raise TypeError("an outlet's begin")

    cpdef int write(self, bytes data) except -1:
        raise TypeError("an outlet's write")

    cpdef int end(self) except -1:
        """The answer is complete."""
        raise TypeError("an outlet's end")

    cpdef int cut(self) except -1:
        """The answer stays incomplete, and the client can tell: the connection ends within its body."""
        raise TypeError("an outlet's cut")

    cpdef int slow_down(self) except -1:
        """The client reads slower than the provider writes. A feeder that comes later asks `is_slow`."""
        self.is_slow = True
        if self.feeder is not None:
            self.feeder.pause_feed()
        return 0

    cpdef int speed_up(self) except -1:
        self.is_slow = False
        if self.feeder is not None:
            self.feeder.resume_feed()
        return 0
