"""Tokens of one answer: as the provider reported them, or counted from what was relayed.

The numbers of a usage object, as chat (prompt_tokens), responses (input_tokens) or embeddings tell them.

They are read on the grammar that skims everything else: building a dict of the object to look up three
numbers costs five times as much (0.9 against 0.18 us).
"""

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from llmgw._wire.cursor cimport Cursor, cursor_over, peek, skip_space
from llmgw._wire.grammar cimport MORE, More, Text, first_member, next_member, skip_end, skip_value, text_is

# No real count is near it; a larger one is a provider's nonsense and would overflow the counters.
cdef long long TOKENS_MAX = 1 << 40
# English text of the current vocabularies; errs upward for code and for other scripts in UTF-8.
cdef long long BYTES_PER_TOKEN = 4


@cython.final
cdef class Usage:
    def __init__(self, long long input_tokens, long long output_tokens, long long cached_tokens=0, bint is_estimated=False):
        self.input_tokens, self.output_tokens, self.cached_tokens = input_tokens, output_tokens, cached_tokens
        self.is_estimated = is_estimated

    def __repr__(self):
        kind = "estimated" if self.is_estimated else "reported"
        return f"<Usage {self.input_tokens} ({self.cached_tokens} cached) + {self.output_tokens} {kind}>"


cdef Usage new_usage(long long input_tokens, long long output_tokens, long long cached_tokens, bint is_estimated):
    cdef Usage usage = Usage.__new__(Usage)
    usage.input_tokens, usage.output_tokens, usage.cached_tokens = input_tokens, output_tokens, cached_tokens
    usage.is_estimated = is_estimated
    return usage


cdef struct Counts:                # -1: not told, or not a count
    long long read
    long long written
    long long cached
    bint has_written               # told at all


cdef long long read_count(Cursor* c) noexcept nogil:
    """At a value; steps behind it. -1 for whatever is not a plain integer of 0 to TOKENS_MAX."""
    cdef const unsigned char* at = c.at
    cdef long long count = 0
    if not skip_value(c, NULL) or c.at - at > 13:
        return -1
    while at < c.at:
        if not 48 <= at[0] <= 57:
            return -1
        count = count * 10 + (at[0] - 48)
        at += 1
    return count if count <= TOKENS_MAX else -1


cdef bint read_details(Cursor* c, Counts* counts) noexcept nogil:
    cdef Text key
    cdef More more
    counts.cached = 0
    if peek(c) != c'{':
        return skip_value(c, NULL)
    more = first_member(c, &key)
    while more == MORE:
        if text_is(&key, b"cached_tokens", 13):
            counts.cached = read_count(c)
        elif not skip_value(c, NULL):
            return False
        more = next_member(c, &key)
    return c.fault == 0


cdef bint read_member(Cursor* c, const Text* key, Counts* counts) noexcept nogil:
    if text_is(key, b"prompt_tokens", 13) or text_is(key, b"input_tokens", 12):
        counts.read = read_count(c)
    elif text_is(key, b"completion_tokens", 17) or text_is(key, b"output_tokens", 13):
        counts.written = read_count(c)
        counts.has_written = True
    elif text_is(key, b"prompt_tokens_details", 21) or text_is(key, b"input_tokens_details", 20):
        return read_details(c, counts)
    else:
        return skip_value(c, NULL)
    return c.fault == 0


cpdef Usage estimated_usage(Py_ssize_t prompt_bytes, Py_ssize_t text_bytes):
    """At least one token each way that bytes went: unknown usage is never free."""
    return new_usage(
        (prompt_bytes + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN, (text_bytes + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN, 0, True,
    )


cpdef Usage reported_usage(bytes raw):
    """`raw` is a provider's usage object. None where it tells nothing that can be charged."""
    if raw is None:
        return None
    cdef Cursor c = cursor_over(<const unsigned char*>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    cdef Counts counts
    cdef Text key
    cdef More more
    counts.read = counts.written = -1
    counts.cached = 0
    counts.has_written = False
    skip_space(&c)
    if peek(&c) != c'{':
        return None
    more = first_member(&c, &key)
    while more == MORE:
        if not read_member(&c, &key, &counts):
            return None
        more = next_member(&c, &key)
    if c.fault != 0 or not skip_end(&c) or counts.read < 0:
        return None
    if counts.has_written and counts.written < 0:
        return None
    return new_usage(counts.read, max(counts.written, 0), max(counts.cached, 0), False)
