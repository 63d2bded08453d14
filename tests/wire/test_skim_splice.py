"""A body goes upstream with another model or with usage asked for, and otherwise as it came."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from llmgw._wire.skim import skim, splice

OPTIONS: list[bytes | None] = [
    None,
    b"null",
    b"{}",
    b"{ }",
    b'{"include_usage":true}',
    b'{"include_usage": false }',
    b'{"a":[1], "include_usage" :null,"b":{}}',
    b'{"a":{"include_usage":false}}',
    rb'{ "includ\u0065_usage" : false}',
]
MODELS: list[bytes | None] = [None, b'"gpt"', rb'"g\u0070t"', '"é"'.encode()]
PADDINGS = [b"", b'"x": 1', b'"messages":[{"role":"user","content":"' + b"text " * 8000 + b'"}]']


def bodies() -> list[bytes]:
    made = []
    for model, options, padding in itertools.product(MODELS, OPTIONS, PADDINGS):
        members = [padding] if padding else []
        members += [b'"model" : ' + model] if model else []
        members += [b'"stream_options":' + options] if options else []
        made += [b"{" + b",".join(order) + b" } " for order in (members, members[::-1])]
    return made


def edited(body: bytes, model: str | None, force_usage: bool) -> Any:
    value = orjson.loads(body)
    if model is not None:
        value["model"] = model
    if force_usage:
        value["stream_options"] = {**(value.get("stream_options") or {}), "include_usage": True}
    return value


@pytest.mark.parametrize("force_usage", [False, True])
@pytest.mark.parametrize("model", [None, "gpt", 'new "name" \\', "é😀", "long" * 60])
def test_the_edit_is_the_same_as_on_the_parsed_object(model: str | None, force_usage: bool) -> None:
    for body in bodies():
        whole = b"".join(splice(body, skim(body), model, force_usage))
        assert orjson.loads(whole) == edited(body, model, force_usage)
        skim(whole)


def test_a_body_that_stays_as_it_is_is_the_same_object() -> None:
    for body in bodies():
        facts = skim(body)
        for model, force in ((None, False), (facts.model, facts.include_usage)):
            pieces = splice(body, facts, model, force)
            assert len(pieces) == 1
            assert pieces[0] is body


def test_nothing_but_the_edit_changes() -> None:
    body = b'{ "a":1e5,"model":"m" ,"b":"\\u0041",\t"stream_options" : {"x" : 1}\n}'
    assert b"".join(splice(body, skim(body), "n", True)) == (
        b'{ "a":1e5,"model":"n" ,"b":"\\u0041",\t"stream_options" : {"x" : 1,"include_usage":true}\n}'
    )


def test_a_long_body_is_not_copied() -> None:
    body = b'{"model":"m","messages":"' + b"x" * 400_000 + b'"}'
    pieces = splice(body, skim(body), "n", True)
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < 100
    assert all(piece.obj is body for piece in pieces if isinstance(piece, memoryview))


def test_facts_are_needed() -> None:
    with pytest.raises((TypeError, AttributeError)):
        splice(b"{}", None, "m", True)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        splice(None, skim(b'{"model":"a"}'), "m", True)  # type: ignore[arg-type]
