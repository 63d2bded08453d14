"""Answers that are larger than what is held back of one, and what can still be known of them."""

import json

import pytest
from wireclient import chat, exchange, post


def stream_of(*events: bytes) -> bytes:
    body = b"".join(b"data: %b\n\n" % event for event in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/images/generations"])
async def test_an_event_may_hold_an_image(odd_gateway, odd, path, size):
    """OpenAI's image streams carry whole PNGs in base64 in one event, and the last one repeats them."""
    image = "A" * size
    partial = json.dumps({"type": "response.image_generation_call.partial_image", "partial_image_b64": image})
    usage = {"input_tokens": 5, "output_tokens": 7}
    last = {
        "type": "response.completed",
        "response": {"output": [{"result": image}], "usage": usage},
        "usage": usage,
    }
    events = [partial.encode(), json.dumps(last).encode()]
    odd.replies = [stream_of(*events)]
    body = {"model": "mock", "stream": True, "input": "draw", "prompt": "draw"}
    answer = await exchange(odd_gateway.port, post(json.dumps(body).encode(), path))
    assert answer.events == events
    assert answer.is_whole
    line = await odd_gateway.log_line()
    assert (line["input_tokens"], line["output_tokens"], line["error_code"]) == (5, 7, None)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_page_of_html_is_no_answer_however_long_it_is(odd_gateway, odd, size, streams):
    page = b"<html>" + b"x" * size
    odd.replies = [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(page) + page
    ]
    answer = await exchange(odd_gateway.port, post(chat(stream=streams)))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
