"""The log line against orjson: what it reads back is what the Call says."""

import re
import time
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw._core.line import call_to_line
from llmgw._wire.call import Call

# Contract section 7.
FIELDS = [
    "ts",
    "trace_id",
    "request_id",
    "tenant_id",
    "key_name",
    "user",
    "model_requested",
    "model_used",
    "provider_used",
    "endpoint",
    "stream",
    "status",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "usage_source",
    "cost_usd",
    "latency_ms",
    "queue_ms",
    "ttft_ms",
    "upstream_ms",
    "attempts",
    "fallback_used",
    "cache",
    "error_code",
    "client_gone",
]
TEXTS = [
    "request_id",
    "tenant_id",
    "key_name",
    "model_requested",
    "model_used",
    "provider_used",
    "endpoint",
    "cache",
    "trace_id",
    "user",
    "usage_source",
    "error_code",
]
MAY_BE_NONE = ("trace_id", "user", "usage_source", "error_code")
INTEGERS = ("input_tokens", "output_tokens", "cached_tokens")

plain = st.text(st.characters(max_codepoint=0x2FF), max_size=40)
wild = st.text(max_size=300) | st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=300)
text = plain | wild
int64 = st.integers(-(2**63), 2**63 - 1)
ms = st.floats(0, 1e9, allow_nan=False)


def filled(**facts):
    call = Call()
    for name, value in facts.items():
        setattr(call, name, value)
    return call


def read_back(call, now_s=-1.0):
    line = call_to_line(call, now_s)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert len(line) <= 4096, "PIPE_BUF"
    return orjson.loads(line)


def sound(value):
    """What JSON can hold of a text, cut at 256 characters."""
    return None if value is None else re.sub("[\ud800-\udfff]", "\ufffd", value[:256])


@st.composite
def texts(draw, strategy):
    found = {name: draw(strategy) for name in TEXTS}
    return found | {name: draw(st.none() | strategy) for name in MAY_BE_NONE}


@given(texts(plain), st.fixed_dictionaries(dict.fromkeys(INTEGERS, int64)))
def test_texts_and_integers_come_back_as_they_are(facts, numbers):
    found = read_back(filled(**facts, **numbers))
    assert list(found) == FIELDS
    for name, value in (facts | numbers).items():
        assert found[name] == (sound(value) if name in TEXTS else value)


@given(texts(wild))
def test_any_text_gives_a_line_that_orjson_reads_and_a_pipe_keeps_whole(facts):
    found = read_back(filled(**facts))
    assert list(found) == FIELDS
    for name, value in facts.items():
        wanted = sound(value)
        assert found[name] == wanted or (wanted.startswith(found[name]) and len(found[name]) >= 40)


@given(text)
def test_one_text_alone_comes_back_to_its_256th_character(value):
    assert read_back(filled(user=value))["user"] == sound(value)


def test_every_character_by_itself_comes_back():
    for start in range(0, 0x11000, 64):
        value = "".join(map(chr, range(start, start + 64)))
        assert read_back(filled(user=value))["user"] == sound(value)
    assert read_back(filled(user="\U0001f600\U0010ffff"))["user"] == "\U0001f600\U0010ffff"


def test_the_longest_texts_there_can_be_still_make_one_line_for_a_pipe():
    for character in ("\0", "\U0001f600", "\ud800", "a", '"'):
        found = read_back(
            filled(**dict.fromkeys(TEXTS, character * 5000), status=-(2**31), cost_usd_micro=2**63 - 1)
        )
        assert all(found[name] and set(found[name]) == {sound(character)} for name in TEXTS)


@given(ms, ms, ms, ms)
def test_times_come_back_to_the_microsecond(latency, queue, ttft, upstream):
    call = filled(started_s=1.0, queue_ms=queue, ttft_ms=ttft, upstream_ms=upstream)
    found = read_back(call, now_s=1.0 + latency / 1e3)
    assert found["latency_ms"] == pytest.approx(latency, rel=1e-9, abs=0.0006)
    for name, value in (("queue_ms", queue), ("ttft_ms", ttft), ("upstream_ms", upstream)):
        assert found[name] == pytest.approx(value, rel=1e-12, abs=0.00051)


def test_times_are_written_with_three_decimals_always():
    line = call_to_line(filled(started_s=5.0, queue_ms=0.0004, ttft_ms=12.0, upstream_ms=0.9996), 5.25)
    assert b'"latency_ms":250.000,"queue_ms":0.000,"ttft_ms":12.000,"upstream_ms":1.000' in line


def test_what_did_not_happen_is_null():
    found = read_back(Call())
    nulls = {name for name, value in found.items() if value is None}
    assert nulls == {"trace_id", "user", "usage_source", "cost_usd", "ttft_ms", "upstream_ms", "error_code"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
def test_what_is_no_measurement_is_no_broken_line(number):
    read_back(
        filled(queue_ms=number, ttft_ms=number, upstream_ms=number, received_s=number, started_s=number)
    )


@given(st.integers(0, 2**63 - 1))
def test_cost_is_exact_to_the_micro_dollar(micro):
    line = call_to_line(filled(cost_usd_micro=micro))
    dollars, decimals = re.search(rb'"cost_usd":(\d+)\.(\d{6}),', line).groups()
    assert int(dollars) * 1_000_000 + int(decimals) == micro


@given(st.floats(0, 253402300798.9))
def test_the_moment_is_rfc_3339_in_utc_with_milliseconds(unix_s):
    stamp = read_back(filled(received_s=unix_s))["ts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    read = (datetime.fromisoformat(stamp) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert read == pytest.approx(unix_s, rel=0, abs=0.001)


def test_seconds_that_alternate_are_not_mixed_up():
    for unix_s in (1_790_000_000.25, 1_790_000_001.5, 1_790_000_000.75, 0.0, 1_790_000_000.75):
        stamp = read_back(filled(received_s=unix_s))["ts"]
        assert datetime.fromisoformat(stamp).timestamp() == unix_s


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.integers(0, 99))
def test_truths_status_and_attempts_come_back(stream, fallback, gone, status, attempts):
    facts = {
        "stream": stream,
        "fallback_used": fallback,
        "client_gone": gone,
        "status": status,
        "attempts": attempts,
    }
    found = read_back(filled(**facts))
    assert {name: found[name] for name in facts} == facts


def test_a_text_that_is_none_of_ours_is_an_error():
    with pytest.raises(TypeError):
        call_to_line(filled(user=b"bytes"))
    with pytest.raises(TypeError):
        call_to_line(None)


def test_without_a_clock_given_the_latency_is_until_now(spin):
    call = filled(started_s=time.monotonic())
    spin(0.01)
    assert 10 <= read_back(call)["latency_ms"] < 10_000
