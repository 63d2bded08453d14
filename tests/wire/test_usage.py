"""What a usage object tells of tokens, and what is estimated where it tells too little."""

from __future__ import annotations

import json

import pytest

from llmgw._wire.usage import Usage, completed_usage, estimated_usage, reported_usage


def counts(usage: Usage | None) -> tuple[int, int, int] | None:
    return usage and (usage.input_tokens, usage.output_tokens, usage.cached_tokens)


def told(**members: object) -> bytes:
    return json.dumps(members).encode()


DETAILS = {"cached_tokens": 9}
HUGE = 1 << 40


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (told(prompt_tokens=3, completion_tokens=2, total_tokens=5), (3, 2, 0)),
        (told(input_tokens=3, output_tokens=2, input_tokens_details={"cached_tokens": 1}), (3, 2, 1)),
        (told(prompt_tokens=3, completion_tokens=1, total_tokens=500), (3, 497, 0)),
        (told(prompt_tokens=3, completion_tokens=2, total_tokens=1), (3, 2, 0)),
        (told(prompt_tokens=HUGE, completion_tokens=HUGE, total_tokens=HUGE), (HUGE, HUGE, 0)),
        (told(prompt_tokens=3, completion_tokens=2, total_tokens=1 << 70), (3, 2, 0)),
        (told(prompt_tokens=3, completion_tokens=None), (3, 0, 0)),
        (told(prompt_tokens=3, total_tokens=3), (3, 0, 0)),
        (told(total_tokens=7), (7, 0, 0)),
        (told(completion_tokens=4), (0, 4, 0)),
        (told(prompt_tokens=3, prompt_tokens_details=DETAILS), (3, 0, 3)),
        (told(prompt_tokens=3, prompt_tokens_details=None), (3, 0, 0)),
        (told(prompt_tokens=3, completion_tokens=-1), None),
        (told(prompt_tokens="3", completion_tokens=1), None),
        (told(prompt_tokens=1.5), None),
        (told(prompt_tokens=HUGE + 1), None),
        (told(prompt_tokens=3, completion_tokens=1)[:-1], None),
        (told(), None),
        (b"null", None),
    ],
)
def test_a_reported_usage(raw: bytes, expected: tuple[int, int, int] | None) -> None:
    usage = reported_usage(raw)
    assert counts(usage) == expected
    assert usage is None or not usage.is_estimated


CACHE = {"cache_creation_input_tokens": 20, "cache_read_input_tokens": 300}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, {"input_tokens": 4, **CACHE, "output_tokens": 5}, (324, 5, 300)),
        ({"input_tokens": 4, **CACHE, "output_tokens": 1}, {"output_tokens": 5}, (324, 5, 300)),
        (
            {"input_tokens": 4, "output_tokens": 1},
            {"input_tokens": 6, **CACHE, "output_tokens": 5},
            (326, 5, 300),
        ),
        ({"input_tokens": 4, **CACHE}, {"input_tokens": None, "output_tokens": 5}, (324, 5, 300)),
        ({"input_tokens": 4, **CACHE, "output_tokens": 1}, None, (324, 0, 300)),
        (None, {"prompt_tokens": 400, "completion_tokens": 5, **CACHE}, (400, 5, 300)),
    ],
)
def test_caches_count_as_input_where_they_stand_beside_it_and_a_later_report_holds(
    first: dict[str, int] | None, last: dict[str, int] | None, expected: tuple[int, int, int]
) -> None:
    usage = reported_usage(*(one and told(**one) for one in (last, first)))
    assert counts(usage) == expected


@pytest.mark.parametrize(
    ("reported", "prompt_bytes", "text_bytes", "expected"),
    [
        (Usage(3, 2, 1), 400, 800, Usage(3, 2, 1)),
        (Usage(0, 0), 400, 800, Usage(100, 200, 0, True)),
        (Usage(3, 0, 1), 400, 1, Usage(3, 1, 1, True)),
        (Usage(0, 2), 1, 800, Usage(1, 2, 0, True)),
        (Usage(3, 0), 400, 0, Usage(3, 0)),
        (Usage(0, 0), 0, 0, Usage(0, 0)),
        (None, 400, 800, estimated_usage(400, 800)),
    ],
)
def test_what_cannot_have_been_nothing_is_estimated(
    reported: Usage | None, prompt_bytes: int, text_bytes: int, expected: Usage
) -> None:
    assert repr(completed_usage(reported, prompt_bytes, text_bytes)) == repr(expected)
