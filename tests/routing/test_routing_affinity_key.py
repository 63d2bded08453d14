"""The number that keeps a conversation's turns with one target."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw._wire.affinity import affinity_of, conversation_key

SYSTEM = {"role": "system", "content": "You help."}
USER = {"role": "user", "content": "hi"}
TURNS = [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "more"}]


def key(**members: Any) -> int:
    return conversation_key(orjson.dumps(members))


def chat(*messages: Any, **members: Any) -> int:
    return key(model="m", messages=list(messages), **members)


def block(text: str, **members: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **members}]}


def test_all_turns_of_a_conversation_have_its_key() -> None:
    first = chat(SYSTEM, USER)
    assert first > 0
    assert chat(SYSTEM, USER, *TURNS) == first
    assert chat(SYSTEM, USER, *TURNS, *TURNS, stream=True, temperature=1) == first
    assert key(messages=[SYSTEM, USER, *TURNS], model="other") == first


@pytest.mark.parametrize(
    "other",
    [
        chat(USER),
        chat(SYSTEM, {"role": "user", "content": "ho"}),
        chat(SYSTEM, {"role": "user", "content": "hi "}),
        chat({"role": "system", "content": "You help!"}, USER),
        chat(SYSTEM, SYSTEM, USER),
        chat(USER, SYSTEM),
        chat(SYSTEM, USER, system="x"),
        chat(SYSTEM, USER, instructions="x"),
        chat(SYSTEM, {"role": "user", "content": "hi", "name": "ann"}),
        key(prompt=["system", "You help.", "user", "hi"]),
    ],
)
def test_another_beginning_has_another_key(other: int) -> None:
    assert other not in {0, chat(SYSTEM, USER)}


def test_the_top_levels_instructions_count_wherever_they_stand() -> None:
    assert (
        key(system="a", messages=[USER]) == key(messages=[USER, *TURNS], system="a") != key(messages=[USER])
    )
    assert (
        key(instructions="a", input=[USER])
        == key(input=[USER, *TURNS], instructions="a")
        != key(input=[USER])
    )
    assert key(system=[{"type": "text", "text": "a"}], messages=[USER]) == key(system="a", messages=[USER])


def test_marks_that_clients_move_from_turn_to_turn_do_not_count() -> None:
    marked = block("hi", cache_control={"type": "ephemeral", "ttl": "5m"})
    assert chat(SYSTEM, marked) == chat(SYSTEM, block("hi"), *TURNS) == chat(SYSTEM, USER)


def test_white_space_does_not_count() -> None:
    body = {"model": "m", "messages": [SYSTEM, USER, *TURNS], "system": ["a", 1, True, None, {}]}
    assert conversation_key(json.dumps(body, indent=3).encode()) == conversation_key(orjson.dumps(body))


def test_the_order_of_a_messages_members_decides_nothing_about_where_the_beginning_ends() -> None:
    user = {"content": "hi", "role": "user"}
    assert chat(SYSTEM, user) == chat(SYSTEM, user, *TURNS)


def test_escapes_in_the_role_are_that_role() -> None:
    escaped = rb'{"messages":[{"r\u006fle":"us\u0065r","content":"hi"}%s]}'
    assert conversation_key(escaped % b"") == conversation_key(escaped % b',{"role":"user","content":"x"}')


def test_a_plain_prompt_counts_by_its_beginning() -> None:
    assert key(prompt="a" * 1024) == key(prompt="a" * 1024 + "b") != key(prompt="a" * 1023 + "b")
    assert key(input="a" * 1024) == key(input="a" * 1024 + "b") != key(input="ab")
    assert key(input=["one", "two"]) == key(input=["one", "three"]) != key(input=["two"])


def test_a_long_text_counts_by_its_beginning_and_its_size() -> None:
    long = "a" * 40_000
    assert chat(block(long)) == chat(block(long), *TURNS)
    assert chat(block(long)) != chat(block("b" + long[1:]))
    assert chat(block(long)) != chat(block(long + "a"))


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"{}", b"[]", b"null", b'"x"', b"\xff", b'{"model": "m"}', b'{"messages": []}', b'{"messages": null}',
        b'{"messages": 5}', b'{"prompt": ""}', b'{"system": {}}', b'{"messages": [{}]}', b'{"messages": [null]}',
        b'{"messages": [{"role": "user"}', b'{"messages": [{"role": "user"}]} x', b'{"messages": [{"role": "user"},]}',
        b'{"messages": ["a"], "x": tru}', b'{"messages": [' + b"[" * 100_000, b'{"prompt": "\xff"}', b'{"prompt": "\\x"}',
    ],
)  # fmt: skip
def test_a_body_with_nothing_to_go_by_has_no_key(body: bytes) -> None:
    assert conversation_key(body) == 0


def test_no_prefix_of_a_body_has_a_key() -> None:
    body = orjson.dumps(
        {"messages": [SYSTEM, USER, *TURNS], "system": [1, {"a": [True, None]}], "prompt": "x"}
    )
    assert [conversation_key(body[:size]) for size in range(len(body))] == [0] * len(body)
    assert conversation_key(body) != 0


def test_keys_are_spread_evenly_and_fit_63_bits() -> None:
    keys = [chat(SYSTEM, block(f"question {n}")) for n in range(20_000)]
    assert len(set(keys)) == len(keys)
    assert all(0 < value < 2**63 for value in keys)
    for shift in (0, 20, 40, 59):
        share = [0] * 8
        for value in keys:
            share[value >> shift & 7] += 1
        assert 2_200 < min(share) and max(share) < 2_800  # 2,500 ± 6 standard deviations


def test_nothing_has_no_number() -> None:
    assert affinity_of("") == affinity_of(b"") == 0


def test_a_name_has_the_same_number_in_every_process() -> None:
    assert affinity_of("ann") == affinity_of(b"ann") == 4188274168733672890


def test_names_that_differ_have_different_numbers() -> None:
    names = [f"user-{n}" for n in range(10_000)] + ["a\0", "a", "é", "\ud800"]
    numbers = {affinity_of(name) for name in names}
    assert len(numbers) == len(names)
    assert all(0 < number < 2**63 for number in numbers)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "cache_control", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
NAMES = ["messages", "input", "prompt", "system", "instructions", "model", "user"]


@given(st.binary(max_size=120))
def test_any_bytes_have_a_key_or_none(body: bytes) -> None:
    assert 0 <= conversation_key(body) < 2**63
    assert 0 <= affinity_of(body) < 2**63


@given(body=st.dictionaries(st.sampled_from(NAMES), JSON), junk=st.binary(min_size=1, max_size=3))
def test_a_key_does_not_depend_on_spelling_and_trailing_bytes_undo_it(
    body: dict[str, Any], junk: bytes
) -> None:
    plain = orjson.dumps(body)
    found = conversation_key(plain)
    assert found == conversation_key(orjson.dumps(body, option=orjson.OPT_INDENT_2))
    assert found == conversation_key(orjson.dumps(dict(reversed(body.items()))))
    if junk.strip(b" \t\r\n"):
        assert conversation_key(plain + junk) == 0


@given(first=st.lists(JSON, max_size=3), more=st.lists(JSON, max_size=4))
def test_whatever_follows_the_users_first_message_changes_nothing(first: list[Any], more: list[Any]) -> None:
    assert key(messages=[*first, USER]) == key(messages=[*first, USER, *more])
