# What JSON lines are composed of: each put_* writes at `at`, where there must be room, and returns the
# end of what it wrote. Inline in each module that composes lines, so that the compiler sees a line as
# one piece of straight code.
#
# A text is cut at TEXT_MAX_CHARS characters. A surrogate without its partner becomes U+FFFD, since no
# JSON reader takes it.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport gmtime_r, strftime, time_t, tm

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
    TEXT_MAX_CHARS = 256
    ESCAPE_MAX_BYTES = 6                # \u001f, for one character
    TEXT_MAX_BYTES = TEXT_MAX_CHARS * ESCAPE_MAX_BYTES + 2
    STAMP_BYTES = 20                    # 2026-11-21T04:05:06.

cdef struct Stamp:                      # the last second written as text; under the interpreter's lock
    time_t second_s                     # -1 before the first
    char text[STAMP_BYTES + 1]


cdef inline char* put_stamp(char* at, double unix_s, Stamp* last) noexcept:
    """RFC 3339 in UTC with milliseconds; what is no moment of the years 1970 to 9999 becomes 1970."""
    cdef long long ms = <long long>(unix_s * 1e3 + 0.5) if 0 <= unix_s < 253402300799.0 else 0
    cdef time_t second = <time_t>(ms // 1000)
    cdef tm parts
    if second != last.second_s:
        gmtime_r(&second, &parts)
        strftime(last.text, sizeof(last.text), b"%Y-%m-%dT%H:%M:%S.", &parts)
        last.second_s = second
    memcpy(at, last.text, STAMP_BYTES)
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
cdef inline char* put_unsigned(char* at, uint64_t value) noexcept:
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


cdef inline char* put_text(char* at, object text, Py_ssize_t limit) except NULL:
    """A JSON string of at most 256 characters and `limit` bytes between its quotes; null for None."""
    cdef Py_ssize_t count
    if text is None:
        return put(at, b"null")
    if not isinstance(text, str):
        raise TypeError(f"a text of a line is str or None, not {type(text).__name__}")
    at = put(at, b'"')
    count = min(PyUnicode_GET_LENGTH(text), TEXT_MAX_CHARS)
    if PyUnicode_IS_COMPACT_ASCII(text) and is_plain(<uint8_t*>PyUnicode_DATA(text), count):
        count = min(count, limit)
        memcpy(at, PyUnicode_DATA(text), count)
        at += count
    else:
        at = put_escaped(at, PyUnicode_KIND(text), PyUnicode_DATA(text), count, at + limit)
    return put(at, b'"')


cdef inline char* put_escaped(char* at, int kind, void* data, Py_ssize_t count, char* end) noexcept:
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


cdef inline char* put_character(char* at, uint32_t character) noexcept:
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


cdef inline char* put_ascii(char* at, uint8_t character) noexcept:
    if character == 34 or character == 92:          # quote, backslash
        at[0] = 92
        at[1] = <char>character
        return at + 2
    if character >= 0x20:
        at[0] = <char>character
        return at + 1
    at = put(at, b"\\u00")
    at[0] = hex_digit(character >> 4)
    at[1] = hex_digit(character & 15)
    return at + 2


cdef inline char hex_digit(int value) noexcept:
    return <char>(48 + value if value < 10 else 87 + value)
