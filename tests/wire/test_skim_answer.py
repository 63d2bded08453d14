"""What the skimmer reads from an upstream's answer."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from corpus_sse_model import TEXT_KEYS
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw._wire.skim import skim_answer

COMPLETION = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'héllo\n"you"',
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                    ],
                },
                "logprobs": {"content": [{"token": "h", "bytes": [104]}], "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 0}},
    }
)


def text_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(text_bytes, value))
    if not isinstance(value, dict):
        return 0
    return sum(
        len(member.encode()) if isinstance(member, str) and key in TEXT_KEYS else text_bytes(member)
        for key, member in value.items()
    )


def test_every_fact_of_a_completion_is_found() -> None:
    answer = skim_answer(COMPLETION)
    assert answer.is_json
    assert not answer.is_error
    assert answer.usage == b'{"prompt_tokens":9,"completion_tokens_details":{"reasoning_tokens":0}}'
    assert answer.text_bytes == len('héllo\n"you"'.encode()) + len("hm") + len('{"a":1}')


@pytest.mark.parametrize(
    "char", ["\0", "\n", "\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"]
)
def test_escaped_text_counts_as_what_it_means(char: str) -> None:
    assert skim_answer(json.dumps({"text": f"a{char}b"}).encode()).text_bytes == len(f"a{char}b".encode())
    assert skim_answer(rb'{"t\u0065xt":"a"}').text_bytes == 1


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage":{"a":1},"usage":{"b":2}}', b'{"b":2}'),
        (b'{"usage":{"a":1},"usage":null}', None),
        (b'{"usage":null,"usage": { } }', b"{ }"),
        (rb'{"us\u0061ge":{"a":1}}', b'{"a":1}'),
        (b'{"x":{"usage":{"a":1}},"y":"\\"usage\\":{}"}', None),
        (b'{"usage":[1]}', None),
        (b'[{"usage":{"a":1}}]', None),
    ],
)
def test_usage_is_the_last_object_of_that_name_at_the_top(body: bytes, usage: bytes | None) -> None:
    assert skim_answer(body).usage == usage


@pytest.mark.parametrize(
    ("body", "is_error"),
    [
        (b'{"error":{"message":"x"}}', True),
        (b'{"error":"x"}', True),
        (b'{"error":false}', True),
        (b'{"error":null}', False),
        (b'{"error":{},"error":null}', False),
        (b'{"x":{"error":{}}}', False),
        (b'["error"]', False),
    ],
)
def test_an_error_is_a_member_at_the_top_that_is_not_null(body: bytes, is_error: bool) -> None:
    answer = skim_answer(body)
    assert answer.is_json
    assert answer.is_error == is_error


@pytest.mark.parametrize(
    "body", [b"", b" ", b"<html>", b'{"usage":{"a":1},"error":1,"text":"x"', b'{"error":1}x', b"\xff"]
)
def test_what_is_not_json_has_no_facts(body: bytes) -> None:
    answer = skim_answer(body)
    assert (answer.is_json, answer.usage, answer.is_error, answer.text_bytes) == (False, None, False, 0)


def test_every_prefix_of_an_answer_is_not_json() -> None:
    for stop in range(len(COMPLETION)):
        assert not skim_answer(COMPLETION[:stop]).is_json
    assert not skim_answer(COMPLETION + b"\x00").is_json
    assert skim_answer(COMPLETION + b" \n").is_json


KEYS = st.sampled_from([*TEXT_KEYS, "Content", "texts", "usage", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES)
def test_the_text_is_counted_as_on_the_parsed_object(value: Any) -> None:
    try:
        body = orjson.dumps(value)
    except TypeError:
        return
    answer = skim_answer(body)
    assert answer.is_json
    assert answer.text_bytes == text_bytes(value)
