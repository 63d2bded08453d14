"""A body whose length is known, put together in its place: there is never a second copy of it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef class Body:
    cdef bytes _body                # its end is not written yet, and nobody else has it
    cdef readonly Py_ssize_t missing_bytes

    def __cinit__(self, Py_ssize_t size):
        if size < 0:
            raise ValueError("a size is not negative")
        self._body = PyBytes_FromStringAndSize(NULL, size)
        self.missing_bytes = size

    def add(self, bytes piece not None) -> None:
        """Raises ValueError for more than is missing."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        if size > self.missing_bytes:
            raise ValueError("the body is longer than it was said to be")
        cdef char* end = PyBytes_AS_STRING(self._body) + PyBytes_GET_SIZE(self._body)
        memcpy(end - self.missing_bytes, PyBytes_AS_STRING(piece), size)
        self.missing_bytes -= size

    def take(self) -> bytes:
        """Once, when nothing is missing. Raises ValueError before."""
        if self.missing_bytes or self._body is None:
            raise ValueError("the body is not whole, or was taken")
        body = self._body
        self._body = None
        return body
