# cython: nonecheck=True
"""Header lines that differ from message to message, written straight into their bytes.

Concatenating them costs a copy of the head for each, and a number's text in Python costs as much again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from llmgw._wire.call cimport Call
from llmgw._wire.text cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, put, put_digits, put_unsigned

cdef enum:
    LINES_MAX_BYTES = 256          # of the lines below with the longest numbers and a request id of 64
    ID_MAX_CHARS = 64

cdef double QUEUE_MS_MAX = 1e15


cpdef bytes request_lines(bytes head, Call call, bytes idempotency_key, bytes content_type, long long body_bytes):
    """`head`, what of the client's own head goes on, and the body's framing; -1: it has no body."""
    cdef char framing[64]
    cdef char* end = framing
    parts = [head]
    if len(call.accept):
        parts += [b"accept: ", call.accept, b"\r\n"]
    if call.beta is not None:
        parts += [b"openai-beta: ", call.beta, b"\r\n"]
    if idempotency_key is not None:
        parts += [b"idempotency-key: ", idempotency_key, b"\r\n"]
    if call.traceparent is not None:
        parts += [b"traceparent: ", call.traceparent, b"\r\n"]
    if body_bytes >= 0:
        if len(content_type):
            parts += [b"content-type: ", content_type, b"\r\n"]
        end = put(put_unsigned(put(end, b"content-length: "), <unsigned long long>body_bytes), b"\r\n")
    end = put(end, b"\r\n")
    parts.append(PyBytes_FromStringAndSize(framing, end - framing))
    return b"".join(parts)


cpdef bytes reply_lines(bytes origin, Call call):
    """`origin`, the lines that differ from answer to answer, and the call's limits; the cost where it is known."""
    cdef char lines[LINES_MAX_BYTES]
    cdef char* at = put(lines, b"x-request-id: ")
    cdef str request_id = call.request_id
    cdef bytes limits = call.limit_lines
    cdef long long cost_usd_micro = call.cost_usd_micro if call.usage_source is not None else -1
    cdef Py_ssize_t count = min(PyUnicode_GET_LENGTH(request_id), ID_MAX_CHARS)
    if PyUnicode_IS_COMPACT_ASCII(request_id):
        memcpy(at, PyUnicode_DATA(request_id), count)
        at += count
    at = put_unsigned(put(at, b"\r\nx-llmgw-attempts: "), <unsigned long long>max(call.attempts, 0))
    at = put_unsigned(put(at, b"\r\nx-llmgw-queue-ms: "), <unsigned long long>min(max(call.queue_ms, 0), QUEUE_MS_MAX))
    if cost_usd_micro >= 0:
        at = put_unsigned(put(at, b"\r\nx-llmgw-cost-usd: "), <unsigned long long>cost_usd_micro // 1_000_000)
        at = put_digits(put(at, b"."), <unsigned long long>cost_usd_micro % 1_000_000, 6)
    at = put(at, b"\r\n")
    cdef Py_ssize_t first = len(origin), size = at - lines, last = len(limits)
    head = PyBytes_FromStringAndSize(NULL, first + size + last)
    cdef char* to = PyBytes_AS_STRING(head)
    memcpy(to, PyBytes_AS_STRING(origin), first)
    memcpy(to + first, lines, size)
    memcpy(to + first + size, PyBytes_AS_STRING(limits), last)
    return head
