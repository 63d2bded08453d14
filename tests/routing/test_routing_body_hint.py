"""What a provider says about waiting, from the body of its error."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.routing.hints import BODY_BYTES_MAX, WAIT_MAX_S, body_hint


def error(message: object = "", **members: Any) -> bytes:
    return orjson.dumps({"error": {"message": message, **members}})


def delayed(*delays: object, message: str = "") -> bytes:
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}, "x", None]
    details += [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay} for delay in delays
    ]
    return error(message, code=429, status="RESOURCE_EXHAUSTED", details=details)


@pytest.mark.parametrize(
    ("message", "wait_s"),
    [
        (
            "Rate limit reached for m on TPM: Limit 1, Used 1, Requested 1. Please try again in 570ms. Visit …",
            0.57,
        ),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 2m59.56s. Need more tokens?", 179.56),
        ("Please try again in 20s", 20),
        ("Please try again in 1h12m3s.", 600),
        ("Please retry after 6 seconds.", 6),
        ("Please retry after 1 second.", 1),
        ("Please retry after 250 milliseconds", 0.25),
        ("Please retry in 13.25s.", 13.25),
        ("PLEASE TRY AGAIN IN 3S.", 3),
        ("Limit of `please try again in 500s` reached. Please try again in 2s.", 2),
    ],
)
def test_the_last_sentence_that_states_a_wait_is_read(message: str, wait_s: float) -> None:
    assert body_hint(error(message)) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    "message",
    ["", "Please try again later.", "try again in 5s", "Please try again in -5s.", "Please try again in 5x.",
     "Please try again in soon", "Please try again in ٥s.", "Please try again in 1e400s.", None, 5, ["x"]],
)  # fmt: skip
def test_a_sentence_that_states_no_wait_says_nothing(message: object) -> None:
    assert body_hint(error(message)) is None


def test_googles_delay_is_read_and_goes_before_the_sentence() -> None:
    assert body_hint(delayed("13s")) == 13
    assert body_hint(b"[" + delayed("13.5s") + b"]") == 13.5
    assert body_hint(delayed("2s", "7s", message="Please retry in 99s.")) == 7
    assert body_hint(delayed("86400s")) == WAIT_MAX_S
    assert body_hint(delayed("-1s", message="Please retry in 9s.")) == 9
    assert body_hint(delayed(None, 5, {"seconds": 3}, "x")) is None


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"[[]]", b"5", b'"x"', b'{"error": "x"}', b"{", b"\xff", b"<html>"]
)
def test_a_body_of_another_shape_says_nothing(body: bytes) -> None:
    assert body_hint(body) is None


def test_a_body_that_is_too_large_is_not_looked_into() -> None:
    assert body_hint(delayed("13s").ljust(BODY_BYTES_MAX)) == 13
    assert body_hint(delayed("13s").ljust(BODY_BYTES_MAX + 1)) is None


@pytest.mark.parametrize(
    "piece", ["please try again in ", "please try again in 1", "please retry in 1" + "1s" * 11 + " a", "9"]
)
def test_no_text_takes_long_to_read(piece: str) -> None:
    message = (piece * BODY_BYTES_MAX)[: BODY_BYTES_MAX - 100]
    start_s = time.process_time()
    body_hint(error(message))
    assert time.process_time() - start_s < 1  # some milliseconds; what blows up takes minutes


WORDS = st.sampled_from(
    ["please ", "try again in ", "retry after ", "1", "9" * 30, ".", "ms", "s ", " seconds", "-", "é", "m"]
)


@given(
    body=st.binary(max_size=100)
    | st.lists(WORDS, max_size=12).map(lambda words: error("".join(words)))
    | st.lists(st.none() | st.text(max_size=8) | WORDS, max_size=3).map(lambda delays: delayed(*delays))
)
def test_no_body_raises_or_leaves_the_bounds(body: bytes) -> None:
    wait_s = body_hint(body)
    assert wait_s is None or 0 <= wait_s <= WAIT_MAX_S
