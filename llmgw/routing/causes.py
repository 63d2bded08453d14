"""Why an attempt failed, in the eight words that routing knows.

What a provider says about the request itself (400, 404, 422 …) is the client's business and passes
through, with two exceptions that another model may answer: the prompt is too long, or against a
content policy. Both are told by the error's codes, and by its sentence only where the codes say
nothing: a sentence may hold what the caller wrote. A sentence counts by how it begins, and decides
between these two and the client's own error only, so that a caller whose words are echoed gains a
fallback at most, never a paused key or a failure that counts against a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

# Errors are some 200 bytes; one that carries more has something else in it, and is not looked into.
BODY_BYTES_MAX = 64 * 1024
# A sentence is recognised by what it begins with.
SENTENCE_CHARS_MAX = 300


class Cause(StrEnum):
    CONNECT = "connect"  # refused, DNS, TLS, reset before any byte
    BROKEN = "broken"  # reset, close, garbage or an in-stream error before the client had a byte
    TIMEOUT = "timeout"  # connect, first token or idle
    SERVER_ERROR = "server_error"  # 5xx, 408, 409
    RATE_LIMIT = "rate_limit"  # 429
    AUTH = "auth"  # our own key or account: 401, 402, 403, and refusals that say so
    CONTEXT_LENGTH = "context_length"  # a refusal that says so
    CONTENT_POLICY = "content_policy"  # a refusal that says so

    @property
    def is_of_request(self) -> bool:
        """Every target of the model would say the same, and none of them is the worse for it."""
        return self in OF_REQUEST


OF_REQUEST = frozenset({Cause.CONTEXT_LENGTH, Cause.CONTENT_POLICY})
# Of a target that is not available for a moment that its provider named.
PAUSES = frozenset({"cooling", "paced"})
# In the order of their numbers.
CLASSES = tuple(cause.value for cause in Cause)
# A cause that configurations have no word for counts as a broken server.
NAMED = frozenset({Cause.RATE_LIMIT, Cause.TIMEOUT, Cause.CONTEXT_LENGTH, Cause.CONTENT_POLICY})

# All codes in lower case.
CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "model_context_window_exceeded"}
)
POLICY_CODES = frozenset(
    {
        "content_policy_violation",
        "content_filter",
        "contentfilter",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "invalid_prompt",  # OpenAI's reasoning models: "flagged as potentially violating our usage policy"
        "data_inspection_failed",
        "datainspectionfailed",
        "safety",
        "prohibited_content",
        "blocklist",
    }
)
FUNDS_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"}
)
AUTH_CODES = FUNDS_CODES | {"api_key_invalid", "invalid_api_key"}  # Gemini says it with a 400
# Codes that only repeat the status; with any other, the sentence does not count.
GENERIC_CODES = frozenset(
    {
        "invalid_request_error",
        "invalid_request",
        "invalid_argument",
        "badrequesterror",
        "bad_request",
        "badrequest",
        "validation",
        "validation_error",
        "validationexception",
        "value_error",
        "error",
    }
)

# How the sentence begins, and what else is in it; lower case.
CONTEXT_SENTENCES = (
    ("this model's maximum context length is ", ""),  # OpenAI's, vLLM's
    ("this endpoint's maximum context length is ", ""),
    ("this model's maximum prompt length is ", ""),
    ("prompt is too long", ""),  # Anthropic's
    ("the prompt is too long", ""),
    ("input length and `max_tokens` exceed context limit", ""),
    ("the input token count", "exceeds the maximum number of tokens"),  # Gemini's
    ("prompt contains ", "maximum context length"),
    ("input is too long for requested model", ""),
    ("too many tokens", ""),
    ("input validation error: `inputs`", "tokens"),
    ("the input (", "longer than the model's context length"),
    ("requested token count exceeds the model's maximum context length", ""),
    ("the decoder prompt (length ", "longer than the maximum model length"),
    ("the prompt (length ", "longer than the maximum model length"),
    ("you passed ", "context length is only"),
    ("the request exceeds the available context size", ""),
)
POLICY_SENTENCES = (
    ("output blocked by content filtering policy", ""),  # Anthropic's
    ("your request was rejected as a result of our safety system", ""),
    ("the response was filtered due to the prompt triggering", "content management policy"),
    ("invalid prompt: your prompt was flagged", ""),
    ("content exists risk", ""),
    ("your chosen model requires moderation", "flagged"),
    ("content violates usage guidelines", ""),
)


class Said(NamedTuple):
    """What an error's body says: its codes in lower case, and the beginning of its sentence."""

    codes: frozenset[str]
    sentence: str


NOTHING = Said(frozenset(), "")


def cause_of_status(status: int, body: bytes) -> Cause | None:
    """The cause of an answer that is no success. None: it is the client's, and passes through."""
    if status == 429:
        return Cause.RATE_LIMIT
    if status >= 500 or status in {408, 409}:
        return Cause.SERVER_ERROR
    if status < 200 or 300 <= status < 400:
        return Cause.BROKEN
    if status in {401, 402, 403}:
        return Cause.CONTENT_POLICY if is_policy(said_in(body)) else Cause.AUTH
    if status in {400, 413, 422}:
        return cause_of_refusal(said_in(body))
    return None


def cause_of_refusal(said: Said) -> Cause | None:
    if not said.codes.isdisjoint(CONTEXT_CODES):
        return Cause.CONTEXT_LENGTH
    if is_policy(said):
        return Cause.CONTENT_POLICY
    if not said.codes.isdisjoint(AUTH_CODES):
        return Cause.AUTH
    return Cause.CONTEXT_LENGTH if begins_as(said, CONTEXT_SENTENCES) else None


def is_policy(said: Said) -> bool:
    return not said.codes.isdisjoint(POLICY_CODES) or begins_as(said, POLICY_SENTENCES)


def is_of_dead_key(status: int, body: bytes) -> bool:
    """The key is unknown, or its account used up. Not any 402: some mean that the one request is too dear."""
    return status == 401 or (400 <= status < 500 and not said_in(body).codes.isdisjoint(AUTH_CODES))


def is_too_large(status: int, body: bytes) -> bool:
    """A 429 for one request that is more than the whole limit: others are not the worse for it."""
    return status == 429 and said_in(body).sentence.startswith("request too large")


def fallback_class(cause: Cause) -> str:
    """The configuration's word for a cause."""
    return cause.value if cause in NAMED else Cause.SERVER_ERROR.value


def class_number(cause: str) -> int:
    """Of its class, for the shared memory; 0 is for "unknown"."""
    return CLASSES.index(fallback_class(Cause(cause))) + 1


def class_of_absence(verdicts: Sequence[tuple[int, str]]) -> str:
    """Why nobody is available, as configurations say it: (class of the last failure, verdict) of each target.

    The last one's word counts, as it would had all been asked in their order.
    """
    blamed, word = verdicts[-1] if verdicts else (0, "")
    if blamed and word != "paced":
        return CLASSES[blamed - 1]
    return Cause.RATE_LIMIT.value if word in PAUSES else Cause.SERVER_ERROR.value


def begins_as(said: Said, sentences: tuple[tuple[str, str], ...]) -> bool:
    if not said.codes <= GENERIC_CODES:
        return False
    return any(said.sentence.startswith(start) and part in said.sentence for start, part in sentences)


def said_in(body: bytes) -> Said:
    """Never raises. OpenAI, Azure, Anthropic, Gemini (also in a list), and servers that put it on top."""
    if len(body) > BODY_BYTES_MAX:
        return NOTHING
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOTHING
    if isinstance(whole, list) and whole:
        whole = whole[0]
    if not isinstance(whole, dict):
        return NOTHING
    error = whole.get("error", whole)
    if isinstance(error, str):
        return Said(frozenset(), shown(error))
    if not isinstance(error, dict):
        return NOTHING
    return Said(frozenset(codes_of(error)), shown(error.get("message")))


def codes_of(error: dict[str, Any]) -> Iterator[str]:
    inner = error.get("innererror")
    details = error.get("details")
    detail = details[0] if isinstance(details, list) and details else None
    values = [error.get("code"), error.get("type"), error.get("status")]
    values += [inner.get("code")] if isinstance(inner, dict) else []
    values += [detail.get("reason")] if isinstance(detail, dict) else []
    for value in values:
        if isinstance(value, str) and value and not value.isdigit():
            yield value.lower()


def shown(sentence: object) -> str:
    return sentence[:SENTENCE_CHARS_MAX].lower() if isinstance(sentence, str) else ""
