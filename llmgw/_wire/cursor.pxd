"""The cursor: the one place where a reader of bytes asks whether there is a next one.

Every parser of `_wire` that walks text holds a Cursor on its C stack and moves it with these
functions alone, so that a bounds check is either here or in `_scan.h`. None of them fails;
what the text has to be is the grammar's business (`grammar.pxd`).
"""

from libc.string cimport memcmp


cdef extern from "_scan.h":
    const unsigned char* skip_digits(const unsigned char* at, const unsigned char* end) noexcept nogil
    int hex4(const unsigned char* at) noexcept nogil


cdef enum Fault:               # why a text is not JSON; the words are in skim.FAULTS
    FAULT_NONE
    FAULT_END
    FAULT_TOKEN
    FAULT_CONTROL
    FAULT_ESCAPE
    FAULT_SURROGATE
    FAULT_UTF8
    FAULT_NUMBER
    FAULT_HUGE
    FAULT_DEPTH
    FAULT_TRAILING


cdef struct Cursor:
    const unsigned char* begin     # the text's first byte
    const unsigned char* at        # the next byte to be read; begin <= at <= end
    const unsigned char* end       # one past the last byte
    int depth                      # objects and arrays that are open
    Fault fault                    # FAULT_NONE while the text is good


cdef inline Cursor cursor_over(const unsigned char* text, Py_ssize_t size) noexcept nogil:
    cdef Cursor c
    c.begin = c.at = text
    c.end = text + size
    c.depth = 0
    c.fault = FAULT_NONE
    return c


cdef inline int peek(const Cursor* c) noexcept nogil:
    """The next byte, -1 at the end."""
    return c.at[0] if c.at < c.end else -1


cdef inline bint take(Cursor* c, char byte) noexcept nogil:
    """Steps over `byte` if it is next."""
    if c.at < c.end and c.at[0] == <unsigned char>byte:
        c.at += 1
        return True
    return False


cdef inline bint take_word(Cursor* c, const char* word, Py_ssize_t size) noexcept nogil:
    """Steps over `word` if it is next."""
    if c.end - c.at >= size and memcmp(c.at, word, size) == 0:
        c.at += size
        return True
    return False


cdef inline Py_ssize_t take_digits(Cursor* c) noexcept nogil:
    """Steps over decimal digits; how many."""
    cdef const unsigned char* first = c.at
    c.at = skip_digits(first, c.end)
    return c.at - first


cdef inline int take_hex4(Cursor* c) noexcept nogil:
    """Steps over four hexadecimal digits; their value, or -1 and no step."""
    cdef int value = hex4(c.at) if c.end - c.at >= 4 else -1
    if value >= 0:
        c.at += 4
    return value


cdef inline void skip_space(Cursor* c) noexcept nogil:
    """Steps over JSON's white space (RFC 8259, section 2), and no other."""
    while c.at < c.end and c.at[0] <= 0x20:
        if c.at[0] != c' ' and c.at[0] != c'\n' and c.at[0] != c'\r' and c.at[0] != c'\t':
            return
        c.at += 1


cdef inline Py_ssize_t offset(const Cursor* c) noexcept nogil:
    return c.at - c.begin
