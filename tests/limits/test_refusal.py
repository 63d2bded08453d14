"""What a client reads when a limit said no."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmgw.errors import GatewayError, QueueFull, QueueTimeout, QuotaExceeded, RateLimited
from llmgw.limits.refusal import found_no_place, limit_lines, price_unknown, refused, waited_in_vain
from llmgw.limits.words import WORDS, duration_text, money_text, period_text

NEVER, UNKNOWN = -1, -2
SECOND_US = 1_000_000


def refusal(
    word: str = "tpm",
    amount: int = 10_000,
    wait_us: int = 570_000,
    *,
    used: int = 8710,
    requested: int = 1385,
    scope: str = "tenant",
    subject: str = "acme",
    period: str = "",
    reset_us: int = 0,
) -> Any:
    limit = SimpleNamespace(scope=scope, subject=subject, word=word, amount=amount, period=period)
    gauge = SimpleNamespace(key=bytes(16), limit=amount, info=limit)
    return SimpleNamespace(gauge=gauge, used=used, requested=requested, wait_us=wait_us, reset_us=reset_us)


def told(error: GatewayError) -> tuple[int, str, str | None, bool, float | None]:
    return error.status, error.type, error.code, error.should_retry, error.retry_after_s


def test_a_token_limit_is_told_in_openais_words() -> None:
    error = refused(refusal(), "gpt-4o", "acme")
    assert error.message == (
        "Rate limit reached for gpt-4o in organization acme on tokens per min (TPM): "
        "Limit 10000, Used 8710, Requested 1385. Please try again in 570ms."
    )
    assert told(error) == (429, "tokens", "rate_limit_exceeded", True, 0.57)
    assert isinstance(error, RateLimited)


def test_a_request_limit_is_told_in_openais_words() -> None:
    error = refused(
        refusal("rpd", 200, 7 * 60 * SECOND_US + 12 * SECOND_US, used=200, requested=1), "gpt-4o", "acme"
    )
    assert error.message == (
        "Rate limit reached for gpt-4o in organization acme on requests per day (RPD): "
        "Limit 200, Used 200, Requested 1. Please try again in 7m12s."
    )
    assert told(error) == (429, "requests", "rate_limit_exceeded", True, 432.0)


def test_a_wait_that_nobody_knows_is_told_as_a_second_and_not_in_the_sentence() -> None:
    error = refused(refusal("concurrent", 20, UNKNOWN, used=20, requested=1), "gpt-4o", "acme")
    assert error.message == (
        "Rate limit reached for gpt-4o in organization acme on concurrent requests: Limit 20, Used 20, Requested 1."
    )
    assert told(error) == (429, "requests", "rate_limit_exceeded", True, 1.0)


def test_what_is_larger_than_the_whole_limit_is_not_to_be_tried_again() -> None:
    error = refused(refusal(amount=100, wait_us=NEVER, requested=700), "gpt-4o", "acme")
    assert error.message == (
        "Request too large for gpt-4o in organization acme on tokens per min (TPM): Limit 100, Requested 700."
    )
    assert told(error) == (429, "tokens", "rate_limit_exceeded", False, None)


def test_a_limit_of_no_requests_is_not_to_be_tried_again() -> None:
    error = refused(refusal("rpm", 0, NEVER, used=0, requested=1), "gpt-4o", "acme")
    assert error.message.endswith("on requests per min (RPM): Limit 0, Used 0, Requested 1.")
    assert told(error) == (429, "requests", "rate_limit_exceeded", False, None)


def test_an_honest_wait_is_told_however_long() -> None:
    assert refused(refusal(wait_us=86_400 * SECOND_US), "m", "t").retry_after_s == 86_400


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_limit_word_has_its_sentence(word: str) -> None:
    error = refused(refusal(word), "m", "t")
    assert f"({word.upper()}): Limit" in error.message or word == "concurrent"
    assert error.type == ("tokens" if word.startswith("t") else "requests")


@pytest.mark.parametrize("scope", ["provider", "model"])
@pytest.mark.parametrize("tell", [refused, waited_in_vain, found_no_place])
@pytest.mark.parametrize("word", ["tpm", "budget"])
@pytest.mark.parametrize("wait_us", [NEVER, UNKNOWN, 570_000])
def test_an_operators_limit_does_not_tell_whose_it_is(scope: str, tell: Any, word: str, wait_us: int) -> None:
    error = tell(
        refusal(word, wait_us=wait_us, scope=scope, subject="azure-west", period="1d"), "gpt-4o", "acme"
    )
    assert "azure" not in error.message
    assert "provider" not in error.message


@pytest.mark.parametrize(
    ("scope", "period", "wait_us", "sentence"),
    [
        (
            "tenant",
            "1d",
            UNKNOWN,
            "You exceeded your current quota: the budget of $50.00 per day in organization acme is used up.",
        ),
        (
            "key",
            "month",
            3_600 * SECOND_US,
            (
                "You exceeded your current quota: this key's budget of $50.00 per month in organization acme is used up."
                " It has room for this request in 1h0m0s."
            ),
        ),
        (
            "user",
            "30d",
            NEVER,
            "This request may cost more than this user's budget of $50.00 per 30 days in organization acme.",
        ),
    ],
)
def test_a_budget_names_its_amount_and_period(scope: str, period: str, wait_us: int, sentence: str) -> None:
    error = refused(refusal("budget", 50_000_000, wait_us, scope=scope, period=period), "gpt-4o", "acme")
    assert error.message == sentence
    assert told(error) == (429, "insufficient_quota", "insufficient_quota", False, None)
    assert isinstance(error, QuotaExceeded)


def test_the_reset_is_when_the_window_is_empty_and_not_this_requests_wait() -> None:
    assert limit_lines(refusal(wait_us=570_000, reset_us=59_500_000)) == (
        b"x-ratelimit-limit-tokens: 10000\r\nx-ratelimit-remaining-tokens: 1290\r\nx-ratelimit-reset-tokens: 59.5s\r\n"
    )
    assert b"x-ratelimit-reset-tokens: 12s\r\n" in limit_lines(refusal(wait_us=NEVER, reset_us=12_000_000))


def test_one_that_waited_in_vain_learns_for_what() -> None:
    error = waited_in_vain(refusal(), "gpt-4o", "acme")
    assert "tokens per min (TPM)" in error.message and error.message.endswith("Please try again in 570ms.")
    assert told(error) == (429, "requests", "queue_timeout", True, 0.57)
    assert isinstance(error, QueueTimeout)


def test_one_that_found_no_place_learns_for_what() -> None:
    error = found_no_place(refusal("concurrent", 20, UNKNOWN), "gpt-4o", "acme")
    assert "concurrent requests" in error.message and "try again in" not in error.message
    assert told(error) == (429, "requests", "queue_full", True, 1.0)
    assert isinstance(error, QueueFull)


@pytest.mark.parametrize("tell", [waited_in_vain, found_no_place])
@pytest.mark.parametrize("no", [refusal("budget", period="day"), refusal(wait_us=NEVER)])
def test_where_waiting_does_not_help_the_queue_is_not_spoken_of(tell: Any, no: Any) -> None:
    plain = refused(no, "m", "t")
    assert (type(tell(no, "m", "t")), tell(no, "m", "t").message) == (type(plain), plain.message)
    assert not tell(no, "m", "t").should_retry


def test_an_unknown_price_is_the_keys_matter() -> None:
    error = price_unknown("gpt-9")
    assert "gpt-9" in error.message
    assert told(error) == (403, "permission_error", "price_unknown", False, None)


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (1, "1ms"),
        (250_000, "250ms"),
        (250_001, "251ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (1_500_000, "1.5s"),
        (7_660_000, "7.66s"),
        (59_999_999, "1m0s"),
        (72_172_000, "1m12.172s"),
        (360 * SECOND_US, "6m0s"),
        (3_723 * SECOND_US, "1h2m3s"),
        (86_400 * SECOND_US, "24h0m0s"),
        (90_061_001_000, "25h1m1.001s"),
    ],
)
def test_durations_have_openais_form_and_are_never_too_short(duration_us: int, text: str) -> None:
    assert duration_text(duration_us) == text


@pytest.mark.parametrize(
    ("usd_micro", "text"),
    [(0, "$0.00"), (50_000_000, "$50.00"), (1_100_000, "$1.10"), (12_500, "$0.0125"), (1, "$0.000001")],
)
def test_money_has_no_noise(usd_micro: int, text: str) -> None:
    assert money_text(usd_micro) == text


@pytest.mark.parametrize(
    ("period", "text"),
    [
        ("1h", "per hour"),
        ("1d", "per day"),
        ("30d", "per 30 days"),
        ("day", "per day"),
        ("month", "per month"),
    ],
)
def test_a_period_reads_as_english(period: str, text: str) -> None:
    assert period_text(period) == text
