"""What became of a worker's latest requests: a ring in the segment that every process can look into.

Each request has a record of one size: its id, its log line, the way it took, and the limits as it found
them (`limiter.Part`). A slot's worker writes, and goes on where its predecessor stopped, so that what a dead
worker left can be read until it is overwritten.

`version` of the n-th record of a ring is 2n when it is whole and 2n - 1 while it is written; a reader takes
a copy and believes it if the version was even and is still the same. A worker that dies in between leaves a
record that nobody reads.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from llmgw._core.segment import RECENT_BYTES

from llmgw._core.segment cimport Segment

cdef extern from *:
    """
    #define llmgw_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define llmgw_begin(at, value) do { __atomic_store_n(at, value, __ATOMIC_RELAXED); __atomic_thread_fence(__ATOMIC_RELEASE); } while (0)
    #define llmgw_end(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    #define llmgw_fence() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    """
    uint64_t llmgw_load(uint64_t* at) noexcept nogil
    void llmgw_begin(uint64_t* at, uint64_t value) noexcept nogil
    void llmgw_end(uint64_t* at, uint64_t value) noexcept nogil
    void llmgw_fence() noexcept nogil

cdef enum:
    RECORDS_C = 512                 # of one worker slot
    RECORD_C_BYTES = 2048
    HEAD_BYTES = 16
    ROOM_BYTES = RECORD_C_BYTES - HEAD_BYTES
    ID_MAX_BYTES = 64
    PART_BYTES = 48                 # of a limit: a snapshot is cut between two
    TRIES = 16                      # looks of a reader that meets a writer

RECORDS, RECORD_BYTES = RECORDS_C, RECORD_C_BYTES
assert RECORDS * RECORD_BYTES == RECENT_BYTES and sizeof(Record) == RECORD_BYTES

cdef struct Record:
    uint64_t version                # 0: never written
    uint16_t id_bytes
    uint16_t line_bytes
    uint16_t route_bytes
    uint16_t limits_bytes
    char room[ROOM_BYTES]           # the four, one after the other


@cython.final
cdef class Recent:
    """The writer: one for each worker slot."""

    cdef Segment _segment           # whose mapping it writes to
    cdef Record* _records
    cdef uint64_t _count            # records that were ever begun

    def __init__(self, Segment segment not None, int slot):
        cdef int index
        self._segment = segment
        self._records = <Record*>segment.unit("recent", slot)
        for index in range(RECORDS_C):
            self._count = max(self._count, (self._records[index].version + 1) // 2)

    cpdef keep(self, str request_id, bytes line, str route, bytes limits):
        """Of a request that is over. A line or a route that has no room is left out, limits from the last on."""
        cdef Py_ssize_t id_bytes, route_bytes
        cdef Py_ssize_t line_bytes = PyBytes_GET_SIZE(line), limits_bytes = PyBytes_GET_SIZE(limits)
        cdef const char* name = PyUnicode_AsUTF8AndSize(request_id, &id_bytes)
        cdef const char* way = PyUnicode_AsUTF8AndSize(route, &route_bytes)
        cdef Py_ssize_t room = ROOM_BYTES
        cdef Record* record = &self._records[self._count % <uint64_t>RECORDS_C]
        cdef char* at = record.room
        if id_bytes > ID_MAX_BYTES:
            return
        self._count += 1
        llmgw_begin(&record.version, 2 * self._count - 1)
        record.id_bytes = <uint16_t>id_bytes
        memcpy(at, name, id_bytes)
        at, room = at + id_bytes, room - id_bytes
        line_bytes = line_bytes if line_bytes <= room else 0
        record.line_bytes = <uint16_t>line_bytes
        memcpy(at, PyBytes_AS_STRING(line), line_bytes)
        at, room = at + line_bytes, room - line_bytes
        route_bytes = route_bytes if route_bytes <= room else 0
        record.route_bytes = <uint16_t>route_bytes
        memcpy(at, way, route_bytes)
        at, room = at + route_bytes, room - route_bytes
        limits_bytes = min(limits_bytes, room // PART_BYTES * PART_BYTES)
        record.limits_bytes = <uint16_t>limits_bytes
        memcpy(at, PyBytes_AS_STRING(limits), limits_bytes)
        llmgw_end(&record.version, 2 * self._count)


def find(Segment segment not None, str request_id not None):
    """(log line, route, limits) of a request of any worker; None where it is not known, or not any more."""
    cdef Py_ssize_t id_bytes
    cdef const char* name = PyUnicode_AsUTF8AndSize(request_id, &id_bytes)
    cdef Record copy
    cdef Record* records
    cdef int index
    if not 0 < id_bytes <= ID_MAX_BYTES:
        return None
    for slot in range(segment.slots):
        records = <Record*>segment.unit("recent", slot)
        for index in range(RECORDS_C):
            if records[index].id_bytes != id_bytes or memcmp(records[index].room, name, id_bytes) != 0:
                continue
            if read(&records[index], &copy) and copy.id_bytes == id_bytes and memcmp(copy.room, name, id_bytes) == 0:
                return contents(&copy)
    return None


def latest(Segment segment not None, int slot, int count):
    """[(log line, route, limits)] of a slot's last so many requests, the newest first."""
    cdef Record* records = <Record*>segment.unit("recent", slot)
    cdef Record copy
    cdef uint64_t newest = 0, number
    cdef int index
    for index in range(RECORDS_C):
        newest = max(newest, llmgw_load(&records[index].version) // 2)
    found = []
    for number in range(newest, newest - min(newest, <uint64_t>min(count, RECORDS_C)), -1):
        if read(&records[(number - 1) % <uint64_t>RECORDS_C], &copy):
            found.append(contents(&copy))
    return found


cdef bint read(Record* record, Record* copy) noexcept nogil:
    """Whether there is a whole record, which is in the copy then."""
    cdef int turn
    for turn in range(TRIES):
        copy.version = llmgw_load(&record.version)
        if copy.version == 0:
            return False
        memcpy(<char*>copy + sizeof(uint64_t), <char*>record + sizeof(uint64_t), sizeof(Record) - sizeof(uint64_t))
        llmgw_fence()
        if copy.version % 2 == 0 and llmgw_load(&record.version) == copy.version:
            return is_sound(copy)
    return False


cdef inline bint is_sound(Record* record) noexcept nogil:
    """No byte of the segment is trusted."""
    return <int>record.id_bytes + record.line_bytes + record.route_bytes + record.limits_bytes <= ROOM_BYTES


cdef tuple contents(Record* record):
    cdef char* line = record.room + record.id_bytes
    cdef char* route = line + record.line_bytes
    return (
        PyBytes_FromStringAndSize(line, record.line_bytes),
        PyBytes_FromStringAndSize(route, record.route_bytes),
        PyBytes_FromStringAndSize(route + record.route_bytes, record.limits_bytes),
    )
