"""What the JSON of one stream event says, in one validating walk over its data."""

from libc.string cimport memset

from llmgw._wire.cursor cimport Cursor, cursor_over, peek, skip_space, take
from llmgw._wire.grammar cimport (
    DONE, MORE, More, Text, first_member, is_text_key, next_member, read_string, skip_end, skip_value,
    text_is,
)


cdef struct Span:
    const unsigned char* start     # NULL: there is none
    const unsigned char* end


cdef struct Event:
    bint is_typed                  # a kind of stream in which the event's type says what it is
    bint is_error                  # a top-level `error` that is not null
    bint has_no_choices            # "choices": []
    int usages                     # top-level members named `usage`
    Span usage                     # the last one's value
    Span usage_member              # the last one with its key and one comma: what to cut out
    Span response_usage            # is_typed: the value of response.usage
    Span message_usage             # is_typed: the value of message.usage
    Text type                      # the top-level `type`, if it is a string
    Py_ssize_t text_bytes          # of what the model wrote, unescaped; all of it, where it is not JSON


cdef inline void read_event(const unsigned char* data, Py_ssize_t size, bint is_typed, Event* e) noexcept:
    """Fills `e`. Data that is not JSON says nothing but its size: what was relayed is counted."""
    cdef Cursor c = cursor_over(data, size)
    cdef bint is_json
    memset(e, 0, sizeof(Event))
    e.is_typed = is_typed
    skip_space(&c)
    if peek(&c) == c'{':
        is_json = read_members(&c, e)
    else:
        is_json = skip_value(&c, texts_of(e, False))
    if not is_json or not skip_end(&c):
        memset(e, 0, sizeof(Event))
        e.text_bytes = size


cdef inline Py_ssize_t* texts_of(Event* e, bint is_delta) noexcept:
    """Where nested text is counted. Typed streams repeat in their closing events, whole, the text
    that went out in `delta` members of the top level, so there only those count."""
    return NULL if e.is_typed and not is_delta else &e.text_bytes


cdef inline bint read_members(Cursor* c, Event* e) noexcept:
    """At the opening brace of the data; steps behind the closing one."""
    cdef Text key
    cdef const unsigned char* value
    cdef const unsigned char* behind
    cdef const unsigned char* comma = NULL        # before the member; NULL: it is the first
    cdef More more = first_member(c, &key)
    while more == MORE:
        value = c.at
        if text_is(&key, b"usage", 5):
            e.usages += 1
            e.usage_member.start = key.start - 1 if comma == NULL else comma
        if not read_member(c, &key, e):
            return False
        behind = c.at
        more = next_member(c, &key)
        if e.usage.start == value:                # that was `usage`; as the first, its comma is behind it
            e.usage_member.end = key.start - 1 if comma == NULL and more == MORE else behind
        comma = behind
    return more == DONE


cdef inline bint read_member(Cursor* c, const Text* key, Event* e) noexcept:
    """At the value; steps behind it."""
    cdef Span value
    cdef Text text
    value.start = c.at
    if peek(c) == c'"':
        if not read_string(c, &text):
            return False
        note_string(key, &text, e)
    elif e.is_typed and peek(c) == c'{' and text_is(key, b"response", 8):
        if not read_usage_of(c, &e.response_usage):
            return False
    elif e.is_typed and peek(c) == c'{' and text_is(key, b"message", 7):
        if not read_usage_of(c, &e.message_usage):
            return False
    elif not skip_value(c, texts_of(e, text_is(key, b"delta", 5))):
        return False
    value.end = c.at
    if text_is(key, b"usage", 5):
        e.usage = value
    elif text_is(key, b"error", 5):
        e.is_error = value.start[0] != c'n'
    elif text_is(key, b"choices", 7):
        e.has_no_choices = is_empty_array(&value)
    return True


cdef inline void note_string(const Text* key, const Text* text, Event* e) noexcept:
    if text_is(key, b"type", 4):
        e.type = text[0]
    elif text_is(key, b"delta", 5) or not e.is_typed and is_text_key(key):
        e.text_bytes += text.bytes


cdef inline bint read_usage_of(Cursor* c, Span* usage) noexcept:
    """At an object; steps behind it."""
    cdef Text key
    cdef const unsigned char* start
    cdef More more = first_member(c, &key)
    while more == MORE:
        start = c.at
        if not skip_value(c, NULL):
            return False
        if text_is(&key, b"usage", 5):
            usage.start, usage.end = start, c.at
        more = next_member(c, &key)
    return more == DONE


cdef inline bint is_empty_array(const Span* value) noexcept:
    cdef Cursor c = cursor_over(value.start, value.end - value.start)
    if not take(&c, c'['):
        return False
    skip_space(&c)
    return peek(&c) == c']'
