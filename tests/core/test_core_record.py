"""The ledger's record against orjson: what it reads back is what the Call and the attempt say."""

import re
from datetime import datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw._core.record import RECORD_MAX_BYTES, TAGS_MAX, call_to_record
from llmgw._wire.call import Call

# docs/ledger.md, in its order.
FIELDS = [
    "ts",
    "attempt_id",
    "request_id",
    "tenant_id",
    "key_name",
    "user",
    "tags",
    "model_requested",
    "model",
    "model_used",
    "provider_used",
    "endpoint",
    "outcome",
    "status",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "usage_source",
    "cost_usd_micro",
    "charged",
]
OF_THE_CALL = [
    "request_id",
    "tenant_id",
    "key_name",
    "user",
    "model_requested",
    "model_used",
    "provider_used",
    "endpoint",
]
text = st.text(max_size=300) | st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=300)
int64 = st.integers(-(2**63), 2**63 - 1)


def filled(**facts):
    call = Call()
    for name, value in facts.items():
        setattr(call, name, value)
    return call


def read_back(call, attempt_id="a", outcome="ok", charged=True, **facts):
    line = call_to_record(call, attempt_id, outcome, charged, **facts)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert b"\0" not in line
    assert len(line) <= RECORD_MAX_BYTES
    return orjson.loads(line)


def sound(value):
    """What JSON can hold of a text, cut at 256 characters."""
    return None if value is None else re.sub("[\ud800-\udfff]", "\ufffd", value[:256])


@given(st.fixed_dictionaries(dict.fromkeys(OF_THE_CALL, text)))
def test_texts_of_the_call_come_back(facts):
    found = read_back(filled(**facts))
    assert list(found) == FIELDS
    assert {name: found[name] for name in OF_THE_CALL} == {name: sound(facts[name]) for name in OF_THE_CALL}


@given(text, text, text, st.none() | text)
def test_texts_of_the_attempt_come_back(attempt_id, outcome, label, source):
    found = read_back(Call(), attempt_id, outcome, model_label=label, usage_source=source)
    assert found["attempt_id"] == sound(attempt_id)
    assert found["outcome"] == sound(outcome)
    assert found["model"] == sound(label)
    assert found["usage_source"] == sound(source)


@given(int64, int64, int64, st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_figures_come_from_the_arguments_and_not_from_the_call(inp, out, cached, status, charged):
    call = filled(input_tokens=7, output_tokens=7, cached_tokens=7, cost_usd_micro=7, status=7)
    facts = {"input_tokens": inp, "output_tokens": out, "cached_tokens": cached, "status": status}
    found = read_back(call, charged=charged, **facts)
    assert {name: found[name] for name in facts} == facts
    assert found["charged"] is charged
    assert found["cost_usd_micro"] is None


@given(st.integers(0, 2**63 - 1))
def test_cost_is_an_integer_of_micro_dollars_and_an_unknown_one_null(micro):
    assert read_back(Call(), cost_usd_micro=micro)["cost_usd_micro"] == micro
    assert read_back(Call(), cost_usd_micro=-1)["cost_usd_micro"] is None


@given(st.lists(text, max_size=TAGS_MAX + 5))
def test_tags_come_back_up_to_their_greatest_number(tags):
    assert read_back(Call(), tags=tuple(tags))["tags"] == [sound(tag) for tag in tags[:TAGS_MAX]]


def test_only_a_recovered_record_says_so():
    assert list(read_back(Call(), recovered=True)) == [*FIELDS, "recovered"]
    assert read_back(Call(), recovered=True)["recovered"] is True
    assert "recovered" not in read_back(Call())


def test_the_moment_is_when_the_request_was_admitted_unless_another_is_given():
    call = filled(received_s=1_790_000_000.25, queue_ms=1500.0)
    assert datetime.fromisoformat(read_back(call)["ts"]).timestamp() == 1_790_000_001.75
    assert datetime.fromisoformat(read_back(call, at_s=1_790_000_009.5)["ts"]).timestamp() == 1_790_000_009.5
    assert datetime.fromisoformat(read_back(filled(received_s=5.0, queue_ms=-1.0))["ts"]).timestamp() == 5.0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_what_is_no_moment_is_no_broken_line(number):
    assert read_back(filled(received_s=number, queue_ms=number), at_s=number)["ts"].startswith("1970")


def test_the_longest_record_there_can_be_has_room():
    long = "\0" * 5000
    call = filled(**dict.fromkeys(OF_THE_CALL, long))
    lowest = -(2**63)
    found = read_back(
        call,
        long,
        long,
        tags=(long,) * 100,
        model_label=long,
        status=-(2**31),
        input_tokens=lowest,
        output_tokens=lowest,
        cached_tokens=lowest,
        usage_source=long,
        cost_usd_micro=2**63 - 1,
        recovered=True,
    )
    assert found["tags"] == ["\0" * 256] * TAGS_MAX


def test_what_is_no_text_is_an_error():
    with pytest.raises(TypeError):
        read_back(Call(), tags=(b"bytes",))
    with pytest.raises(TypeError):
        read_back(Call(), attempt_id=None)
    with pytest.raises(TypeError):
        call_to_record(None, "a", "ok", True)
