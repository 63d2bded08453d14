"""Header lines with numbers in them, written straight into their bytes."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdio cimport snprintf

cdef enum:
    LINES_MAX = 256                # of the lines below with the longest numbers and a request id of 64


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


def reply_lines(origin: bytes, str request_id, int attempts, long long queue_ms, long long cost_usd_micro) -> bytes:
    """`origin` and the lines that differ from answer to answer; the cost only where it is not negative."""
    cdef char text[LINES_MAX]
    cdef Py_ssize_t id_size
    cdef const char* id_text = PyUnicode_AsUTF8AndSize(request_id, &id_size)
    cdef int size = snprintf(
        text, LINES_MAX, b"x-request-id: %.64s\r\nx-llmgw-attempts: %d\r\nx-llmgw-queue-ms: %lld\r\n",
        id_text, attempts, queue_ms,
    )
    if cost_usd_micro >= 0:
        size += snprintf(
            text + size, LINES_MAX - size, b"x-llmgw-cost-usd: %lld.%06lld\r\n",
            cost_usd_micro // 1_000_000, cost_usd_micro % 1_000_000,
        )
    return origin + PyBytes_FromStringAndSize(text, size)
