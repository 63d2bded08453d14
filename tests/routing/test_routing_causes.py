"""Why an attempt failed, as told by its status and its body."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.routing.causes import (
    BODY_BYTES_MAX,
    SENTENCE_CHARS_MAX,
    Cause,
    cause_of_status,
    fallback_class,
    is_of_dead_key,
)

REFUSALS = (400, 413, 422)


def error(message: object = None, **members: Any) -> bytes:
    return orjson.dumps({"error": {"message": message, **members}})


@pytest.mark.parametrize(
    ("statuses", "cause"),
    [
        ((429,), Cause.RATE_LIMIT),
        ((500, 502, 503, 504, 520, 529, 599, 408, 409), Cause.SERVER_ERROR),
        ((401, 402, 403), Cause.AUTH),
        ((100, 101, 300, 301, 302, 304, 307, 308, 0), Cause.BROKEN),
        ((400, 404, 405, 406, 410, 411, 413, 415, 422, 424, 431, 451), None),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"error": null}', error("Nothing special.")])
def test_the_status_alone_decides_where_the_body_says_nothing(
    statuses: tuple[int, ...], cause: Cause | None, body: bytes
) -> None:
    assert {cause_of_status(status, body) for status in statuses} == {cause}


@pytest.mark.parametrize(
    "body",
    [
        error("x", type="invalid_request_error", param="messages", code="context_length_exceeded"),
        error("the request exceeds …", code=400, type="exceed_context_size_error", n_ctx=4096),
        error(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
            type="invalid_request_error",
            param=None,
            code=None,
        ),
        orjson.dumps(
            {
                "object": "error",
                "message": "This model's maximum context length is 4096 tokens. However, you requested 5000",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        ),
        orjson.dumps(
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "prompt is too long: 210000 tokens > 200000 maximum",
                },
                "request_id": "req_1",
            }
        ),
        error(
            "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000",
            type="invalid_request_error",
        ),
        error(
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            code=400,
            status="INVALID_ARGUMENT",
        ),
        b"[" + error("The input token count (9) exceeds the maximum number of tokens allowed (8).") + b"]",
        error(
            "Prompt contains 65673 tokens, too large for model with 32768 maximum context length", code="400"
        ),
        b'{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096","error_type":"validation"}',
        b'{"message":"Input is too long for requested model."}',
        error(
            "This endpoint's maximum context length is 32768 tokens. However, you requested about 40000",
            code=400,
        ),
    ],
)
def test_a_refusal_that_names_the_context_length_is_one(body: bytes) -> None:
    assert {cause_of_status(status, body) for status in REFUSALS} == {Cause.CONTEXT_LENGTH}


@pytest.mark.parametrize(
    "body",
    [
        error("Your request was rejected", code="content_policy_violation", type="invalid_request_error"),
        error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
            type=None,
            param="prompt",
            code="content_filter",
            status=400,
            innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        ),
        error("x", code=None, innererror={"code": "ResponsibleAIPolicyViolation"}),
        error("x", code="moderation_blocked", type="image_generation_user_error"),
        error("Output blocked by content filtering policy", type="invalid_request_error"),
        error("Blocked", code=400, status="PROHIBITED_CONTENT"),
        error("Blocked", code=400, status="INVALID_ARGUMENT", details=[{"reason": "SAFETY"}]),
        error("Your chosen model requires moderation and your input was flagged", code=403, metadata={}),
        error("Content Exists Risk", type="invalid_request_error", code="invalid_request_error"),
        b'{"code":"...","error":"Content violates usage guidelines. Failed check: X"}',
    ],
)
def test_a_refusal_that_names_a_content_policy_is_one(body: bytes) -> None:
    assert {cause_of_status(status, body) for status in (*REFUSALS, 403)} == {Cause.CONTENT_POLICY}


@pytest.mark.parametrize(
    "body",
    [
        error("Invalid value: 'maximum context length'. Supported values are …", code="invalid_value"),
        error("This model's maximum context length is 1", code="unknown_parameter"),
        error("Unrecognized argument: prompt is too long", type="invalid_request_error"),
        error("x" * SENTENCE_CHARS_MAX + "this model's maximum context length is 1"),
        orjson.dumps({"error": {"message": "bad"}, "echo": {"code": "context_length_exceeded"}}),
        orjson.dumps(
            {"error": {"message": "bad", "param": "context_length_exceeded", "input": "content_filter"}}
        ),
        orjson.dumps({"error": {"message": {"code": "content_filter"}, "code": ["content_filter"]}}),
        b"prompt is too long",
    ],
)
def test_words_anywhere_but_in_their_place_decide_nothing(body: bytes) -> None:
    assert {cause_of_status(status, body) for status in REFUSALS} == {None}


def test_a_caller_whose_words_begin_an_error_gains_a_fallback_at_most() -> None:
    for status in (*range(600), 1000, -1):
        plain = cause_of_status(status, error("bad"))
        for words in (
            "prompt is too long",
            "Output blocked by content filtering policy",
            "insufficient_quota",
        ):
            cause = cause_of_status(status, error(f"{words}: Extra inputs are not permitted"))
            assert cause == plain or (cause is not None and cause.is_of_request)


def test_a_body_that_is_too_large_is_not_looked_into() -> None:
    body = error("x", code="context_length_exceeded")
    assert cause_of_status(400, body.ljust(BODY_BYTES_MAX)) is Cause.CONTEXT_LENGTH
    assert cause_of_status(400, body.ljust(BODY_BYTES_MAX + 1)) is None


def test_a_refusal_of_our_key_or_account_is_not_the_clients() -> None:
    invalid = error(
        "API key not valid.", code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]
    )
    assert cause_of_status(400, invalid) is Cause.AUTH
    assert cause_of_status(400, error("x", code="billing_hard_limit_reached")) is Cause.AUTH


def test_an_account_without_funds_is_told_from_a_limit_that_passes() -> None:
    spent = error("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")
    assert cause_of_status(429, spent) is Cause.RATE_LIMIT
    assert is_of_dead_key(429, spent)
    assert is_of_dead_key(401, b"") and not is_of_dead_key(402, b"")
    assert not is_of_dead_key(429, error("insufficient_quota", type="requests", code="rate_limit_exceeded"))
    assert not is_of_dead_key(503, spent)


def test_every_cause_has_a_word_in_the_configuration() -> None:
    assert {cause: fallback_class(cause) for cause in Cause} == {
        Cause.CONNECT: "server_error",
        Cause.BROKEN: "server_error",
        Cause.TIMEOUT: "timeout",
        Cause.SERVER_ERROR: "server_error",
        Cause.RATE_LIMIT: "rate_limit",
        Cause.AUTH: "server_error",
        Cause.CONTEXT_LENGTH: "context_length",
        Cause.CONTENT_POLICY: "content_policy",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "type", "status", "message", "innererror", "details", "reason"]
            ),
            inner,
        )
    ),
)


@given(status=st.integers(-1, 1000), body=st.binary(max_size=200) | JSON.map(orjson.dumps))
def test_any_body_has_a_cause_that_its_status_allows(status: int, body: bytes) -> None:
    cause = cause_of_status(status, body)
    assert is_of_dead_key(status, body) in {True, False}
    if status == 429 or status >= 500:
        assert cause in {Cause.RATE_LIMIT, Cause.SERVER_ERROR}
    if cause is Cause.CONTEXT_LENGTH:
        assert status in REFUSALS
