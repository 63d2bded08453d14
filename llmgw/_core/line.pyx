# cython: auto_pickle=False, autotestdict=False
"""The log line of a request, written straight from its Call: one JSON object and a newline.

Saves a dict of 26 entries and its serialising, which cost eight times as much. A line is never
longer than PIPE_BUF (4096 bytes on Linux), so that lines that several workers write to one pipe
never mix: every text is cut at 256 characters, and if that is not enough (texts of nothing but
escapes) at 240 bytes. A surrogate without its partner becomes U+FFFD, since no JSON reader takes it.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport gmtime_r, strftime, time_t, tm

from llmgw._core.clock cimport monotonic_s
from llmgw._wire.call cimport Call

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Always inlined, so that the length of a literal is known when compiling. */
    static inline __attribute__((always_inline)) char *put(char *at, const char *literal)
    {
        size_t size = strlen(literal);
        memcpy(at, literal, size);
        return at + size;
    }

    /* Whether ASCII text needs no escape. Without an early end, so that it becomes vector code. */
    static inline int is_plain(const uint8_t *text, long count)
    {
        uint8_t bad = 0;
        for (long i = 0; i < count; i++)
            bad |= (text[i] < 0x20) | (text[i] == '"') | (text[i] == '\\\\');
        return !bad;
    }
    """
    char* put(char* at, const char* literal) noexcept nogil
    bint is_plain(const uint8_t* text, long count) noexcept nogil

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    int PyUnicode_KIND(object text) noexcept
    void* PyUnicode_DATA(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    uint32_t PyUnicode_READ(int kind, void* data, Py_ssize_t index) noexcept nogil

cdef enum:
    LINE_MAX_BYTES = 4096
    TEXTS = 12                          # in a line
    TEXT_MAX_CHARS = 256
    ESCAPE_MAX_BYTES = 6                # \u001f, for one character
    FIXED_MAX_BYTES = 1100              # names, punctuation, and numbers at their longest
    SCRATCH_BYTES = TEXTS * (TEXT_MAX_CHARS * ESCAPE_MAX_BYTES + 2) + FIXED_MAX_BYTES
    TEXT_CUT_BYTES = 240                # 12 × 242 and the fixed part are below LINE_MAX_BYTES
    STAMP_BYTES = 20                    # 2026-11-21T04:05:06.

cdef double UNITS_MAX = 9e17            # in thousandths; beyond it a number is no measurement

cdef const char* HEX = b"0123456789abcdef"

# The last second that was written as text. Under the interpreter's lock.
cdef time_t stamp_s = -1
cdef char stamp[STAMP_BYTES + 1]


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
    at = put_stamp(put(at, b'{"ts":"'), call.received_s)
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


cdef char* put_stamp(char* at, double unix_s) noexcept:
    """RFC 3339 in UTC with milliseconds; what is no moment of the years 1970 to 9999 becomes 1970."""
    global stamp_s
    cdef long long ms = <long long>(unix_s * 1e3 + 0.5) if 0 <= unix_s < 253402300799 else 0
    cdef time_t second = <time_t>(ms // 1000)
    cdef tm parts
    if second != stamp_s:
        gmtime_r(&second, &parts)
        strftime(stamp, sizeof(stamp), b"%Y-%m-%dT%H:%M:%S.", &parts)
        stamp_s = second
    memcpy(at, stamp, STAMP_BYTES)
    at = put_digits(at + STAMP_BYTES, <uint64_t>(ms % 1000), 3)
    return put(at, b"Z")


cdef inline char* put_truth(char* at, bint value) noexcept:
    return put(at, b"true") if value else put(at, b"false")


cdef inline char* put_digits(char* at, uint64_t value, int count) noexcept:
    """Exactly `count` digits."""
    cdef int index
    for index in range(count - 1, -1, -1):
        at[index] = <char>(48 + value % 10)
        value //= 10
    return at + count


@cython.cdivision(True)
cdef char* put_unsigned(char* at, uint64_t value) noexcept:
    cdef int count = 1
    cdef uint64_t rest = value // 10
    while rest:
        count += 1
        rest //= 10
    return put_digits(at, value, count)


cdef inline char* put_integer(char* at, long long value) noexcept:
    if value < 0:
        at[0] = 45
        return put_unsigned(at + 1, 0 - <uint64_t>value)
    return put_unsigned(at, <uint64_t>value)


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


cdef char* put_text(char* at, object text, Py_ssize_t limit) except NULL:
    """A JSON string of at most 256 characters and `limit` bytes between its quotes; null for None."""
    cdef Py_ssize_t count
    if text is None:
        return put(at, b"null")
    if not isinstance(text, str):
        raise TypeError(f"a text of a log line is str or None, not {type(text).__name__}")
    at = put(at, b'"')
    count = min(PyUnicode_GET_LENGTH(text), TEXT_MAX_CHARS)
    if PyUnicode_IS_COMPACT_ASCII(text) and is_plain(<uint8_t*>PyUnicode_DATA(text), count):
        count = min(count, limit)
        memcpy(at, PyUnicode_DATA(text), count)
        at += count
    else:
        at = put_escaped(at, PyUnicode_KIND(text), PyUnicode_DATA(text), count, at + limit)
    return put(at, b'"')


cdef char* put_escaped(char* at, int kind, void* data, Py_ssize_t count, char* end) noexcept:
    """UTF-8 and escapes of characters that are whole before `end`."""
    cdef char* next
    cdef char spelled[ESCAPE_MAX_BYTES]
    cdef Py_ssize_t index
    for index in range(count):
        next = put_character(spelled, PyUnicode_READ(kind, data, index))
        if at + (next - spelled) > end:
            break
        memcpy(at, spelled, next - spelled)
        at += next - spelled
    return at


cdef char* put_character(char* at, uint32_t character) noexcept:
    if character < 0x80:
        return put_ascii(at, <uint8_t>character)
    if 0xD800 <= character < 0xE000:
        character = 0xFFFD
    if character < 0x800:
        at[0] = <char>(0xC0 | character >> 6)
        at += 1
    else:
        if character < 0x10000:
            at[0] = <char>(0xE0 | character >> 12)
            at += 1
        else:
            at[0] = <char>(0xF0 | character >> 18)
            at[1] = <char>(0x80 | character >> 12 & 0x3F)
            at += 2
        at[0] = <char>(0x80 | character >> 6 & 0x3F)
        at += 1
    at[0] = <char>(0x80 | character & 0x3F)
    return at + 1


cdef char* put_ascii(char* at, uint8_t character) noexcept:
    if character == 34 or character == 92:          # quote, backslash
        at[0] = 92
        at[1] = <char>character
        return at + 2
    if character >= 0x20:
        at[0] = <char>character
        return at + 1
    at = put(at, b"\\u00")
    at[0] = HEX[character >> 4]
    at[1] = HEX[character & 15]
    return at + 2
