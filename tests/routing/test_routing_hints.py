"""What a provider says about waiting, from its headers."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgw.routing.hints import SLOT_OF, WAIT_MAX_S, Hints, hints_of, stated_wait_s

NOW_S = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()
Headers = list[tuple[bytes, bytes]]


def after(*values: bytes, name: bytes = b"retry-after", status: int = 429) -> float | None:
    hints = hints_of([(name, value) for value in values], status, NOW_S)
    return hints.retry_after_s if hints is not None else None


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (b"12", 12),
        (b" 12 ", 12),
        (b"0", 0),
        (b"007", 7),
        (b"1.5", 1.5),
        (b"1.", 1),
        (b"0.001", 0.001),
        (b"600", 600),
        (b"601", 600),
        (b"99999999999999", 600),
        (b"1" + b"0" * 30, 600),
        (b"250ms", 0.25),
        (b"6m0s", 360),
        (b"1.2s", 1.2),
        (b"1m30s", 90),
        (b"1h2m3.5s", 600),
        (b"2m59.56s", 179.56),
        (b"1d", 600),
        (b"150us", 0.00015),
        ("150µs".encode(), 0.00015),
        (b"Sat, 21 Nov 2026 12:00:30 GMT", 30),
        (b"Saturday, 21-Nov-26 12:00:30 GMT", 30),
        (b"Sat Nov 21 12:00:30 2026", 30),
        (b"Sat Nov  1 12:00:30 2026", 0),
        (b"Sat, 21 Nov 2026 12:00:60 GMT", 59),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 0),
        (b"Sun Nov  6 08:49:37 1994", 0),
        (b"Fri, 21 Nov 2036 12:00:00 GMT", 600),
        (b"Friday, 21-Nov-76 12:00:00 GMT", 600),
        (b"Friday, 21-Nov-77 12:00:00 GMT", 0),
        (b"2026-11-21T12:00:30Z", 30),
        (b"2026-11-21T12:00:30.25Z", 30.25),
        (b"2026-11-21T14:00:30+02:00", 30),
        (b"2026-11-21T11:00:30-01:00", 30),
        (b"0001-01-01T00:00:00+23:59", 0),
        (b"9999-12-31T23:59:59-23:59", 600),
    ],
)
def test_every_way_to_say_a_wait_is_read(value: bytes, wait_s: float) -> None:
    assert after(value) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"-1", b"+1", b"-0", b"nan", b"inf", b"-inf", b"Infinity", b"1e3", b"1e400", b"0x10", b"1_0", b"1,5",
        b".5", b"1..2", b"1.2.3", b"5 6", b"5, 10", b"soon", b"s", b"ms", b"1x", b"1s2", b"-1s", b"1 s", b"1m-1s",
        b"9" * 65, b"9" * 100_000, b"1s" * 50_000, "١٢".encode(), "１２".encode(), "²".encode(), b"\xff\xfe", b"\x00",
        b"Sat, 31 Feb 2026 12:00:30 GMT", b"Sat, 21 Nov 2026 25:00:30 GMT", b"Sat, 21 Nov 2026 12:00:30 PST",
        b"Sat, 21 Nov 0000 12:00:30 GMT", b"2026-11-21T12:00:30", b"2026-13-21T12:00:30Z", b"2026-11-21", b"20:00:00",
    ],
)  # fmt: skip
def test_what_is_no_wait_says_nothing(value: bytes) -> None:
    assert after(value) is None
    assert after(value, name=b"retry-after-ms") is None
    assert hints_of([(b"x-ratelimit-reset-tokens", value)], 200, NOW_S) is None


def test_milliseconds_are_the_finer_word_for_the_same_wait() -> None:
    ms = b"retry-after-ms"
    assert after(b"570", name=ms) == 0.57
    assert after(b"570.5", name=b"x-ms-retry-after-ms") == 0.5705
    assert after(b"999999999", name=ms) == WAIT_MAX_S
    assert hints_of([(b"retry-after", b"1"), (ms, b"570")], 429, NOW_S) == Hints(0.57)
    assert hints_of([(ms, b"570"), (b"retry-after", b"20")], 429, NOW_S) == Hints(20.0)
    assert hints_of([(ms, b"5000"), (b"retry-after", b"2")], 429, NOW_S) == Hints(5.0)
    assert hints_of([(ms, b"bad"), (b"retry-after", b"2")], 429, NOW_S) == Hints(2.0)


def test_of_repeated_headers_the_longer_wait_and_the_smaller_rest_count() -> None:
    assert after(b"3", b"20", b"bad", b"5") == 20
    rest = [(b"x-ratelimit-remaining-requests", value) for value in (b"7", b"3", b"-1", b"9")]
    resets = [(b"x-ratelimit-reset-requests", value) for value in (b"1s", b"1m0s", b"250ms")]
    assert hints_of([*rest, *resets], 200, NOW_S) == Hints(remaining_requests=3, reset_requests_s=60)


def test_retry_after_counts_only_where_the_answer_is_no_success() -> None:
    assert after(b"5", status=200) is None
    assert after(b"5", status=503) == 5


def test_openais_figures_are_read() -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"x-ratelimit-limit-tokens", b"2000000"),
        (b"x-ratelimit-remaining-requests", b"9999"),
        (b"x-ratelimit-remaining-tokens", b"1999970"),
        (b"x-ratelimit-reset-requests", b"6ms"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]
    assert hints_of(headers, 200, NOW_S) == Hints(None, 9999, 0.006, 1_999_970, 360.0, 10_000, 2_000_000)


def test_azures_figures_without_resets_are_read() -> None:
    headers = [
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-remaining-tokens", b"99"),
        (b"retry-after", b"6"),
    ]
    assert hints_of(headers, 429, NOW_S) == Hints(6.0, 0, -1, 99, -1, -1, -1)


def anthropic(quota: str, limit: int, remaining: int, reset: str) -> Headers:
    figures = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
    return [(f"anthropic-ratelimit-{quota}-{name}".encode(), text.encode()) for name, text in figures.items()]


def test_of_anthropics_token_quotas_the_one_with_the_least_left_counts_as_a_whole() -> None:
    headers = [
        *anthropic("requests", 50, 49, "2026-11-21T12:00:01Z"),
        *anthropic("tokens", 60_000, 59_000, "2026-11-21T12:00:02Z"),
        *anthropic("input-tokens", 50_000, 49_000, "2026-11-21T12:00:03Z"),
        *anthropic("output-tokens", 10_000, 8_000, "2026-11-21T12:00:12Z"),
    ]
    assert hints_of(headers, 200, NOW_S) == Hints(None, 49, 1.0, 8_000, 12.0, 50, 10_000)


def test_a_count_is_a_whole_number_of_bounded_size() -> None:
    def count(value: bytes) -> int:
        hints = hints_of([(b"x-ratelimit-limit-tokens", value)], 200, NOW_S)
        return hints.limit_tokens if hints is not None else -1

    assert [count(value) for value in (b"5", b"5.9", b"0", b"9" * 30)] == [5, 5, 0, 10**12]
    assert [count(value) for value in (b"", b"-5", b"nan", b"1e5", b"5s", "٥".encode())] == [-1] * 6
    assert type(count(b"5")) is int


def test_an_answer_without_such_headers_has_no_hints() -> None:
    assert hints_of([], 200, NOW_S) is None
    assert hints_of([(b"retry", b"1"), (b"x-ratelimit", b"2"), (b"Retry-After", b"3")], 429, NOW_S) is None


def test_where_no_wait_is_stated_it_lasts_until_what_is_used_up_is_back() -> None:
    used_up = Hints(remaining_requests=0, reset_requests_s=3, remaining_tokens=0, reset_tokens_s=8)
    body = b'{"error": {"message": "Please try again in 570ms."}}'
    assert stated_wait_s(used_up, b"") == 8
    assert stated_wait_s(used_up, body) == pytest.approx(0.57)
    assert stated_wait_s(used_up._replace(retry_after_s=2.0), body) == 2
    assert stated_wait_s(Hints(remaining_requests=5, reset_requests_s=3), b"") is None
    assert stated_wait_s(None, b"") is None
    assert stated_wait_s(None, body) == pytest.approx(0.57)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2105, 1, 1)))
def test_every_http_date_is_read_as_the_standard_library_writes_it(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    expected = min(max(0.0, moment.timestamp() - NOW_S), WAIT_MAX_S)
    assert after(format_datetime(moment, usegmt=True).encode()) == expected
    assert after(moment.strftime("%a %b %e %H:%M:%S %Y").encode()) == expected
    assert after(moment.isoformat().encode()) == expected


PIECES = st.sampled_from(
    [b"1", b"9", b"0", b".", b"-", b"e", b"ms", b"s", b"m", b"h", b"d", b" ", b":", b"T", b"Z", b"GMT"]
)
VALUES = (
    st.binary(max_size=80)
    | st.lists(PIECES, max_size=40).map(b"".join)
    | st.floats().map(lambda number: repr(number).encode())
    | st.integers().map(lambda number: str(number).encode())
    | st.from_regex(rb"[A-Z][a-z]{2,8}, ?[0-9]{2}[- ][A-Z][a-z]{2}[- ][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", fullmatch=True)
    | st.from_regex(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})", fullmatch=True)
)  # fmt: skip


@given(
    headers=st.lists(st.tuples(st.sampled_from(sorted(SLOT_OF)), VALUES), max_size=12),
    status=st.integers(0, 999),
    now_wall_s=st.floats(0, 4e9),
)
@example([(b"retry-after", b"Xxx, 00 Nov 0000 99:99:99 GMT")], 429, 0.0)
def test_no_value_raises_or_leaves_the_bounds(headers: Headers, status: int, now_wall_s: float) -> None:
    hints = hints_of(headers, status, now_wall_s)
    if hints is None:
        return
    assert hints.retry_after_s is None or 0 <= hints.retry_after_s <= WAIT_MAX_S
    for reset_s in (hints.reset_requests_s, hints.reset_tokens_s):
        assert reset_s == -1 or 0 <= reset_s <= WAIT_MAX_S
    for count in (hints.remaining_requests, hints.remaining_tokens, hints.limit_requests, hints.limit_tokens):
        assert type(count) is int and -1 <= count <= 10**12
