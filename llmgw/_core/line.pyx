"""The log line of a request, written straight from its Call: one JSON object and a newline.

Saves a dict of 26 entries and its serialising, which cost eight times as much. A line is never
longer than PIPE_BUF (4096 bytes on Linux), so that lines that several workers write to one pipe
never mix: every text is cut at 256 characters, and if that is not enough (texts of nothing but
escapes) at 240 bytes.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t

from llmgw._core.clock cimport monotonic_s
from llmgw._wire.text cimport (
    TEXT_MAX_BYTES, Stamp, put, put_digits, put_integer, put_stamp, put_text, put_truth, put_unsigned,
)
from llmgw._wire.call cimport Call

cdef enum:
    LINE_MAX_BYTES = 4096
    TEXTS = 12                          # in a line
    FIXED_MAX_BYTES = 1100              # names, punctuation, and numbers at their longest
    SCRATCH_BYTES = TEXTS * TEXT_MAX_BYTES + FIXED_MAX_BYTES
    TEXT_CUT_BYTES = 240                # 12 × 242 and the fixed part are below LINE_MAX_BYTES

cdef double UNITS_MAX = 9e17            # in thousandths; beyond it a number is no measurement

cdef Stamp stamp
stamp.second_s = -1


def call_to_line(Call call not None, double now_s=-1.0):
    """The line of a request that ends now (`now_s`: the monotonic clock, where just read)."""
    cdef char scratch[SCRATCH_BYTES]
    cdef double latency_ms = ((now_s if now_s >= 0 else monotonic_s()) - call.started_s) * 1e3
    cdef char* end = write_line(scratch, call, latency_ms, SCRATCH_BYTES)
    if end - scratch > LINE_MAX_BYTES:
        end = write_line(scratch, call, latency_ms, TEXT_CUT_BYTES)
    return PyBytes_FromStringAndSize(scratch, end - scratch)


cdef char* write_line(char* at, Call call, double latency_ms, Py_ssize_t limit) except NULL:
    """Section 7 of the contract, field by field. `limit` is of one text, in bytes."""
    at = put_stamp(put(at, b'{"ts":"'), call.received_s, &stamp)
    at = put_text(put(at, b'","trace_id":'), call.trace_id, limit)
    at = put_text(put(at, b',"request_id":'), call.request_id, limit)
    at = put_text(put(at, b',"tenant_id":'), call.tenant_id, limit)
    at = put_text(put(at, b',"key_name":'), call.key_name, limit)
    at = put_text(put(at, b',"user":'), call.user, limit)
    at = put_text(put(at, b',"model_requested":'), call.model_requested, limit)
    at = put_text(put(at, b',"model_used":'), call.model_used, limit)
    at = put_text(put(at, b',"provider_used":'), call.provider_used, limit)
    at = put_text(put(at, b',"endpoint":'), call.endpoint, limit)
    at = put_truth(put(at, b',"stream":'), call.stream)
    at = put_integer(put(at, b',"status":'), call.status)
    at = put_integer(put(at, b',"input_tokens":'), call.input_tokens)
    at = put_integer(put(at, b',"output_tokens":'), call.output_tokens)
    at = put_integer(put(at, b',"cached_tokens":'), call.cached_tokens)
    at = put_text(put(at, b',"usage_source":'), call.usage_source, limit)
    at = put_usd(put(at, b',"cost_usd":'), call.cost_usd_micro)
    at = put_ms(put(at, b',"latency_ms":'), max(latency_ms, 0))
    at = put_ms(put(at, b',"queue_ms":'), call.queue_ms)
    at = put_ms(put(at, b',"ttft_ms":'), call.ttft_ms)
    at = put_ms(put(at, b',"upstream_ms":'), call.upstream_ms)
    at = put_integer(put(at, b',"attempts":'), call.attempts)
    at = put_truth(put(at, b',"fallback_used":'), call.fallback_used)
    at = put_text(put(at, b',"cache":'), call.cache, limit)
    at = put_text(put(at, b',"error_code":'), call.error_code, limit)
    at = put_truth(put(at, b',"client_gone":'), call.client_gone)
    return put(at, b"}\n")


cdef char* put_usd(char* at, long long micro_usd) noexcept:
    """Dollars, exact to the micro-dollar; null where no price is known."""
    if micro_usd < 0:
        return put(at, b"null")
    at = put(put_unsigned(at, <uint64_t>micro_usd // 1_000_000), b".")
    return put_digits(at, <uint64_t>micro_usd % 1_000_000, 6)


cdef char* put_ms(char* at, double ms) noexcept:
    """Milliseconds to the microsecond; null for what is negative: it did not happen."""
    if not ms >= 0:
        return put(at, b"null")
    cdef uint64_t us = <uint64_t>(min(ms * 1e3, UNITS_MAX) + 0.5)
    return put_digits(put(put_unsigned(at, us // 1000), b"."), us % 1000, 3)
