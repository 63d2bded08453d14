"""Which conversation a request belongs to, as a number: what keeps its turns with one target.

Providers cache the beginning of a prompt, and a conversation's turns share it: the system's text
and all messages up to the user's first. The number is made of these alone, in one walk without
objects. It is made of their texts: white space, the keys, `type`, and the `cache_control` that
clients move from turn to turn do not count, so "hi" and [{"type": "text", "text": "hi"}] are one.

The hash is the same in every process and on every machine. Two conversations may be made to share
a number by who writes both, and come to the same target then: nothing else depends on it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AS_STRING

from llmgw._wire.cursor cimport FAULT_TOKEN, Cursor, cursor_over, peek, skip_space, take
from llmgw._wire.grammar cimport (
    BROKEN, MORE, More, Text, enter, fail, first_member, leave, next_member, read_string, skip_end, skip_value,
    text_is,
)

cdef enum:
    PLAIN_BYTES = 1024         # of a prompt that is one string: it has no turns, only a beginning
    TEXT_BYTES = 32 * 1024     # of any other text; what shares so much and the size shares a cache's prefix, too

cdef enum Part:                # which top-level member a text stands in; mixed into its sum
    NO_PART
    MESSAGES
    PROMPT
    INSTRUCTIONS

cpdef long long conversation_key(bytes body):
    """63 bits. 0: not JSON, or nothing in it to go by."""
    cdef Py_ssize_t size = len(body)             # first: it refuses None
    cdef Cursor c = cursor_over(<const unsigned char*>PyBytes_AS_STRING(body), size)
    cdef Text key
    cdef More more
    cdef Part part
    cdef uint64_t total = 0
    skip_space(&c)
    if peek(&c) != c'{':
        return 0
    more = first_member(&c, &key)
    while more == MORE:
        part = part_of(&key)
        if part == NO_PART:
            if not skip_value(&c, NULL):
                return 0
        elif not add_part(&c, part, &total):
            return 0
        more = next_member(&c, &key)
    if more == BROKEN or not skip_end(&c):
        return 0
    return shown(total)


cpdef long long affinity_of(value):
    """63 bits of a user's name or a header's value, `bytes` or `str`. 0: it is empty."""
    cdef bytes text = value.encode(errors="surrogatepass") if isinstance(value, str) else value
    cdef Py_ssize_t size = len(text)
    if size == 0:
        return 0
    return shown(finished(mixed(<uint64_t>size, <const unsigned char*>PyBytes_AS_STRING(text), size)))


cdef inline long long shown(uint64_t total) noexcept nogil:
    return <long long>(total >> 1)


cdef inline Part part_of(const Text* key) noexcept nogil:
    if text_is(key, b"messages", 8) or text_is(key, b"input", 5):
        return MESSAGES
    if text_is(key, b"prompt", 6):
        return PROMPT
    if text_is(key, b"system", 6) or text_is(key, b"instructions", 12):
        return INSTRUCTIONS
    return NO_PART


cdef bint add_part(Cursor* c, Part part, uint64_t* total) noexcept nogil:
    """At a member's value. Parts are added, since members come in any order."""
    cdef uint64_t sum = part
    cdef bint is_good
    if part == INSTRUCTIONS:
        is_good = mix_value(c, &sum)
    elif peek(c) == c'[':
        is_good = mix_turns(c, &sum)
    else:
        is_good = mix_beginning(c, &sum)
    if sum != <uint64_t>part:                    # else it held no text
        total[0] += finished(sum)
    return is_good


cdef bint mix_turns(Cursor* c, uint64_t* sum) noexcept nogil:
    """At the opening bracket: all elements up to the user's first; steps behind the array."""
    cdef bint is_user = False
    if not enter(c):
        return False
    if leave(c, c']'):
        return True
    while skip_value(c, NULL) if is_user else mix_turn(c, sum, &is_user):
        skip_space(c)
        if not take(c, c','):
            return leave(c, c']') or fail(c, FAULT_TOKEN)
        skip_space(c)
    return False


cdef bint mix_turn(Cursor* c, uint64_t* sum, bint* is_user) noexcept nogil:
    """What is no object is a text of the user's."""
    cdef Cursor value
    cdef Text key, role
    cdef More more
    if peek(c) != c'{':
        is_user[0] = True
        return mix_value(c, sum)
    more = first_member(c, &key)
    while more == MORE:
        if text_is(&key, b"role", 4) and peek(c) == c'"':
            value = c[0]
            is_user[0] = read_string(&value, &role) and text_is(&role, b"user", 4)
        if not mix_member(c, &key, sum):
            return False
        more = next_member(c, &key)
    return more != BROKEN


cdef bint mix_beginning(Cursor* c, uint64_t* sum) noexcept nogil:
    cdef Text text
    if peek(c) != c'"':
        return skip_value(c, NULL)
    if not read_string(c, &text):
        return False
    mix_text(sum, text.start, min(text.raw_bytes, <Py_ssize_t>PLAIN_BYTES))
    return True


cdef bint mix_value(Cursor* c, uint64_t* sum) noexcept nogil:
    """At a value of any kind: the texts and numbers in it, in their order; steps behind it."""
    cdef const unsigned char* start = c.at
    cdef int first = peek(c)
    cdef Text text
    if first == c'"':
        if not read_string(c, &text):
            return False
        mix_text(sum, text.start, text.raw_bytes)
        return True
    if first == c'{':
        return mix_object(c, sum)
    if first == c'[':
        return mix_array(c, sum)
    if not skip_value(c, NULL):
        return False
    if first != c'n':                            # null is like absent
        mix_text(sum, start, c.at - start)
    return True


cdef bint mix_object(Cursor* c, uint64_t* sum) noexcept nogil:
    cdef Text key
    cdef More more = first_member(c, &key)
    while more == MORE:
        if not mix_member(c, &key, sum):
            return False
        more = next_member(c, &key)
    return more != BROKEN


cdef inline bint mix_member(Cursor* c, const Text* key, uint64_t* sum) noexcept nogil:
    if text_is(key, b"type", 4) or text_is(key, b"cache_control", 13):
        return skip_value(c, NULL)
    return mix_value(c, sum)


cdef bint mix_array(Cursor* c, uint64_t* sum) noexcept nogil:
    if not enter(c):
        return False
    if leave(c, c']'):
        return True
    while mix_value(c, sum):
        skip_space(c)
        if not take(c, c','):
            return leave(c, c']') or fail(c, FAULT_TOKEN)
        skip_space(c)
    return False


# the hash: multiply and fold, 8 bytes a step

cdef inline void mix_text(uint64_t* sum, const unsigned char* at, Py_ssize_t size) noexcept nogil:
    if size > 0:
        sum[0] = mixed(fold(sum[0], <uint64_t>size), at, min(size, <Py_ssize_t>TEXT_BYTES))


cdef inline uint64_t mixed(uint64_t sum, const unsigned char* at, Py_ssize_t size) noexcept nogil:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, at, 8)
        sum = fold(sum, word)
        at += 8
        size -= 8
    if size > 0:
        word = 0
        memcpy(&word, at, size)
        sum = fold(sum, word)
    return sum


cdef inline uint64_t fold(uint64_t sum, uint64_t word) noexcept nogil:
    sum = (sum ^ word) * <uint64_t>0x9E3779B97F4A7C15        # 2**64 over the golden ratio, odd
    return sum ^ (sum >> 32)


cdef inline uint64_t finished(uint64_t sum) noexcept nogil:
    """Every bit of the sum in every bit of it, as MurmurHash3's fmix64 does."""
    sum = (sum ^ (sum >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    sum = (sum ^ (sum >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return sum ^ (sum >> 33)
