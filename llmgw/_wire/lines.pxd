from llmgw._wire.call cimport Call


cpdef bytes request_lines(bytes head, Call call, bytes idempotency_key, bytes content_type, long long body_bytes)
cpdef bytes reply_lines(bytes origin, Call call)
