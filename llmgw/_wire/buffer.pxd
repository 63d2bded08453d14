"""A growing run of bytes in C memory, for what must outlive one read from a socket.

It doubles from 512 bytes, so appending n bytes one by one copies O(n); `buffer_drop` gives
memory beyond KEPT_BYTES back as soon as the buffer is empty, since thousands of streams are open
and silent at a time.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    FIRST_BYTES = 512
    KEPT_BYTES = 2048

cdef struct Buffer:                # all zero: empty
    unsigned char* data
    Py_ssize_t size                # bytes that are there
    Py_ssize_t room                # bytes that fit


cdef inline int buffer_append(Buffer* b, const void* bytes, Py_ssize_t size) except -1:
    """MemoryError, with the buffer as it was, where no memory is left."""
    cdef Py_ssize_t room = b.room or FIRST_BYTES
    cdef unsigned char* data
    if size == 0:
        return 0                       # memcpy must not see the NULL of an empty buffer
    if size > b.room - b.size:
        while room - b.size < size:
            room *= 2
        data = <unsigned char*>realloc(b.data, room)
        if data == NULL:
            raise MemoryError
        b.data, b.room = data, room
    memcpy(b.data + b.size, bytes, size)
    b.size += size
    return 0


cdef inline void buffer_drop(Buffer* b, Py_ssize_t size) noexcept:
    """Forgets the first `size` bytes."""
    b.size -= size
    if b.size:
        memmove(b.data, b.data + size, b.size)
    elif b.room > KEPT_BYTES:
        buffer_free(b)


cdef inline void buffer_free(Buffer* b) noexcept:
    free(b.data)
    b.data = NULL
    b.size = b.room = 0
