"""The ledger's record of one upstream attempt: one JSON object and a newline. docs/ledger.md has the fields.

What belongs to the request comes from its Call; what belongs to the attempt is an argument, since an
attempt that failed has figures of its own. A record holds no NUL byte: whoever reads a file that a
crash left knows by that which lines are whole.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

from llmgw._wire.text cimport TEXT_MAX_BYTES, Stamp, put, put_integer, put_stamp, put_text, put_truth
from llmgw._wire.call cimport Call

TAGS_MAX = TAGS

cdef enum:
    TAGS = 32                           # of a record; more are cut
    TEXTS = 14                          # beside the tags
    FIXED_MAX_BYTES = 1100              # names, punctuation, and numbers at their longest
    SCRATCH_BYTES = (TAGS + TEXTS) * (TEXT_MAX_BYTES + 1) + FIXED_MAX_BYTES

RECORD_MAX_BYTES = SCRATCH_BYTES

cdef struct Attempt:
    double at_s                         # unix time
    bint charged
    bint recovered
    int status
    long long input_tokens
    long long output_tokens
    long long cached_tokens
    long long cost_usd_micro            # -1: no price known

cdef Stamp stamp
stamp.second_s = -1


def call_to_record(
    Call call not None,
    str attempt_id not None,
    str outcome not None,
    bint charged,
    bint recovered=False,
    tuple tags not None=(),
    str model_label not None="",
    int status=0,
    long long input_tokens=0,
    long long output_tokens=0,
    long long cached_tokens=0,
    str usage_source=None,
    long long cost_usd_micro=-1,
    double at_s=-1.0,
):
    """`at_s`: unix time at which limits count the attempt; by default when its request was admitted."""
    return compose_record(
        call, call.provider_used, call.model_used, attempt_id, outcome, charged, recovered, tags, model_label, status,
        input_tokens, output_tokens, cached_tokens, usage_source, cost_usd_micro, at_s,
    )


cdef bytes compose_record(
    Call call, str provider, str model, str attempt_id, str outcome, bint charged, bint recovered, tuple tags,
    str model_label, int status, long long input_tokens, long long output_tokens, long long cached_tokens, str usage_source,
    long long cost_usd_micro, double at_s,
):
    cdef char scratch[SCRATCH_BYTES]
    cdef Attempt attempt
    attempt.at_s = at_s if at_s >= 0 else call.received_s + max(call.queue_ms, 0) * 1e-3
    attempt.charged, attempt.recovered, attempt.status = charged, recovered, status
    attempt.input_tokens, attempt.output_tokens = input_tokens, output_tokens
    attempt.cached_tokens, attempt.cost_usd_micro = cached_tokens, cost_usd_micro
    cdef char* end = write_record(
        scratch, call, provider, model, &attempt, attempt_id, outcome, tags, model_label, usage_source,
    )
    return PyBytes_FromStringAndSize(scratch, end - scratch)


cdef char* write_record(
    char* at, Call call, str provider, str model, Attempt* attempt, str attempt_id, str outcome, tuple tags, str model_label,
    str usage_source,
) except NULL:
    at = put_stamp(put(at, b'{"ts":"'), attempt.at_s, &stamp)
    at = put_text(put(at, b'","attempt_id":'), attempt_id, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"request_id":'), call.request_id, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"tenant_id":'), call.tenant_id, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"key_name":'), call.key_name, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"user":'), call.user, TEXT_MAX_BYTES)
    at = put_tags(put(at, b',"tags":['), tags)
    at = put_text(put(at, b'],"model_requested":'), call.model_requested, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"model":'), model_label, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"model_used":'), model, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"provider_used":'), provider, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"endpoint":'), call.endpoint, TEXT_MAX_BYTES)
    at = put_text(put(at, b',"outcome":'), outcome, TEXT_MAX_BYTES)
    at = put_integer(put(at, b',"status":'), attempt.status)
    at = put_integer(put(at, b',"input_tokens":'), attempt.input_tokens)
    at = put_integer(put(at, b',"output_tokens":'), attempt.output_tokens)
    at = put_integer(put(at, b',"cached_tokens":'), attempt.cached_tokens)
    at = put_text(put(at, b',"usage_source":'), usage_source, TEXT_MAX_BYTES)
    at = put_cost(put(at, b',"cost_usd_micro":'), attempt.cost_usd_micro)
    at = put_truth(put(at, b',"charged":'), attempt.charged)
    if attempt.recovered:
        at = put(at, b',"recovered":true')
    return put(at, b"}\n")


cdef char* put_tags(char* at, tuple tags) except NULL:
    cdef Py_ssize_t index
    for index in range(min(len(tags), TAGS)):
        if index:
            at = put(at, b",")
        at = put_text(at, tags[index], TEXT_MAX_BYTES)
    return at


cdef char* put_cost(char* at, long long micro_usd) noexcept:
    """An integer; null where no price is known."""
    return put(at, b"null") if micro_usd < 0 else put_integer(at, micro_usd)
