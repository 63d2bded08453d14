cdef class Call:
    # who and when
    cdef public str request_id
    cdef public object trace_id            # str | None
    cdef public double started_s           # monotonic, the moment the request was read whole
    cdef public double received_s          # unix time of the same moment
    # what came in
    cdef public str endpoint               # "/v1/chat/completions"
    cdef public str query                  # with its "?", or ""
    cdef public str method
    cdef public object route               # llmgw.dialects.Route
    cdef public object credential          # bytes | None: the key as sent; dropped once identified
    cdef public bytes content_type
    cdef public bytes accept
    cdef public object idempotency_key     # bytes | None
    cdef public object traceparent         # bytes | None
    cdef public object beta                # bytes | None: openai-beta
    cdef public object max_wait            # bytes | None: x-llmgw-max-wait, and so on
    cdef public object priority            # bytes | None
    cdef public object tags                # bytes | None
    cdef public object timeout             # bytes | None: x-llmgw-timeout
    cdef public object head                # bytes | None: the header lines, where a strategy looks at one
    cdef public bytes body                 # whole, or b"" where `upload` streams it
    cdef public object upload              # a body that is passed on unread, or None
    cdef public bint is_upload_begun       # a piece of it was taken: it cannot be sent again
    cdef public object fault               # a GatewayError that the lane found, or None
    # what it asked for
    cdef public object principal           # llmgw.access.Principal | None
    cdef public str tenant_id
    cdef public str key_name
    cdef public object user                # str | None
    cdef public str model_requested
    cdef public bint stream
    cdef public bint is_events             # the answer that began is an event stream, and told of no error
    # what became of it
    cdef public str model_used
    cdef public str provider_used
    cdef public int status
    cdef public long long input_tokens
    cdef public long long output_tokens
    cdef public long long cached_tokens
    cdef public object usage_source        # "reported" | "estimated" | None: not a token route
    cdef public long long cost_usd_micro   # -1: no price known
    cdef public double queue_ms
    cdef public double ttft_ms             # -1: no byte of an answer came
    cdef public double upstream_ms         # -1: nobody was asked
    cdef public int attempts
    cdef public bint fallback_used
    cdef public str cache
    cdef public object error_code          # str | None
    cdef public bint client_gone
    cdef public object hold                # llmgw._core.limiter.Hold | None: what is reserved for it
    cdef public bytes limit_lines          # the `x-ratelimit-…` lines of its answer
    cdef public str trail                  # `x-llmgw-route`, where it was more than one target that answered
