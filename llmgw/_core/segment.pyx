"""The shared segment: one file-backed mapping that the supervisor and all workers see.

The supervisor makes it before it forks; workers inherit the mapping. It is divided into named
regions (`statefile` keeps the table of them), of which there are now

    supervisor   1 unit                what the supervisor itself counts
    workers      1 unit a worker slot  process id, heartbeat, requests in flight and waiting, loop lag
    estimates    1 unit                what is learned of each model's tokens (`estimate`)
    series       1 unit a worker slot  the metric series of that slot (`series`)
    limits       1 unit                the lock, the clock and the undo record of the limiter
    rows         1 unit                what each subject has used (`window.pxd`)
    holds        1 unit a worker slot  what its open requests have reserved
    targets      1 unit                the lock and the rows of targets and of providers' traffic (`health`)
    tiers        1 unit                the credits of weighted choices (`select`)
    recent       1 unit a worker slot  what became of its latest requests

A further region is one more line in `wanted`; a file without it is taken over and gets it empty.

No locks, but for the limiter's own and that of `targets`, which `tiers` is under too. Elsewhere, estimates
apart, each field has one writer (a slot's worker, or the supervisor while the slot is empty), is aligned to
8 bytes and written by one plain store, which x86-64 and AArch64 never tear. A reader may see two fields of
different moments, never half a field. A unit starts on a cache line of its own, so workers do not slow each
other down.
"""

import os

from llmgw._core import statefile
from llmgw._core.statefile import Region

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from llmgw._core.clock cimport monotonic_ns

cdef enum:
    WORKER_BYTES = 128
    SUPERVISOR_BYTES = 128

cdef uint64_t LAG_WINDOW_NS = 15_000_000_000    # a worst lag is shown for 15 to 30 s: any scraper sees it

BEAT_S = 0.05                                   # a worker beats this often
SERIES_BYTES = 1 << 20                          # address space of a slot's series: some 10,000 of them
SERIES_RESERVED_BYTES = 1 << 16                 # of which on disk from the start
ESTIMATES_BYTES = 1408 << 10                    # of some 1,000 models

LIMITS_BYTES = 1 << 14                          # the limiter's lock, clock and undo record
ROWS_BYTES = 16_384 * 1_272                     # a row for each limit of each subject
HOLDS_BYTES = 16_384 * 1_280                    # address space of what a slot's requests have reserved
TARGETS_BYTES = 3 << 20                         # of 1,024 targets and 256 providers
TIERS_BYTES = 1_024 * 576
RECENT_BYTES = 1 << 20

cdef uint64_t BEAT_NS = 50_000_000

assert sizeof(Worker) <= WORKER_BYTES and sizeof(Supervisor) <= SUPERVISOR_BYTES


def wanted(int workers):
    return [
        Region("supervisor", 1, 1, SUPERVISOR_BYTES, SUPERVISOR_BYTES),
        Region("workers", 2, workers, WORKER_BYTES, WORKER_BYTES),
        Region("estimates", 1, 1, ESTIMATES_BYTES, ESTIMATES_BYTES),
        Region("limits", 4, 1, LIMITS_BYTES, LIMITS_BYTES),
        Region("rows", 4, 1, ROWS_BYTES, ROWS_BYTES),
        Region("holds", 2, workers, HOLDS_BYTES),
        Region("targets", 1, 1, TARGETS_BYTES, TARGETS_BYTES),
        Region("tiers", 1, 1, TIERS_BYTES, TIERS_BYTES),
        Region("recent", 1, workers, RECENT_BYTES, RECENT_BYTES),
        Region("series", 1, workers, SERIES_BYTES, SERIES_RESERVED_BYTES),
    ]


cdef class Segment:
    """`notice` says why earlier counters were given up, or is empty. Lives until its last user is gone."""

    def __init__(self, str path, int workers):
        if self._base != NULL or workers < 1:
            raise ValueError("a segment is opened once, for at least one worker")
        file = statefile.open_state(path, wanted(workers))
        cdef void* base = mmap(NULL, file.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0)
        if base == MAP_FAILED:
            os.close(file.fd)
            os.close(file.lock_fd)
            raise MemoryError(f"cannot map {path}")
        self.path, self.workers, self.notice = path, workers, file.notice
        self._base, self._size_bytes, self._file = <char*>base, file.size_bytes, file
        self._fd, self._lock_fd = file.fd, file.lock_fd
        self.slots = file.regions["workers"].units
        for slot in range(self.slots):
            self.release(slot)
        self._supervisor().pid = os.getpid()

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self._size_bytes)
            close(self._fd)
            close(self._lock_fd)

    cdef char* unit(self, str region, int index) except NULL:
        found = self._file.regions[region]
        if not 0 <= index < found.units:
            raise IndexError(f"{region} has {found.units} units, not number {index}")
        cdef size_t offset = found.offset + index * found.unit_bytes
        return self._base + offset

    cdef Worker* worker(self, int slot) except NULL:
        return <Worker*>self.unit("workers", slot)

    cdef Supervisor* _supervisor(self) except NULL:
        return <Supervisor*>self.unit("supervisor", 0)

    cdef int reserve(self, char* at, size_t size_bytes) except -1:
        """Puts part of the mapping on disk, so that a store there cannot be a SIGBUS. OSError: no space."""
        statefile.reserve(self._fd, at - self._base, size_bytes)
        return 0

    # What the supervisor writes.

    def enlist(self, int slot, long long pid):
        self.worker(slot).pid = pid

    def release(self, int slot):
        """The slot's process is gone: nothing of it is in flight any more. What it counted stays."""
        cdef Worker* worker = self.worker(slot)
        cdef uint64_t restarts = worker.restarts, unwritten = worker.unwritten
        memset(worker, 0, sizeof(Worker))
        worker.restarts, worker.unwritten = restarts, unwritten

    def count_restart(self, int slot):
        self.worker(slot).restarts += 1

    def count_reload(self, bint applied):
        if applied:
            self._supervisor().reloads_applied += 1
        else:
            self._supervisor().reloads_refused += 1

    def count_recovered(self, uint64_t holds):
        self._supervisor().holds_recovered += holds

    # What a worker writes.

    def beat(self, int slot):
        """To be called every BEAT_S from the event loop; what came later than that is the loop's lag."""
        cdef Worker* worker = self.worker(slot)
        cdef uint64_t now_ns = monotonic_ns()
        cdef uint64_t lag_ns = _late_ns(worker, now_ns)
        if now_ns - worker.lag_since_ns > LAG_WINDOW_NS:
            worker.lag_before_ns = worker.lag_ns
            worker.lag_ns = 0
            worker.lag_since_ns = now_ns
        if lag_ns > worker.lag_ns:
            worker.lag_ns = lag_ns
        worker.heartbeat_ns = now_ns

    def note_unwritten(self, int slot, uint64_t records):
        """So many records of the ledger wait in the slot's worker for disk."""
        self.worker(slot).unwritten = records

    # What anybody may read.

    def unwritten(self, int slot):
        return self.worker(slot).unwritten

    def pid(self, int slot):
        return self.worker(slot).pid

    def supervisor_pid(self):
        return self._supervisor().pid

    def heartbeat_ns(self, int slot):
        return self.worker(slot).heartbeat_ns

    def inflight(self, int slot):
        return self.worker(slot).inflight

    def waiting(self, int slot):
        """(interactive, batch) requests in the slot's queue."""
        return self.worker(slot).waiting_interactive, self.worker(slot).waiting_batch

    def is_redis_up(self, int slot):
        """None where no worker runs, or none that uses Redis."""
        cdef int64_t state = self.worker(slot).redis_state
        return None if state == 0 else state == 2

    def restarts(self, int slot):
        return self.worker(slot).restarts

    def reloads(self):
        """(applied, refused) since the file was made."""
        return self._supervisor().reloads_applied, self._supervisor().reloads_refused

    def recovered(self):
        """Holds of dead workers that the supervisor settled, since the file was made."""
        return self._supervisor().holds_recovered

    def lag_s(self, int slot):
        """The worst lag of the slot's loop in the last 15 to 30 s, the silence that still lasts included."""
        cdef Worker* worker = self.worker(slot)
        return max(_late_ns(worker, monotonic_ns()), worker.lag_ns, worker.lag_before_ns) / 1e9


cdef uint64_t _late_ns(Worker* worker, uint64_t now_ns) noexcept nogil:
    """How much later than expected a beat at this moment comes; nothing is expected before the first."""
    cdef uint64_t beat_ns = worker.heartbeat_ns
    if beat_ns == 0 or now_ns <= beat_ns + BEAT_NS:
        return 0
    return now_ns - beat_ns - BEAT_NS
