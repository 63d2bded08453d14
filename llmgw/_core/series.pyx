"""The metric series of one worker slot: a row of records that only grows.

    Arena    used_bytes, reserved_bytes
    Record   check, size_bytes, family, values, key_bytes, 0 | values × 64 bit | key | padding to 8

`family` is a number that the caller gives a meaning; a key is the label values, in UTF-8, with a
zero byte between them. A record is written whole, then `used_bytes` moves over it: whoever dies
in between leaves nothing half. A worker that takes over a slot finds its predecessor's records and
goes on counting in them. The values of a record never move.

The arena is bounded. When it is full, counts go to the family's overflow series, whose labels all
read OVERFLOW; a part of the arena is kept for those.
"""

import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from llmgw._core.segment cimport Segment

import llmgw._core.segment as _segment

cdef extern from *:
    """
    #include <stdint.h>
    static inline void publish(uint64_t *at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    static inline uint64_t observe(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    """
    void publish(uint64_t* at, uint64_t value) noexcept nogil
    uint64_t observe(const uint64_t* at) noexcept nogil


cdef struct Record:
    uint32_t check                  # CRC-32 of the rest of this head and of the key
    uint32_t size_bytes
    uint16_t family
    uint16_t values
    uint16_t key_bytes
    uint16_t zero

cdef enum:
    KEY_MAX_BYTES = 1024
    VALUES_MAX = 64
    OVERFLOW_BYTES = 16 * 1024      # kept for overflow series

cdef uint64_t ARENA_BYTES = _segment.SERIES_BYTES
cdef uint64_t STEP_BYTES = _segment.SERIES_RESERVED_BYTES    # put on disk at a time

OVERFLOW = "_overflow"
cdef bytes OVERFLOW_LABEL = OVERFLOW.encode()


def key_of(*labels):
    """Label values as a key: valid UTF-8, no zero byte inside a value, bounded."""
    texts = [label.replace("\0", " ").encode("utf-8", "replace") for label in labels]
    share = KEY_MAX_BYTES // max(len(texts), 1) - 1
    return b"\0".join([text if len(text) <= share else _cut(text, share) for text in texts])


def labels_of(bytes key):
    return tuple(key.decode("utf-8", "replace").split("\0"))


cdef bytes _cut(bytes text, Py_ssize_t size_bytes):
    return text[:size_bytes].decode("utf-8", "ignore").encode()


cdef bytes _overflow_key(bytes key):
    return b"\0".join([OVERFLOW_LABEL] * (key.count(b"\0") + 1))


cdef class Series:
    """The writer of a slot. One for each slot in all processes at a time."""

    def __init__(self, Segment segment, int slot):
        self.segment = segment
        self._arena = <Arena*>segment.unit("series", slot)
        self._spare = bytearray(8 * VALUES_MAX)
        self._places = {}
        end = _walk(self._arena, self._places)
        if end != observe(&self._arena.used_bytes):     # new, or damaged from there on
            publish(&self._arena.used_bytes, end)
        self._arena.reserved_bytes = STEP_BYTES
        self._reserve_up_to(end)

    @property
    def used_bytes(self):
        return self._arena.used_bytes

    def add(self, int family, bytes key, int values, int index, uint64_t amount):
        """For counts that are rare; who counts often keeps the pointer of `find`."""
        if not 0 <= index < values:
            raise IndexError(f"no value {index} of {values}")
        self.find(family, key, values)[index] += amount

    def ensure_overflow(self, int family, int labels, int values):
        """Makes the family's overflow series now, while there is room for it."""
        key = b"\0".join([OVERFLOW_LABEL] * labels)
        self._place(family, key, values, ARENA_BYTES)

    cdef uint64_t* find(self, int family, bytes key, int values) except NULL:
        """The values of a series, made where it does not exist. They stay where they are for good."""
        if not 0 < values <= VALUES_MAX or PyBytes_GET_SIZE(key) > KEY_MAX_BYTES:
            raise ValueError("a series has 1 to 64 values and a key of at most 1024 bytes")
        cdef Py_ssize_t at = self._place(family, key, values, ARENA_BYTES - OVERFLOW_BYTES)
        if at == 0:
            at = self._place(family, _overflow_key(key), values, ARENA_BYTES)
        if at == 0:
            return <uint64_t*><char*>self._spare
        return <uint64_t*>(<char*>self._arena + at)

    cdef Py_ssize_t _place(self, int family, bytes key, int values, uint64_t limit_bytes) except -1:
        """The offset of a series' values, 0 where it does not exist and there is no room for it."""
        found = self._places.get((family, key))
        if found is not None and (<Record*>(<char*>self._arena + <Py_ssize_t>found) - 1).values == values:
            return found
        cdef uint64_t used = self._arena.used_bytes
        cdef uint64_t size = _record_bytes(PyBytes_GET_SIZE(key), values)
        if used + size > limit_bytes or not self._reserve_up_to(used + size):
            return 0
        self._append(family, key, values)
        self._places[family, key] = used + sizeof(Record)
        return used + sizeof(Record)

    cdef int _append(self, int family, bytes key, int values) except -1:
        cdef uint64_t used = self._arena.used_bytes
        cdef Record* record = <Record*>(<char*>self._arena + used)
        cdef Py_ssize_t key_bytes = PyBytes_GET_SIZE(key)
        cdef uint64_t size = _record_bytes(key_bytes, values)
        memset(record, 0, size)
        record.size_bytes, record.family, record.values = <uint32_t>size, family, values
        record.key_bytes = <uint16_t>key_bytes
        memcpy(<char*>(record + 1) + 8 * values, PyBytes_AS_STRING(key), key_bytes)
        record.check = _check(record, key)
        publish(&self._arena.used_bytes, used + size)
        return 0

    def _reserve_up_to(self, uint64_t end):
        """Whether the arena is on disk up to `end`; not so where the disk is full."""
        cdef uint64_t reserved = self._arena.reserved_bytes
        if end <= reserved:
            return True
        cdef uint64_t new = min((end + STEP_BYTES - 1) // STEP_BYTES * STEP_BYTES, ARENA_BYTES)
        try:
            self.segment.reserve(<char*>self._arena + reserved, new - reserved)
        except OSError:
            return False
        self._arena.reserved_bytes = new
        return True


cdef uint64_t _record_bytes(Py_ssize_t key_bytes, int values) noexcept:
    return <uint64_t>(sizeof(Record) + 8 * values + (key_bytes + 7) // 8 * 8)


cdef uint32_t _check(Record* record, bytes key) except? 0:
    head = PyBytes_FromStringAndSize(<char*>record + sizeof(uint32_t), sizeof(Record) - sizeof(uint32_t))
    return zlib.crc32(key, zlib.crc32(head))


cdef bytes _key_of_record(Arena* arena, uint64_t at, uint64_t end):
    """The key of the record at `at`; None if no sound record begins there and ends before `end`."""
    cdef Record* record = <Record*>(<char*>arena + at)
    if end - at < sizeof(Record) or not 0 < record.values <= VALUES_MAX or record.key_bytes > KEY_MAX_BYTES:
        return None
    if record.size_bytes != _record_bytes(record.key_bytes, record.values) or record.size_bytes > end - at:
        return None
    key = PyBytes_FromStringAndSize(<char*>(record + 1) + 8 * record.values, record.key_bytes)
    return key if _check(record, key) == record.check else None


cdef uint64_t _walk(Arena* arena, dict places) except 0:
    """Fills `places` with the sound records, up to the first that is not; returns where they end."""
    cdef uint64_t end = min(observe(&arena.used_bytes), ARENA_BYTES)
    cdef uint64_t at = sizeof(Arena)
    while at < end:
        key = _key_of_record(arena, at, end)
        if key is None:
            break
        places[(<Record*>(<char*>arena + at)).family, key] = at + sizeof(Record)
        at += (<Record*>(<char*>arena + at)).size_bytes
    return at


def merged(Segment segment):
    """{(family, key): values summed over all slots}, of every slot that ever counted."""
    totals = {}
    for slot in range(segment.slots):
        _merge_slot(<Arena*>segment.unit("series", slot), totals)
    return totals


cdef int _merge_slot(Arena* arena, dict totals) except -1:
    places = {}
    _walk(arena, places)
    cdef Record* record
    cdef uint64_t* values
    for series, offset in places.items():
        values = <uint64_t*>(<char*>arena + <Py_ssize_t>offset)
        record = <Record*>values - 1
        total = totals.setdefault(series, [0] * record.values)
        if len(total) == record.values:
            totals[series] = [total[index] + values[index] for index in range(record.values)]
    return 0
