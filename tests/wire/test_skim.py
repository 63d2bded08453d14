"""What the skimmer reads from a request body, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from corpus_json import POLICY_KEYS, SEEDS, nested

from llmgw._wire.skim import SkimError, skim

CHAT = (
    b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi \\u00e9\\n"}], "stream": true,\n'
    b' "max_tokens": 12, "max_completion_tokens": 40, "n": 2, "best_of": 3, "user": "u-1",'
    b' "temperature": 0.5, "stream_options": {"x": [1], "include_usage": true}, "tools": null} \r\n\t'
)


def refused(body: bytes) -> SkimError:
    with pytest.raises(SkimError) as caught:
        skim(body)
    return caught.value


def test_every_fact_of_a_chat_request_is_found() -> None:
    facts = skim(CHAT)
    assert (facts.model, facts.stream, facts.max_tokens, facts.n) == ("gpt-4o-mini", True, 40, 3)
    assert (facts.user, facts.include_usage, facts.is_empty) == ("u-1", True, False)
    assert CHAT[facts.model_start : facts.model_end] == b'"gpt-4o-mini"'
    assert CHAT[facts.stream_options_start : facts.stream_options_end] == b'{"x": [1], "include_usage": true}'
    assert CHAT[facts.close_at :] == b"} \r\n\t"
    assert facts.prompt_bytes == len(rb'[{"role": "user", "content": "hi \u00e9\n"}]')


def test_an_empty_object_has_no_facts() -> None:
    facts = skim(b" { } ")
    assert (facts.model, facts.model_start, facts.model_end, facts.user) == (None, -1, -1, None)
    assert (facts.stream, facts.include_usage, facts.max_tokens, facts.n) == (False, False, -1, 1)
    assert (facts.stream_options_start, facts.stream_options_end, facts.prompt_bytes) == (-1, -1, 0)
    assert facts.is_empty
    assert facts.close_at == 3


def test_null_is_like_absent_where_a_field_may_be_null() -> None:
    facts = skim(
        b'{"stream":null,"user":null,"max_tokens":null,"n":null,"best_of":null,"max_output_tokens":7,'
        b'"stream_options":null}'
    )
    assert (facts.stream, facts.user, facts.max_tokens, facts.max_output_tokens) == (False, None, -1, 7)
    assert facts.n == 1


def test_the_prompt_is_the_sum_of_messages_prompt_and_input_as_written() -> None:
    assert skim(b'{"prompt":"ab","input": [ 1 ] ,"messages":{"a":"b"},"x":"yyy"}').prompt_bytes == 4 + 5 + 9


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ('"one"', 1),
        ("[]", 1),
        ("null", 1),
        ("[1, 2, 3]", 1),
        ('["one"]', 1),
        ('["one", "two","three"]', 3),
        ("[[1, 2], [3], [ ]]", 3),
        ('[ "one", [1], 2 ]', 2),
        ('[["one", "two"]]', 1),
    ],
)
def test_strings_and_arrays_in_a_prompt_are_a_prompt_each(prompt: str, count: int) -> None:
    assert skim(b'{"prompt":%b,"input":["x","y"]}' % prompt.encode()).prompts == count


def test_the_user_of_metadata_is_noted_and_judged_by_whoever_wants_it() -> None:
    assert skim(b'{"metadata":{"x":"y","user_id":"anna"}}').user_id == "anna"
    assert not skim(b'{"metadata":{"user_id":null}}').is_user_id_odd
    for odd in ('{"user_id":1}', '{"user_id":null,"user_id":"a"}', '{"user\\u005fid":"a","user_id":"a"}'):
        assert skim(b'{"metadata":%b}' % odd.encode()).is_user_id_odd


@pytest.mark.parametrize(
    ("value", "is_background"), [("true", 1), ("1", 1), ('"false"', 1), ("{}", 1), ("false", 0), ("null", 0)]
)
def test_whatever_could_be_taken_for_true_is_background(value: str, is_background: int) -> None:
    assert skim(b'{"back\\u0067round":%b}' % value.encode()).is_background == is_background


def test_a_prefix_of_a_body_and_a_body_with_anything_behind_it_are_refused() -> None:
    end = skim(CHAT).close_at + 1
    for stop in range(end):
        refused(CHAT[:stop])
    for stop in range(end, len(CHAT) + 1):
        assert skim(CHAT[:stop]).max_tokens == 40
    for byte in range(256):
        if bytes([byte]) not in (b" ", b"\t", b"\r", b"\n"):
            assert "behind the value" in refused(CHAT + bytes([byte])).message


@pytest.mark.parametrize("body", SEEDS)
def test_what_orjson_refuses_or_is_no_object_is_refused(body: bytes) -> None:
    try:
        is_object = isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        is_object = False
    if is_object:
        skim(body)
    else:
        assert refused(body).param is None


@pytest.mark.parametrize("name", POLICY_KEYS)
def test_a_policy_relevant_key_twice_is_refused_in_any_spelling(name: str) -> None:
    value = {"model": "m", "user": "u"}.get(name)
    first = orjson.dumps({name: value, "x": {name: 1}})[:-1]
    for index, char in enumerate(name):
        spelling = f"{name[:index]}\\u{ord(char):04X}{name[index + 1 :]}"
        error = refused(first + f',"{spelling}":null}}'.encode())
        assert (error.param, error.message) == (name, f"'{name}' must not be given twice.")


def test_the_same_key_in_other_case_or_deeper_is_another_key() -> None:
    assert (
        skim(
            b'{"model":"a","Model":"b","MODEL":1,"model\\u0000":2,"models":3,"x":{"model":4,"model":5}}'
        ).model
        == "a"
    )


def test_an_escaped_key_alone_is_that_key() -> None:
    assert skim(rb'{"mod\u0065l":"a","\u0073tream":true,"\u006e":3}').model == "a"
    facts = skim(rb'{"\u006dax_tokens":5,"\u006E":3,"stream_options":{"include\u005fusage":true}}')
    assert (facts.max_tokens, facts.n, facts.include_usage) == (5, 3, True)


def test_include_usage_twice_is_refused() -> None:
    body = rb'{"stream_options":{"include_usage":false,"includ\u0065_usage":true}}'
    assert refused(body).param == "stream_options.include_usage"


WRONG: list[tuple[str, list[Any]]] = [
    ("model", [None, 1, True, [], {}, "", "m" * 257, "é" * 129, "a\nb", "a\x7fb", "a\x85b", "\x00"]),
    ("user", [1, False, [], {}, "u" * 513, "é" * 513, "u" * 5000]),
    ("stream", [0, 1, "true", [], {}]),
    ("stream_options", [0, True, "x", []]),
    *(
        (name, [-1, 2**31, 2**63, 2**64 - 1, 1.0, 0.5, "1", True, [], {}])
        for name in POLICY_KEYS
        if "max" in name
    ),
    *((name, [-1, 0, 129, 2**64 - 1, 1.0, "1", False, [], {}]) for name in ("n", "best_of")),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_a_field_of_the_wrong_kind_is_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        error = refused(orjson.dumps({"x": 1, name: value, "y": 2}))
        assert error.param == name
        assert name in error.message


@pytest.mark.parametrize("written", ["1e3", "10.0", "1E0", "-0", "-1", "0.0", "00000000001"])
def test_a_token_count_is_digits_alone(written: str) -> None:
    refused(b'{"max_tokens":' + written.encode() + b"}")


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_include_usage_is_a_boolean_or_null(value: Any) -> None:
    error = refused(orjson.dumps({"stream_options": {"include_usage": value}}))
    assert error.param == "stream_options.include_usage"


def test_the_limits_themselves_are_allowed() -> None:
    body = {"model": "é" * 128, "user": "世" * 512, "max_tokens": 2**31 - 1, "n": 128, "best_of": 1}
    facts = skim(orjson.dumps(body))
    assert facts.model == body["model"]
    assert facts.user == body["user"]
    assert (facts.max_tokens, facts.n) == (2**31 - 1, 128)
    assert skim(orjson.dumps({"max_tokens": 0})).max_tokens == 0


def test_escaped_names_are_decoded() -> None:
    facts = skim(rb'{"model":"\u006d\/\"\\\ud83d\ude00","user":"\n\u00e9"}')
    assert (facts.model, facts.user) == ('m/"\\😀', "\né")


def test_depth_ends_at_256_with_the_root_counted() -> None:
    skim(b'{"x":' + nested(255).encode() + b"}")
    assert "nested too deeply" in refused(b'{"x":' + nested(256).encode() + b"}").message
    refused(b'{"x":' + b"[" * 10_000_000)


def test_depth_is_not_length() -> None:
    skim(b'{"x":[' + b'[],{},[[]],{"a":{}},' * 1000 + b"0]}")


def test_surrogates_come_in_pairs() -> None:
    for pair in (r"\ud800\udc00", r"\udbff\udfff", r"\ud7ff\ue000"):
        skim(f'{{"x":"{pair}"}}'.encode())
    for alone in (
        r"\ud800",
        r"\ud800x",
        r"\ud800\n",
        r"\ud800\udbff",
        r"\ud800\ue000",
        r"\ud800\u",
        r"\udc00",
        r"\udc00\udc00",
    ):
        refused(f'{{"x":"{alone}"}}'.encode())


def test_numbers_end_below_1e308() -> None:
    for good in (
        "9" * 308,
        "9.9e307",
        "0." + "0" * 400 + "1e708",
        "0e999999999999999999999",
        "1" + "0" * 307,
    ):
        body = f'{{"x":{good}}}'.encode()
        orjson.loads(body)
        skim(body)
    for bad in ("1" + "0" * 308, "1e308", "10e307", "0.01e310", "-1e999999999999999999999"):
        assert "number too large" in refused(f'{{"x":{bad}}}'.encode()).message


EDGES = (
    0x22,
    0x41,
    0x7F,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xBF,
    0xC0,
    0xC1,
    0xC2,
    0xDF,
    0xE0,
    0xED,
    0xEF,
    0xF0,
    0xF4,
    0xF5,
    0xFF,
)


@pytest.mark.parametrize(
    "before", ["", *("a" * size for size in (1, 12, 13, 14, 15, 30, 77)), "é" * 7 + "a", "é" * 7]
)
@pytest.mark.parametrize("behind", ["", "tail" * 8])
def test_utf8_is_judged_as_python_does_wherever_it_stands(before: str, behind: str) -> None:
    lead = b'{"prompt":"' + before.encode()
    for text in map(bytes, itertools.chain(itertools.product(EDGES[1:], repeat=3), FOUR_BYTES)):
        body = lead + text + behind.encode() + b'"}'
        try:
            text.decode()
        except UnicodeDecodeError:
            assert "not UTF-8" in refused(body).message
        else:
            assert skim(body).close_at == len(body) - 1


FOUR_BYTES = list(
    itertools.product((0xF0, 0xF3, 0xF4, 0xF5), (0x7F, 0x8F, 0x90, 0xBF), (0x41, 0x80, 0xBF), (0x80, 0xC2))
)


@pytest.mark.parametrize("size", range(0, 200, 7))
def test_a_string_ends_where_its_quote_is_however_long_it_is(size: int) -> None:
    for filler in ("a", "é", "世", "😀", "aé", "aaaaaaaaaaaaaaaaaaaaaaaaé", "\\n", 'a\\"'):
        body = f'{{"prompt":"{filler * size}","n":5}}'.encode()
        facts = skim(body)
        assert facts.prompt_bytes == 2 + len(filler.encode()) * size
        assert facts.n == 5


@pytest.mark.parametrize("at", range(70))
def test_a_control_character_in_a_string_is_refused_wherever_it_stands(at: int) -> None:
    for byte in (0, 1, 0x0A, 0x1F):
        for filler in (b"a", b"\xc3\xa9"):
            body = b'{"prompt":"' + filler * at + bytes([byte]) + filler * 40 + b'"}'
            assert "control character" in refused(body).message


def test_only_bytes_are_read() -> None:
    for wrong in (None, "{}", bytearray(b"{}"), memoryview(b"{}")):
        with pytest.raises(TypeError):
            skim(wrong)  # type: ignore[arg-type]
