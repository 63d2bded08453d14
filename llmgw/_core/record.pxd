from llmgw._wire.call cimport Call


cdef bytes compose_record(
    Call call, str provider, str model, str attempt_id, str outcome, bint charged, bint recovered, tuple tags,
    str model_label, int status, long long input_tokens, long long output_tokens, long long cached_tokens,
    str usage_source, long long cost_usd_micro, double at_s,
)
