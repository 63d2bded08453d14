"""The fast lane's grammar: the request heads that SDKs send, and nothing else.

    head    = "POST " path " HTTP/1.1" CRLF 1*64(header CRLF) CRLF
    path    = "/" *( ALPHA / DIGIT / "/" / "-" / "_" / "." )
    header  = token ":" *SP value
    value   = *( %x20-7E )             no tab, no byte above, no space at the end

with exactly one Host and one Content-Length (1 to 15 digits), each header that matters at most once,
and none of those that change framing or ask for something else. Whatever is not that is NOT_PLAIN and
goes to aiohttp, which judges it; a prefix of a plain head is INCOMPLETE. So this reader may be strict
without being right about all of HTTP, and llhttp is the judge that it is never laxer (tests).
"""

from libc.string cimport memcmp, memset

cdef int HEADERS_MAX = 64

# Bytes of a header's name (RFC 9110 5.6.2 tokens).
cdef unsigned char IS_TOKEN[256]
cdef unsigned char IS_PATH[256]
for _byte in range(256):
    IS_TOKEN[_byte] = chr(_byte).isalnum() and _byte < 128 or chr(_byte) in "!#$%&'*+-.^_`|~"
    IS_PATH[_byte] = chr(_byte).isalnum() and _byte < 128 or chr(_byte) in "/-_."


cdef inline bint is_named(const unsigned char* name, Py_ssize_t length, const char* lower, Py_ssize_t size) noexcept nogil:
    """`lower` holds only letters, digits and "-", of which "-" and digits have bit 0x20 set already."""
    cdef Py_ssize_t at
    if length != size:
        return False
    for at in range(size):
        if (name[at] | 0x20) != <unsigned char>lower[at]:
            return False
    return True


cdef inline bint take(Span* span, Py_ssize_t start, Py_ssize_t length) noexcept nogil:
    """False where the header was there before."""
    if span.length >= 0:
        return False
    span.start = start
    span.length = length
    return True


cdef long long digits_to_number(const unsigned char* digits, Py_ssize_t length) noexcept nogil:
    """-1 for anything but 1 to 15 digits."""
    cdef long long number = 0
    cdef Py_ssize_t at
    if length < 1 or length > 15:
        return -1
    for at in range(length):
        if not 48 <= digits[at] <= 57:
            return -1
        number = number * 10 + (digits[at] - 48)
    return number


cdef bint take_bearer(const unsigned char* value, Py_ssize_t start, Py_ssize_t length, Head* head) noexcept nogil:
    """A scheme other than Bearer is for the general reader."""
    cdef Py_ssize_t at = 6
    if length < 8 or not is_named(value, 6, "bearer", 6) or value[6] != 32:
        return False
    while at < length and value[at] == 32:
        at += 1
    return take(&head.bearer, start + at, length - at)


cdef bint take_header(
    const unsigned char* data, Py_ssize_t name_at, Py_ssize_t name_length, Py_ssize_t at, Py_ssize_t length,
    Head* head, int* hosts,
) noexcept nogil:
    """False where this header makes the head not plain."""
    cdef const unsigned char* name = data + name_at
    cdef const unsigned char* value = data + at
    if name_length == 4:
        if is_named(name, name_length, "host", 4):
            hosts[0] += 1
            return length > 0
    elif name_length == 6:
        if is_named(name, name_length, "accept", 6):
            return take(&head.accept, at, length)
        if is_named(name, name_length, "expect", 6):
            return False
    elif name_length == 7:
        if is_named(name, name_length, "api-key", 7):
            return take(&head.api_key, at, length)
        if is_named(name, name_length, "upgrade", 7) or is_named(name, name_length, "trailer", 7):
            return False
    elif name_length == 9:
        if is_named(name, name_length, "x-api-key", 9):
            return take(&head.x_api_key, at, length)
    elif name_length == 10:
        if is_named(name, name_length, "connection", 10):
            return is_named(value, length, "keep-alive", 10)
    elif name_length == 11:
        if is_named(name, name_length, "traceparent", 11):
            return take(&head.traceparent, at, length)
        if is_named(name, name_length, "openai-beta", 11):
            return take(&head.openai_beta, at, length)
    elif name_length == 12:
        if is_named(name, name_length, "content-type", 12):
            return take(&head.content_type, at, length)
        if is_named(name, name_length, "x-llmgw-tags", 12):
            return take(&head.tags, at, length)
    elif name_length == 13:
        if is_named(name, name_length, "authorization", 13):
            return take_bearer(value, at, length, head)
    elif name_length == 14:
        if is_named(name, name_length, "content-length", 14):
            if head.content_length >= 0:
                return False
            head.content_length = digits_to_number(value, length)
            return head.content_length >= 0
        if is_named(name, name_length, "x-goog-api-key", 14):
            return take(&head.x_goog_api_key, at, length)
    elif name_length == 15:
        if is_named(name, name_length, "idempotency-key", 15):
            return take(&head.idempotency_key, at, length)
        if is_named(name, name_length, "x-llmgw-timeout", 15):
            return take(&head.timeout, at, length)
    elif name_length == 16:
        if is_named(name, name_length, "content-encoding", 16):
            return False
        if is_named(name, name_length, "x-llmgw-max-wait", 16):
            return take(&head.max_wait, at, length)
        if is_named(name, name_length, "x-llmgw-priority", 16):
            return take(&head.priority, at, length)
    elif name_length == 17:
        if is_named(name, name_length, "transfer-encoding", 17):
            return False
    return True


cdef Verdict read_request_line(const unsigned char* data, Py_ssize_t size, Head* head) noexcept nogil:
    """Sets `path`, and `size` to where the headers begin."""
    cdef Py_ssize_t at = 5
    cdef Py_ssize_t rest
    if memcmp(data, b"POST ", size if size < 5 else 5) != 0:
        return NOT_PLAIN
    while at < size and IS_PATH[data[at]]:
        at += 1
    head.path.start = 5
    head.path.length = at - 5
    rest = size - at
    if rest > 0 and (at == 5 or data[5] != 47):
        return NOT_PLAIN
    if rest > 0 and memcmp(data + at, b" HTTP/1.1\r\n", rest if rest < 11 else 11) != 0:
        return NOT_PLAIN
    if rest < 11:
        return INCOMPLETE
    head.size = at + 11
    return PLAIN


cdef Verdict read_head(const unsigned char* data, Py_ssize_t size, Head* head) noexcept nogil:
    cdef Py_ssize_t at, name_at, name_length, value_at, end
    cdef int count = 0
    cdef int hosts = 0
    cdef Verdict verdict
    memset(head, 0xFF, sizeof(Head))     # every length and number is -1
    verdict = read_request_line(data, size, head)
    if verdict != PLAIN:
        return verdict
    at = head.size
    while at < size and data[at] != 13:
        name_at = at
        while at < size and IS_TOKEN[data[at]]:
            at += 1
        if at == size:
            return INCOMPLETE
        name_length = at - name_at
        if data[at] != 58 or name_length == 0:
            return NOT_PLAIN
        at += 1
        while at < size and data[at] == 32:
            at += 1
        value_at = at
        while at < size and 32 <= data[at] <= 126:
            at += 1
        if at + 1 >= size:
            return INCOMPLETE if at == size or data[at] == 13 else NOT_PLAIN
        if data[at] != 13 or data[at + 1] != 10:
            return NOT_PLAIN
        end = at
        if end > value_at and data[end - 1] == 32:
            return NOT_PLAIN
        count += 1
        if count > HEADERS_MAX or not take_header(data, name_at, name_length, value_at, end - value_at, head, &hosts):
            return NOT_PLAIN
        at += 2
    if at + 1 >= size:
        return INCOMPLETE
    if data[at + 1] != 10 or hosts != 1 or head.content_length < 0:
        return NOT_PLAIN
    head.size = at + 2
    return PLAIN


cdef object span_to_bytes(bytes data, Span span):
    return None if span.length < 0 else data[span.start:span.start + span.length]


def read_plain_head(data: bytes) -> dict[str, object] | None | bool:
    """What the fast lane reads of a head: its facts, None where more must come, False where it steps aside."""
    cdef Head head
    cdef Verdict verdict = read_head(data, len(data), &head)
    if verdict == INCOMPLETE:
        return None
    if verdict == NOT_PLAIN:
        return False
    return {
        "size": head.size,
        "path": span_to_bytes(data, head.path),
        "content_length": head.content_length,
        "bearer": span_to_bytes(data, head.bearer),
        "x_api_key": span_to_bytes(data, head.x_api_key),
        "api_key": span_to_bytes(data, head.api_key),
        "x_goog_api_key": span_to_bytes(data, head.x_goog_api_key),
        "content_type": span_to_bytes(data, head.content_type),
        "accept": span_to_bytes(data, head.accept),
        "idempotency_key": span_to_bytes(data, head.idempotency_key),
        "traceparent": span_to_bytes(data, head.traceparent),
        "openai_beta": span_to_bytes(data, head.openai_beta),
        "max_wait": span_to_bytes(data, head.max_wait),
        "priority": span_to_bytes(data, head.priority),
        "tags": span_to_bytes(data, head.tags),
        "timeout": span_to_bytes(data, head.timeout),
    }
