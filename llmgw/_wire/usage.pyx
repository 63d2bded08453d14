"""Tokens of one answer: as the provider reported them, or counted from what was relayed.

The numbers of a usage object, as chat (prompt_tokens), responses (input_tokens) or embeddings tell them.

They are read on the grammar that skims everything else: building a dict of the object to look up three
numbers costs five times as much (0.9 against 0.18 us).
"""

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from llmgw._wire.cursor cimport Cursor, cursor_over, peek, skip_space, take_word
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


cdef enum:
    NOT_TOLD = -1
    NONSENSE = -2                  # told, and no count

cdef struct Counts:                # of tokens
    long long read
    long long written
    long long total
    long long cached               # a part of `read`
    long long cache_made           # Anthropic's, which stand beside `input_tokens` and not within
    long long cache_read
    bint is_prompt                 # `read` is the whole prompt


cdef bint read_count(Cursor* c, long long* count) noexcept nogil:
    """At a value; steps behind it. NONSENSE for whatever is not a plain integer of 0 to TOKENS_MAX."""
    cdef const unsigned char* at = c.at
    cdef long long found = 0
    if take_word(c, b"null", 4):
        return True
    if not skip_value(c, NULL):
        return False
    if c.at - at > 13:
        found = NONSENSE
    while at < c.at and found != NONSENSE:
        found = found * 10 + (at[0] - 48) if 48 <= at[0] <= 57 else NONSENSE
        at += 1
    count[0] = found if found <= TOKENS_MAX else NONSENSE
    return True


cdef bint read_details(Cursor* c, Counts* counts) noexcept nogil:
    cdef Text key
    cdef More more
    if peek(c) != c'{':
        return skip_value(c, NULL)
    more = first_member(c, &key)
    while more == MORE:
        if text_is(&key, b"cached_tokens", 13):
            if not read_count(c, &counts.cached):
                return False
        elif not skip_value(c, NULL):
            return False
        more = next_member(c, &key)
    return c.fault == 0


cdef bint read_member(Cursor* c, const Text* key, Counts* counts) noexcept nogil:
    if text_is(key, b"prompt_tokens", 13):
        counts.is_prompt = True
        return read_count(c, &counts.read)
    if text_is(key, b"input_tokens", 12):
        return read_count(c, &counts.read)
    if text_is(key, b"completion_tokens", 17) or text_is(key, b"output_tokens", 13):
        return read_count(c, &counts.written)
    if text_is(key, b"total_tokens", 12):
        return read_count(c, &counts.total)
    if text_is(key, b"prompt_tokens_details", 21) or text_is(key, b"input_tokens_details", 20):
        return read_details(c, counts)
    if text_is(key, b"cache_creation_input_tokens", 27):
        return read_count(c, &counts.cache_made)
    if text_is(key, b"cache_read_input_tokens", 23):
        return read_count(c, &counts.cache_read)
    return skip_value(c, NULL)


cdef bint read_counts(bytes raw, Counts* counts) noexcept:
    """What an object tells of; where it is none, nothing is known."""
    cdef Cursor c = cursor_over(<const unsigned char*>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    cdef Text key
    cdef More more
    skip_space(&c)
    if peek(&c) != c'{':
        return False
    more = first_member(&c, &key)
    while more == MORE:
        if not read_member(&c, &key, counts):
            return False
        more = next_member(&c, &key)
    return c.fault == 0 and skip_end(&c)


cdef Usage usage_of(Counts* counts):
    cdef long long written = max(counts.written, 0)
    cdef long long read = counts.read
    cdef long long cached = max(counts.cached, counts.cache_read, 0)
    if read == NONSENSE or counts.written == NONSENSE:
        return None
    if read == NOT_TOLD:
        if counts.written == NOT_TOLD and counts.total < 0:
            return None
        read = max(counts.total - written, 0)      # as of a reranking
    elif not counts.is_prompt:
        read += max(counts.cache_made, 0) + max(counts.cache_read, 0)
    # Some tell of a model's reasoning in the total alone.
    return new_usage(read, max(written, counts.total - read), min(cached, read), False)


cdef inline long long tokens_of(Py_ssize_t text_bytes) noexcept:
    return (text_bytes + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN


cpdef Usage estimated_usage(Py_ssize_t prompt_bytes, Py_ssize_t text_bytes):
    """At least one token each way that bytes went: unknown usage is never free."""
    return new_usage(tokens_of(prompt_bytes), tokens_of(text_bytes), 0, True)


cpdef Usage completed_usage(Usage reported, Py_ssize_t prompt_bytes, Py_ssize_t text_bytes):
    """As reported; what was not, or as none where bytes went, is estimated."""
    cdef bint lacks_input, lacks_output
    if reported is None:
        return estimated_usage(prompt_bytes, text_bytes)
    lacks_input = reported.input_tokens == 0 and prompt_bytes > 0
    lacks_output = reported.output_tokens == 0 and text_bytes > 0
    if not lacks_input and not lacks_output:
        return reported
    return new_usage(
        tokens_of(prompt_bytes) if lacks_input else reported.input_tokens,
        tokens_of(text_bytes) if lacks_output else reported.output_tokens,
        reported.cached_tokens, True,
    )


cpdef Usage reported_usage(bytes raw, bytes first=None):
    """`raw` is a provider's usage object; `first` the one before it, which holds for what `raw` does not tell.

    None where they tell nothing that can be charged.
    """
    cdef Counts counts
    cdef Counts begun
    if raw is None and first is None:
        return None
    counts.read = counts.written = counts.total = counts.cached = counts.cache_made = counts.cache_read = NOT_TOLD
    counts.is_prompt = False
    begun = counts
    if first is not None and not read_counts(first, &begun):
        return None
    if raw is not None and not read_counts(raw, &counts):
        return None
    if first is not None:                  # its count of what was written is of an answer that had only begun
        keep_told(&counts.read, begun.read)
        keep_told(&counts.cached, begun.cached)
        keep_told(&counts.cache_made, begun.cache_made)
        keep_told(&counts.cache_read, begun.cache_read)
        keep_told(&counts.total, begun.total)
        counts.is_prompt = counts.is_prompt or begun.is_prompt
    return usage_of(&counts)


cdef inline void keep_told(long long* count, long long before) noexcept nogil:
    """A count that was told stays where nothing, or none, is told later."""
    if count[0] == NOT_TOLD or (count[0] == 0 and before > 0):
        count[0] = before
