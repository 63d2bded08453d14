cimport cython
from libc.stdint cimport int64_t, uint64_t


cdef struct Worker:
    int64_t pid                     # 0: the slot is empty
    uint64_t heartbeat_ns           # CLOCK_MONOTONIC; 0: has not beaten yet
    int64_t inflight                # requests
    uint64_t restarts               # written by the supervisor
    uint64_t lag_since_ns           # start of the running lag window
    uint64_t lag_ns                 # the worst in the running window
    uint64_t lag_before_ns          # the worst in the window before
    int64_t waiting_interactive     # requests in the worker's queue
    int64_t waiting_batch
    uint64_t unwritten              # records of the ledger that wait for disk; stays when the process is gone
    int64_t redis_state             # 0: the worker uses none, 1: away, 2: answers


cdef struct Supervisor:
    int64_t pid
    uint64_t reloads_applied
    uint64_t reloads_refused
    uint64_t holds_recovered        # of workers that died


@cython.final
cdef class Segment:
    cdef readonly str path
    cdef readonly int workers       # slots in use
    cdef readonly int slots         # slots in the file: never fewer
    cdef readonly str notice
    cdef char* _base
    cdef size_t _size_bytes
    cdef int _fd, _lock_fd
    cdef object _file               # statefile.StateFile

    cdef char* unit(self, str region, int index) except NULL
    cdef Supervisor* _supervisor(self) except NULL
    cdef Worker* worker(self, int slot) except NULL
    cdef int reserve(self, char* at, size_t size_bytes) except -1
