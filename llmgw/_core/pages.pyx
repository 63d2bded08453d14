"""A shared mapping of a file, as pages: what may wait for a disk waits here without the interpreter's lock.

The first write to a page that the kernel holds clean is a fault, in which the file system may wait for
its journal: up to 100 ms were seen on ext4. `touch` takes these faults ahead, in a thread that has time.
`start` and `size` are in bytes and lie inside the mapping, `start` on a page's boundary.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetFromErrno
from posix.mman cimport MS_SYNC, msync

import mmap

cdef extern from *:
    """
    #include <sys/mman.h>

    /* A write that changes nothing, whatever another thread writes there at the time. Compare and swap
       with the same value: unlike an addition of 0, no compiler makes a mere read of it. */
    static inline void write_nothing(volatile unsigned char *at)
    {
        unsigned char value = *at;
        __atomic_compare_exchange_n(at, &value, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }

    /* POSIX_MADV_DONTNEED means something else, or nothing. */
    static inline void drop(void *at, size_t size) { madvise(at, size, MADV_DONTNEED); }
    """
    void write_nothing(unsigned char* at) noexcept nogil
    void drop(void* at, size_t size) noexcept nogil

PAGE_BYTES = mmap.PAGESIZE

cdef size_t page_bytes = mmap.PAGESIZE


def touch(object mapping not None, size_t start, size_t size):
    """Makes the pages of a range writable at once. Its disk must be reserved, or this is a SIGBUS."""
    cdef Py_buffer view
    cdef size_t at = start
    take(mapping, &view, start, size)
    with nogil:
        while at < start + size:
            write_nothing(<unsigned char*>view.buf + at)
            at += page_bytes
    PyBuffer_Release(&view)


def sync(object mapping not None, size_t start, size_t size):
    """Onto the disk, with all that is needed to find it there. Raises OSError."""
    cdef Py_buffer view
    cdef int failed
    take(mapping, &view, start, size)
    with nogil:
        failed = msync(<char*>view.buf + start, size, MS_SYNC)
    PyBuffer_Release(&view)
    if failed:
        PyErr_SetFromErrno(OSError)


def forget(object mapping not None, size_t start, size_t size):
    """Gives back this process's memory of a range; what was written there stays in the page cache."""
    cdef Py_buffer view
    take(mapping, &view, start, size)
    with nogil:
        drop(<char*>view.buf + start, size)
    PyBuffer_Release(&view)


cdef int take(object mapping, Py_buffer* view, size_t start, size_t size) except -1:
    """To be released. ValueError for a range that is not the mapping's."""
    PyObject_GetBuffer(mapping, view, PyBUF_WRITABLE)
    cdef size_t whole = <size_t>view.len
    if start % page_bytes or start > whole or size > whole - start:
        PyBuffer_Release(view)
        raise ValueError("not a range of the mapping, from a page on")
    return 0
