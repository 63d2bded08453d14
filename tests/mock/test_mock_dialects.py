"""Anthropic's and Gemini's shapes, by their published examples."""

import json

import pytest
from mock_raw import exchange, post

ASK = [{"role": "user", "content": "nonce-ab"}]


def claude(path: str = "/v1/messages", **members) -> bytes:
    body = json.dumps({"model": "claude", "max_tokens": 1024, "messages": ASK, **members}).encode()
    return post(path, body).replace(b"authorization: Bearer", b"x-api-key:")


def gemini(action: str, **members) -> bytes:
    body = json.dumps({"contents": [{"parts": [{"text": "nonce-ab"}]}], **members}).encode()
    return post(f"/v1beta/models/gem:{action}", body).replace(b"authorization: Bearer", b"x-goog-api-key:")


def named_events(body: bytes) -> list[tuple[str, dict]]:
    blocks = [block.split(b"\n") for block in body.split(b"\n\n") if block]
    return [(name.removeprefix(b"event: ").decode(), json.loads(data[6:])) for name, data in blocks]


async def test_a_message(mock):
    answer = json.loads((await exchange(mock.port, claude(system="abcd"))).body)
    assert answer["content"][0]["text"].startswith("nonce-ab ")
    assert (answer["type"], answer["stop_reason"], answer["usage"]["input_tokens"]) == (
        "message",
        "end_turn",
        3,
    )


async def test_a_message_stream_has_anthropics_events_in_their_order(mock):
    found = named_events((await exchange(mock.port, claude(stream=True, mock={"events": 3}))).body)
    assert [name for name, _ in found] == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in found)
    text = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
    assert text.startswith("nonce-ab ")
    assert found[-2][1]["usage"]["output_tokens"] > 0


async def test_a_message_without_max_tokens_is_refused_in_anthropics_shape(mock):
    seen = await exchange(mock.port, claude(max_tokens=None))
    assert seen.status == 400
    assert json.loads(seen.body)["error"]["type"] == "invalid_request_error"
    assert json.loads(seen.body)["type"] == "error"


async def test_max_tokens_shows_as_the_stop_reason(mock):
    answer = json.loads((await exchange(mock.port, claude(max_tokens=4))).body)
    assert answer["stop_reason"] == "max_tokens"
    assert answer["usage"]["output_tokens"] == 4


async def test_tokens_are_counted_without_an_answer(mock):
    seen = await exchange(mock.port, claude("/v1/messages/count_tokens"))
    assert json.loads(seen.body) == {"input_tokens": 2}


@pytest.mark.parametrize(("status", "kind"), [(529, "overloaded_error"), (429, "rate_limit_error")])
async def test_anthropics_error_types(mock, status, kind):
    seen = await exchange(mock.port, claude(mock={"status": status}))
    assert json.loads(seen.body)["error"]["type"] == kind


async def test_an_error_event_is_named_error(mock):
    found = named_events((await exchange(mock.port, claude(stream=True, mock={"error_event": 2}))).body)
    assert (found[-1][0], found[-1][1]["type"]) == ("error", "error")


async def test_without_its_terminal_event_a_message_stream_lacks_message_stop(mock):
    found = named_events((await exchange(mock.port, claude(stream=True, mock={"no_done": True}))).body)
    assert found[-1][0] == "message_delta"


async def test_gemini_whole(mock):
    answer = json.loads((await exchange(mock.port, gemini("generateContent"))).body)
    (candidate,) = answer["candidates"]
    assert candidate["content"]["parts"][0]["text"].startswith("nonce-ab ")
    assert (candidate["finishReason"], answer["modelVersion"]) == ("STOP", "gem")
    assert answer["usageMetadata"]["promptTokenCount"] == 2


async def test_gemini_streamed_ends_in_a_finish_reason_and_usage(mock):
    seen = await exchange(mock.port, gemini("streamGenerateContent?alt=sse", mock={"events": 3}))
    data = [json.loads(block[6:]) for block in seen.body.split(b"\n\n") if block]
    assert len(data) == 4
    assert all("usageMetadata" not in part for part in data[:-1])
    assert data[-1]["candidates"][0]["finishReason"] == "STOP"
    assert data[-1]["usageMetadata"]["candidatesTokenCount"] > 0


async def test_gemini_errors_have_googles_shape(mock):
    seen = await exchange(mock.port, gemini("generateContent", mock={"status": 429}))
    assert json.loads(seen.body)["error"]["status"] == "RESOURCE_EXHAUSTED"
