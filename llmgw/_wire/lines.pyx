"""Header lines with numbers in them, written straight into their bytes."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from llmgw._wire.text cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, put, put_digits, put_unsigned

cdef enum:
    LINES_MAX_BYTES = 256          # of the lines below with the longest numbers and a request id of 64
    ID_MAX_CHARS = 64


def reply_lines(
    bytes origin not None, str request_id not None, int attempts, long long queue_ms, long long cost_usd_micro,
    bytes limits not None=b"",
) -> bytes:
    """`origin`, the lines that differ from answer to answer, and `limits`; the cost only where it is not negative."""
    cdef char lines[LINES_MAX_BYTES]
    cdef char* at = put(lines, b"x-request-id: ")
    cdef Py_ssize_t count = min(PyUnicode_GET_LENGTH(request_id), ID_MAX_CHARS)
    if PyUnicode_IS_COMPACT_ASCII(request_id):
        memcpy(at, PyUnicode_DATA(request_id), count)
        at += count
    at = put_unsigned(put(at, b"\r\nx-llmgw-attempts: "), <unsigned long long>max(attempts, 0))
    at = put_unsigned(put(at, b"\r\nx-llmgw-queue-ms: "), <unsigned long long>max(queue_ms, 0))
    if cost_usd_micro >= 0:
        at = put_unsigned(put(at, b"\r\nx-llmgw-cost-usd: "), <unsigned long long>cost_usd_micro // 1_000_000)
        at = put_digits(put(at, b"."), <unsigned long long>cost_usd_micro % 1_000_000, 6)
    at = put(at, b"\r\n")
    cdef Py_ssize_t first = PyBytes_GET_SIZE(origin), size = at - lines, last = PyBytes_GET_SIZE(limits)
    head = PyBytes_FromStringAndSize(NULL, first + size + last)
    cdef char* to = PyBytes_AS_STRING(head)
    memcpy(to, PyBytes_AS_STRING(origin), first)
    memcpy(to + first, lines, size)
    memcpy(to + first + size, PyBytes_AS_STRING(limits), last)
    return head
