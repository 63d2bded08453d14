"""Which bytes of a request an estimate is made of."""

from __future__ import annotations

import json

import pytest

from llmgw._wire.skim import SkimError, skim

IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
FLAT_BYTES = 4000


def prompt_bytes(**members: object) -> int:
    return skim(json.dumps({"model": "m", **members}).encode()).prompt_bytes


def chat(part: object) -> list[object]:
    return [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]


def frame_bytes(value: object) -> int:
    """Of a prompt with IMAGE in it: all but the image."""
    return len(json.dumps(value)) - len(json.dumps(IMAGE))


@pytest.mark.parametrize(
    "key",
    ["tools", "functions", "system", "instructions", "response_format", "prediction", "documents", "query"],
)
def test_whatever_the_model_reads_counts(key):
    value = [{"text": "long " * 100}]
    assert prompt_bytes(input="hi", **{key: value}) == len('"hi"') + len(json.dumps(value))
    assert prompt_bytes(input="hi", **{key: None}) == len('"hi"')
    assert prompt_bytes(input="hi", **{key: "text"}) == len('"hi""text"')


def test_a_further_prompt_given_twice_counts_twice():
    assert skim(b'{"system":"abc","system":"defg"}').prompt_bytes == len('"abc""defg"')


def test_what_the_model_does_not_read_counts_nothing():
    assert prompt_bytes(metadata={"a": "b" * 1000}, temperature=0.5, stop=["x" * 1000]) == 0


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}},
        {"type": "input_image", "image_url": IMAGE},
    ],
)
def test_an_inline_image_counts_flat_however_large(part):
    prompt = chat(part)
    assert prompt_bytes(messages=prompt) == frame_bytes(prompt) + FLAT_BYTES
    assert prompt_bytes(input=prompt) == frame_bytes(prompt) + FLAT_BYTES
    assert prompt_bytes(messages=[prompt, prompt]) == 2 * (frame_bytes(prompt) + FLAT_BYTES) + len("[, ]")


def test_an_image_with_escapes_counts_flat_too():
    body = b'{"messages":[{"url" : "data:image\\/png;base64,' + b"A\\/B" * 5000 + b'"}]}'
    assert skim(body).prompt_bytes == len(b'[{"url" : }]') + FLAT_BYTES


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": IMAGE},
        {"type": "image_url", "image_url": {"url": "data:application/pdf" + IMAGE}},
        {"type": "text", "text": '{"url":"' + IMAGE + '"}'},
        {"type": "image_url", "image_url": {"url": [IMAGE]}},
    ],
)
def test_the_same_bytes_as_text_count_one_and_all(part):
    prompt = chat(part)
    assert prompt_bytes(messages=prompt) == len(json.dumps(prompt))


def test_an_image_among_tool_definitions_is_text():
    tools = [{"function": {"parameters": {"url": IMAGE}}}]
    assert prompt_bytes(tools=tools) == len(json.dumps(tools))


def test_a_small_image_counts_as_it_is():
    prompt = chat({"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAAAAACw="}})
    assert prompt_bytes(messages=prompt) == len(json.dumps(prompt))


def test_a_body_cut_short_in_an_image_is_refused_wherever_it_ends():
    body = b'{"messages":[{"image_url":{"url":"data:image/png;base64,' + b"A" * 4100 + b'"}}]}'
    assert skim(body).prompt_bytes == len(b'[{"image_url":{"url":}}]') + FLAT_BYTES
    for stop in [*range(60), *range(len(body) - 60, len(body))]:
        with pytest.raises(SkimError):
            skim(body[:stop])
