"""The skimmer against orjson: 50,000 generated bodies, and whatever Hypothesis thinks of."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from corpus_json import Bodies, facts_of, judge
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw._wire.skim import Skim, SkimError, skim, skim_answer, splice

# Where skim is narrower than the judge on purpose: docs/wire.md.
NARROWER = re.compile("nested too deeply|number too large")
RUNS = 10
BODIES_A_RUN = 5_000


def facts(skimmed: Skim, names: Any) -> dict[str, Any]:
    return {name: getattr(skimmed, name) for name in names}


def try_skim(body: bytes) -> Skim | SkimError:
    try:
        return skim(body)
    except SkimError as error:
        return error


@pytest.mark.parametrize("seed", range(RUNS))
def test_skim_accepts_what_the_judge_accepts_and_reads_the_same_facts(seed: int) -> None:
    bodies = Bodies(seed)
    accepted = 0
    for _ in range(BODIES_A_RUN):
        body = bodies.body()
        skimmed, expected = try_skim(body), judge(body)
        if isinstance(skimmed, SkimError):
            assert expected is None or NARROWER.search(skimmed.message), (body, skimmed)
        else:
            assert expected is not None, body
            assert facts(skimmed, expected) == expected, body
            accepted += 1
    assert BODIES_A_RUN // 4 < accepted < BODIES_A_RUN * 3 // 4


@pytest.mark.parametrize("seed", range(100, 103))
def test_spans_and_splices_of_generated_bodies_are_what_orjson_reads(seed: int) -> None:
    bodies = Bodies(seed)
    for _ in range(3_000):
        body = bodies.body()
        skimmed = try_skim(body)
        if isinstance(skimmed, Skim):
            value = orjson.loads(body)
            if skimmed.model is not None:
                assert orjson.loads(body[skimmed.model_start : skimmed.model_end]) == value["model"]
            if skimmed.stream_options_start >= 0:
                span = body[skimmed.stream_options_start : skimmed.stream_options_end]
                assert orjson.loads(span) == value["stream_options"]
            assert body[skimmed.close_at :].strip(b" \t\r\n") == b"}"
            pieces = splice(body, skimmed, 'o"ther', True)
            value["model"] = 'o"ther'
            value["stream_options"] = {**(value.get("stream_options") or {}), "include_usage": True}
            assert orjson.loads(b"".join(pieces)) == value


@pytest.mark.parametrize("seed", range(200, 203))
def test_an_answer_is_json_exactly_where_orjson_says_so(seed: int) -> None:
    bodies = Bodies(seed)
    for _ in range(3_000):
        body = bodies.body()
        try:
            orjson.loads(body)
            expected = True
        except orjson.JSONDecodeError:
            expected = False
        if skim_answer(body).is_json != expected:
            assert expected, body
            with pytest.raises(SkimError, match=NARROWER):
                skim(b'{"x":' + body + b"}")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(-1e307, 1e307)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 2]), st.booleans())
def test_no_json_value_is_refused_as_a_message(value: Any, indent: int | None, ascii_only: bool) -> None:
    try:
        body = json.dumps({"messages": value}, indent=indent, ensure_ascii=ascii_only).encode()
        orjson.loads(body)
    except (UnicodeEncodeError, orjson.JSONDecodeError):
        return
    start = body.index(b":") + 2
    assert skim(body).prompt_bytes == len(body[start:-1].rstrip())


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_in_a_string_pass_that_orjson_refuses(text: bytes) -> None:
    body = b'{"prompt":"' + text + b'"}'
    try:
        expected = facts_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        expected = None
    skimmed = try_skim(body)
    if isinstance(skimmed, Skim):
        assert expected is not None
    else:
        assert expected is None or judge(body) is None
