"""RFC 8259 as functions on a Cursor: each reads one production, or says why the text is not JSON.

They are pulled, not called back: whoever cares about a member walks the object with
`first_member` / `next_member` and reads the values it wants, and steps over the others with
`skip_value`, so the grammar stands here once and what a key means stands with its reader.

    more = first_member(c, &key)          # at "{"
    while more == MORE:
        ...                               # at the value: read it, or skip_value(c, NULL)
        more = next_member(c, &key)       # behind the value
    if more == BROKEN: ...                # c.fault says why, c.at about where

The judge is orjson: what passes here passes there. Narrower than orjson on purpose in two
places: MAX_DEPTH, and numbers of 1e308 and more (orjson refuses from 1.8e308 on, where a
double ends). Functions that return bint return False with `c.fault` set.
"""

from libc.string cimport memcmp

from llmgw._wire.cursor cimport (
    FAULT_CONTROL, FAULT_DEPTH, FAULT_END, FAULT_ESCAPE, FAULT_HUGE, FAULT_NUMBER, FAULT_SURROGATE,
    FAULT_TOKEN, FAULT_TRAILING, FAULT_UTF8, Cursor, Fault, peek, skip_space, take, take_digits,
    take_hex4, take_word,
)


cdef extern from "_scan.h":
    const unsigned char* scan_string(const unsigned char* at, const unsigned char* end) noexcept nogil


cdef enum:
    MAX_DEPTH = 256       # open objects and arrays; orjson's own limit is 1024
    MAX_MAGNITUDE = 308   # decimal digits before the point

cdef enum More:
    BROKEN = -1
    DONE = 0
    MORE = 1

cdef struct Text:                  # what stands between a string's quotes
    const unsigned char* start
    Py_ssize_t raw_bytes           # as written
    Py_ssize_t bytes               # as UTF-8 once unescaped; every escape is longer than what it means


cdef inline bint fail(Cursor* c, Fault fault) noexcept nogil:
    c.fault = FAULT_END if fault == FAULT_TOKEN and c.at >= c.end else fault
    return False


# strings

cdef inline bint read_string(Cursor* c, Text* text) noexcept nogil:
    """At the opening quote; steps behind the closing one."""
    cdef const unsigned char* stop
    text.start = c.at + 1
    stop = scan_string(text.start, c.end)
    if stop == NULL or stop == c.end or stop[0] != c'"':
        return read_string_on(c, text, stop)
    text.raw_bytes = text.bytes = stop - text.start
    c.at = stop + 1
    return True


cdef inline bint read_string_on(Cursor* c, Text* text, const unsigned char* stop) noexcept nogil:
    """A string whose first scan did not stop at its closing quote, but at `stop`."""
    cdef Py_ssize_t saved = 0
    while stop != NULL:
        c.at = stop
        if stop == c.end:
            return fail(c, FAULT_END)
        if stop[0] == c'"':
            c.at += 1
            text.raw_bytes = stop - text.start
            text.bytes = text.raw_bytes - saved
            return True
        if stop[0] != c'\\':
            return fail(c, FAULT_CONTROL)
        if not skip_escape(c, &saved):
            return False
        stop = c.at if peek(c) == c'\\' else scan_string(c.at, c.end)      # escapes come in rows
    return fail(c, FAULT_UTF8)


cdef inline bint skip_escape(Cursor* c, Py_ssize_t* saved) noexcept nogil:
    """At the backslash. `saved` grows by what the escape is longer than its UTF-8."""
    cdef int kind
    c.at += 1
    kind = peek(c)
    if kind == c'u':
        c.at += 1
        return skip_code_unit(c, saved)
    if (kind == c'n' or kind == c'"' or kind == c'\\' or kind == c't' or kind == c'r' or kind == c'/'
            or kind == c'b' or kind == c'f'):
        c.at += 1
        saved[0] += 1
        return True
    return fail(c, FAULT_ESCAPE)


cdef inline bint skip_code_unit(Cursor* c, Py_ssize_t* saved) noexcept nogil:
    """Behind `\\u`: four digits, and a low surrogate's escape where they are a high surrogate."""
    cdef int low, code = take_hex4(c)
    if code < 0:
        return fail(c, FAULT_ESCAPE)
    if code < 0xD800 or code > 0xDFFF:
        saved[0] += 5 if code < 0x80 else 4 if code < 0x800 else 3
        return True
    if code >= 0xDC00 or not take_word(c, b"\\u", 2):
        return fail(c, FAULT_SURROGATE)
    low = take_hex4(c)
    if low < 0xDC00 or low > 0xDFFF:
        return fail(c, FAULT_SURROGATE)
    saved[0] += 8
    return True


cdef inline bint text_is(const Text* text, const char* name, Py_ssize_t size) noexcept nogil:
    """Whether a string that was read means `name` (ASCII), however it spells it."""
    if text.bytes != size:
        return False
    if text.raw_bytes == size:
        return memcmp(text.start, name, size) == 0
    return escaped_is(text, name, size)


cdef inline bint escaped_is(const Text* text, const char* name, Py_ssize_t size) noexcept nogil:
    """No name that we know holds a character with a short escape, so any is a difference."""
    cdef Py_ssize_t i
    cdef int code
    cdef Cursor c
    c.at = text.start
    c.end = text.start + text.raw_bytes
    for i in range(size):
        if take_word(&c, b"\\u", 2):
            code = take_hex4(&c)
        else:
            code = peek(&c)
            c.at += 1
        if code != <unsigned char>name[i]:
            return False
    return True


# numbers and words

cdef inline bint skip_number(Cursor* c) noexcept nogil:
    cdef const unsigned char* whole
    cdef Py_ssize_t digits
    take(c, c'-')
    whole = c.at
    if not take(c, c'0') and not take_digits(c):
        return fail(c, FAULT_TOKEN)
    digits = c.at - whole
    if take(c, c'.') and not take_digits(c):
        return fail(c, FAULT_NUMBER)
    if peek(c) == c'e' or peek(c) == c'E':
        return skip_exponent(c, whole, digits)
    return digits <= MAX_MAGNITUDE or fail(c, FAULT_HUGE)


cdef inline bint skip_exponent(Cursor* c, const unsigned char* whole, Py_ssize_t digits) noexcept nogil:
    """At the `e` of a number with `digits` digits from `whole` to its point."""
    cdef const unsigned char* at
    cdef const unsigned char* mantissa_end = c.at
    cdef long long exponent = 0
    cdef bint is_negative
    c.at += 1
    is_negative = take(c, c'-')
    if not is_negative:
        take(c, c'+')
    at = c.at
    if not take_digits(c):
        return fail(c, FAULT_NUMBER)
    while at < c.at:
        if exponent < 1LL << 40:      # beyond any text's length in digits, so no zeros outweigh it
            exponent = exponent * 10 + (at[0] - c'0')
        at += 1
    while whole < mantissa_end and (whole[0] == c'0' or whole[0] == c'.'):
        digits -= whole[0] == c'0'
        whole += 1
    if whole == mantissa_end:
        return True                   # zero, whatever the exponent
    return digits + (-exponent if is_negative else exponent) <= MAX_MAGNITUDE or fail(c, FAULT_HUGE)


cdef inline bint skip_word(Cursor* c) noexcept nogil:
    if take_word(c, b"true", 4) or take_word(c, b"false", 5) or take_word(c, b"null", 4):
        return True
    return fail(c, FAULT_TOKEN)


# objects and arrays

cdef inline bint enter(Cursor* c) noexcept nogil:
    """At the opening bracket."""
    c.at += 1
    c.depth += 1
    if c.depth > MAX_DEPTH:
        return fail(c, FAULT_DEPTH)
    skip_space(c)
    return True


cdef inline bint leave(Cursor* c, char bracket) noexcept nogil:
    """Steps over the closing bracket if it is next."""
    if take(c, bracket):
        c.depth -= 1
        return True
    return False


cdef inline More read_key(Cursor* c, Text* key) noexcept nogil:
    """Up to the value."""
    if peek(c) != c'"':
        fail(c, FAULT_TOKEN)
        return BROKEN
    if not read_string(c, key):
        return BROKEN
    skip_space(c)
    if not take(c, c':'):
        fail(c, FAULT_TOKEN)
        return BROKEN
    skip_space(c)
    return MORE


cdef inline More first_member(Cursor* c, Text* key) noexcept nogil:
    """At the opening brace; up to the first member's value, or behind the closing brace."""
    if not enter(c):
        return BROKEN
    if leave(c, c'}'):
        return DONE
    return read_key(c, key)


cdef inline More next_member(Cursor* c, Text* key) noexcept nogil:
    """Behind a member's value; up to the next one's, or behind the closing brace."""
    skip_space(c)
    if take(c, c','):
        skip_space(c)
        return read_key(c, key)
    if leave(c, c'}'):
        return DONE
    fail(c, FAULT_TOKEN)
    return BROKEN


cdef inline bint skip_value(Cursor* c, Py_ssize_t* text_bytes) noexcept nogil:
    """At a value of any kind; steps behind it. Where `text_bytes` is not NULL it grows by the
    sizes of the strings in it that a model wrote (`is_text_key`)."""
    cdef int first = peek(c)
    cdef Text text
    if first == c'"':
        return read_string(c, &text)
    if first == c'{':
        return skip_object(c, text_bytes)
    if first == c'[':
        return skip_array(c, text_bytes)
    if first == c'-' or c'0' <= first <= c'9':
        return skip_number(c)
    return skip_word(c)


cdef inline bint skip_object(Cursor* c, Py_ssize_t* text_bytes) noexcept nogil:
    cdef Text key
    cdef More more = first_member(c, &key)
    while more == MORE:
        if not skip_member(c, &key, text_bytes):
            return False
        more = next_member(c, &key)
    return more == DONE


cdef inline bint skip_member(Cursor* c, const Text* key, Py_ssize_t* text_bytes) noexcept nogil:
    """At the value of the member `key`."""
    cdef Text text
    if text_bytes == NULL or peek(c) != c'"':
        return skip_value(c, text_bytes)
    if not read_string(c, &text):
        return False
    if is_text_key(key):
        text_bytes[0] += text.bytes
    return True


cdef inline bint skip_array(Cursor* c, Py_ssize_t* text_bytes) noexcept nogil:
    if not enter(c):
        return False
    if leave(c, c']'):
        return True
    while skip_value(c, text_bytes):
        skip_space(c)
        if not take(c, c','):
            return leave(c, c']') or fail(c, FAULT_TOKEN)
        skip_space(c)
    return False


cdef inline bint skip_end(Cursor* c) noexcept nogil:
    """Behind the text's one value: nothing but white space is left."""
    skip_space(c)
    return c.at == c.end or fail(c, FAULT_TRAILING)


cdef inline bint is_text_key(const Text* key) noexcept nogil:
    """The keys under which answers of any dialect carry what the model wrote."""
    return (text_is(key, b"content", 7) or text_is(key, b"text", 4) or text_is(key, b"arguments", 9)
            or text_is(key, b"reasoning_content", 17) or text_is(key, b"refusal", 7)
            or text_is(key, b"reasoning", 9) or text_is(key, b"thinking", 8) or text_is(key, b"partial_json", 12)
            or text_is(key, b"transcript", 10))
