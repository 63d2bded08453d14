"""A stream whose client did not ask for usage is, byte for byte, the stream of a provider that was not asked."""

import json
import re

import pytest
from wireclient import chat, exchange, post, post_chunked, wire_to

IDS = re.compile(rb'"id":"(?:chatcmpl|cmpl)-[0-9a-f]{8}"')  # the mock's: a digest of the body it got
SPELLINGS = [[], ["crlf"], ["cr"], ["comments"], ["bom"], ["nospace"], ["crlf", "comments", "bom"]]
SPLITS = [
    {},
    {"split_bytes": 1},
    {"split_bytes": 7},
    {"drip_bytes": 100},
    {"split_at": list(range(5, 1500, 13))},
]


def completion(**more: object) -> bytes:
    return json.dumps({"model": "mock", "prompt": "nonce-beef", "stream": True, **more}).encode()


COMMENTS = re.compile(rb": keep-alive(\r\n|\n|\r){2}")  # events of their own; one stood before the usage


def same(left: bytes, right: bytes) -> bool:
    plain_left, plain_right = [COMMENTS.sub(b"", IDS.sub(b"ID", body)) for body in (left, right)]
    return plain_left == plain_right


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("sse", SPELLINGS, ids=str)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_each_spelling_of_a_stream_is_left_as_it_is(gateway, far, path, sse, build):
    body = (
        chat("nonce-beef", stream=True, mock={"sse": sse})
        if "chat" in path
        else completion(mock={"sse": sse})
    )
    direct = await exchange(far.port, post(body, path))
    through = await exchange(gateway.port, build(body, path))
    assert same(through.body, direct.body)
    assert b"usage" not in through.body
    assert b": keep-alive" in through.body or "comments" not in sse
    assert (await gateway.log_line())["usage_source"] == "reported"


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: next(iter(split), "whole"))
async def test_however_it_is_cut_on_its_way(gateway, far, split):
    body = chat(
        "nonce-beef",
        stream=True,
        mock={"text": 'caf\u00e9 \U0001f600 "usage":null,\n\n data: [DONE] ', **split},
    )
    direct = await exchange(far.port, post(body))
    through = await exchange(gateway.port, post(body))
    assert same(through.body, direct.body)
    assert through.is_whole


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: next(iter(split), "whole"))
async def test_who_asks_for_usage_gets_exactly_what_the_provider_sends(gateway, far, split):
    body = chat("nonce-beef", stream=True, stream_options={"include_usage": True}, mock=split)
    direct = await exchange(far.port, post(body))
    through = await exchange(gateway.port, post(body))
    assert through.body == direct.body
    assert b'"prompt_tokens"' in through.body
    assert far.seen[-1].body == body


@pytest.mark.parametrize(
    "options",
    [{"include_usage": False}, {"include_usage": None}, {}, None, {"include_obfuscation": False}],
    ids=str,
)
async def test_options_that_do_not_ask_for_usage_do_not_bring_it(gateway, far, options):
    body = chat("nonce-beef", stream=True, stream_options=options)
    direct = await exchange(far.port, post(body))
    through = await exchange(gateway.port, post(body))
    assert same(through.body, direct.body)
    sent = json.loads(far.seen[-1].body)
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert {**sent, "stream_options": options} == json.loads(body)


async def test_a_request_that_needs_no_change_goes_on_byte_for_byte(gateway, far):
    bodies = [
        chat("nonce-beef"),
        b'{ "messages":[ {"role":"user","content":"\\u0041\\n"} ],\r\n "model" : "mock" , "x":1e5}',
        b'{"mod\\u0065l":"mock","messages":[{"role":"user","content":"x"}],"seed":12345678901234567890123}',
    ]
    for body in bodies:
        await exchange(gateway.port, post(body))
        await exchange(gateway.port, post_chunked(body))
    assert [arrival.body for arrival in far.seen] == [body for body in bodies for _ in range(2)]


@pytest.mark.parametrize("size", [100, 20_000, 400_000])
async def test_renaming_a_model_changes_nothing_but_its_name(gateway, far, size):
    body = (
        b'{"messages":[{"role":"user","content":"'
        + b"x" * size
        + b'"}],  "model" : "ren\\u0061med", "top_p": 1.0}'
    )
    answer = await exchange(gateway.port, post(body))
    assert answer.json["model"] == "its-real-name"
    expected = body.replace(b'"ren\\u0061med"', b'"its-real-name"')
    (arrival,) = far.seen
    assert arrival.body_bytes == len(expected)
    if size < 60_000:
        assert arrival.body == expected
    line = await gateway.log_line()
    assert (line["model_requested"], line["model_used"]) == ("renamed", "its-real-name")


async def test_a_rename_and_forced_usage_are_spliced_in_one_go(gateway, far):
    body = (
        b'{"stream":true,"model":"renamed","messages":[{"role":"user","content":"x"}],"stream_options":null}'
    )
    answer = await exchange(gateway.port, post(body))
    assert answer.is_whole
    assert json.loads(far.seen[0].body) == {
        "stream": True,
        "model": "its-real-name",
        "messages": [{"role": "user", "content": "x"}],
        "stream_options": {"include_usage": True},
    }


async def test_a_streams_first_event_does_not_wait_for_the_second(gateway):
    """Each event leaves as it comes: the first is here while the provider still thinks."""
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat(stream=True, mock={"events": 3, "stall": "events:1"})))
        answer = await wire.begun(10)
        assert answer.events[0].startswith(b'{"id"')
