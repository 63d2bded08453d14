# The monotonic clock for compiled code: 20 ns a reading, no Python object. Forked workers and the
# supervisor read the same clock, and so does time.monotonic().

from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef inline double monotonic_s() noexcept nogil:
    return <double>monotonic_ns() * 1e-9
