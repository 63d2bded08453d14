# A span of the head; length -1: the header is not there.
cdef struct Span:
    Py_ssize_t start
    Py_ssize_t length


cdef struct Head:
    Py_ssize_t size              # bytes of the whole head, its empty line included
    Span path
    long long content_length
    Span bearer                  # of `Authorization: Bearer`, the token
    Span x_api_key
    Span api_key
    Span x_goog_api_key
    Span content_type
    Span accept
    Span idempotency_key
    Span traceparent
    Span openai_beta
    Span max_wait                # x-llmgw-max-wait, and so on
    Span priority
    Span tags
    Span timeout


cdef enum Verdict:
    PLAIN = 1
    INCOMPLETE = 0
    NOT_PLAIN = -1


cdef Verdict read_head(const unsigned char* data, Py_ssize_t size, Head* head) noexcept nogil
