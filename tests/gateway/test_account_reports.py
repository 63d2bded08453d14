"""What a provider reports is believed only where it can be true; what it says last counts."""

import json

import pytest
from gatewayrig import Gateway
from wireclient import chat, exchange, post

CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "mock"}


def whole(usage: str) -> bytes:
    body = b'{"id":"x","choices":[{"message":{"content":"four score"}}],"usage":%b}' % usage.encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def streamed(*events: bytes) -> bytes:
    body = b"".join(b"data: %b\n\n" % event for event in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def chunk(text: str = "", **members: object) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return json.dumps(CHUNK | {"choices": choices} | members).encode()


NONSENSE = [
    "null",
    "{}",
    "[]",
    '"many"',
    '{"prompt_tokens":-5,"completion_tokens":2}',
    '{"prompt_tokens":"5","completion_tokens":2}',
    '{"prompt_tokens":5.5,"completion_tokens":2}',
    '{"prompt_tokens":true,"completion_tokens":2}',
    '{"prompt_tokens":1e30,"completion_tokens":2}',
    '{"prompt_tokens":99999999999999999999999999,"completion_tokens":2}',
    '{"prompt_tokens":5,"completion_tokens":-1}',
    '{"prompt_tokens":5,"completion_tokens":null}',
]


async def test_a_report_that_cannot_be_true_is_replaced_by_an_estimate(odd_gateway, odd):
    for usage in NONSENSE:
        odd.replies = [whole(usage)]
        answer = await exchange(odd_gateway.port, post(chat()))
        assert answer.status == 200
        line = await odd_gateway.log_line(answer.header("x-request-id"))
        assert line["usage_source"] == "estimated", usage
        assert 0 < line["input_tokens"] < 100, usage
        assert line["output_tokens"] == 3, usage  # "four score"
        assert 0 < line["cost_usd"] < 0.001, usage


BELIEVED = [
    ('{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}', (5, 2, 0)),
    ('{"completion_tokens":2,"prompt_tokens":5,"prompt_tokens_details":null}', (5, 2, 0)),
    ('{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}', (5, 2, 4)),
    ('{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":-4}}', (5, 2, 0)),
    ('{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":"4"}}', (5, 2, 0)),
    ('{"input_tokens":5,"output_tokens":2,"input_tokens_details":{"cached_tokens":1}}', (5, 2, 1)),
]


async def test_a_report_that_can_be_true_is_taken_as_it_stands(odd_gateway, odd):
    for usage, expected in BELIEVED:
        odd.replies = [whole(usage)]
        answer = await exchange(odd_gateway.port, post(chat()))
        line = await odd_gateway.log_line(answer.header("x-request-id"))
        assert line["usage_source"] == "reported", usage
        assert (line["input_tokens"], line["output_tokens"], line["cached_tokens"]) == expected, usage


async def test_more_cached_tokens_than_input_make_nothing_cheaper_than_the_input(odd_gateway, odd):
    odd.replies = [
        whole('{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":900}}')
    ]
    answer = await exchange(odd_gateway.port, post(chat()))
    line = await odd_gateway.log_line(answer.header("x-request-id"))
    assert line["cached_tokens"] == 10
    assert line["cost_usd"] == 0.000007  # ten cached at 0.5, one written at 2


async def test_usage_in_every_chunk_counts_once_and_the_last_is_it(odd_gateway, odd):
    events = [chunk("a", usage={"prompt_tokens": 7, "completion_tokens": number}) for number in (1, 2, 3)]
    odd.replies = [streamed(*events, b"[DONE]")]
    answer = await exchange(odd_gateway.port, post(chat(stream=True)))
    assert answer.text == "aaa"
    line = await odd_gateway.log_line()
    assert (line["input_tokens"], line["output_tokens"], line["usage_source"]) == (7, 3, "reported")


async def test_an_event_without_choices_that_brings_no_usage_is_passed_on(odd_gateway, odd):
    """Azure's first one: what its filter thought of the prompt."""
    first = json.dumps(CHUNK | {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}).encode()
    report = json.dumps(
        CHUNK | {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    ).encode()
    odd.replies = [streamed(first, chunk("a"), report, b"[DONE]")]
    answer = await exchange(odd_gateway.port, post(chat(stream=True)))
    assert answer.events == [first, chunk("a"), b"[DONE]"]
    assert (await odd_gateway.log_line())["input_tokens"] == 7


async def test_what_stands_behind_the_end_of_a_stream_is_not_passed_on(odd_gateway, odd):
    odd.replies = [streamed(chunk("a"), b"[DONE]", chunk("more"), b"[DONE]")]
    answer = await exchange(odd_gateway.port, post(chat(stream=True)))
    assert answer.events == [chunk("a"), b"[DONE]"]
    assert answer.is_whole


async def test_an_end_without_its_blank_line_is_an_end(odd_gateway, odd):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    odd.replies = [head + b"data: " + chunk("a") + b"\n\ndata: [DONE]" + odd.END]
    answer = await exchange(odd_gateway.port, post(chat(stream=True)))
    assert [event.strip() for event in answer.events] == [chunk("a"), b"[DONE]"]
    assert answer.is_whole
    assert (await odd_gateway.log_line())["error_code"] is None


async def test_a_report_in_a_failed_request_is_not_charged(odd_gateway, odd):
    body = b'{"error":{"message":"no"},"usage":{"prompt_tokens":5,"completion_tokens":2}}'
    odd.replies = [
        b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    ]
    answer = await exchange(odd_gateway.port, post(chat()))
    assert (answer.status, answer.body) == (400, body)
    assert (await odd_gateway.log_line())["cost_usd"] is None


@pytest.mark.parametrize(
    ("method", "tokens"), [("POST", 7), ("PUT", 7), ("PATCH", 7), ("DELETE", 0), ("GET", 0)]
)
async def test_what_makes_something_is_charged_and_what_fetches_or_removes_is_not(
    odd_gateway, odd, method, tokens
):
    odd.replies = [whole('{"prompt_tokens":5,"completion_tokens":2}')]
    request = post(chat(), "/v1/moderations").replace(b"POST", method.encode(), 1)
    assert (await exchange(odd_gateway.port, request)).status == 200
    line = await odd_gateway.log_line()
    assert line["input_tokens"] + line["output_tokens"] == tokens
    assert line["cost_usd"] == (0.000009 if tokens else None)


async def test_what_is_learned_of_an_answers_length_is_one_choices(odd_gateway: Gateway, odd):
    """Of four choices with 8,000 tokens together each has 2,000."""
    asked = chat(model="gpt-never-asked", n=4)
    odd.replies = [whole('{"prompt_tokens":5,"completion_tokens":8000}')]
    assert (await exchange(odd_gateway.port, post(asked))).status == 200
    question = {"tenant": "acme", "key": "web", "body": json.loads(asked)}
    request = post(json.dumps(question).encode(), "/admin/explain", key=None)
    answer = await exchange(odd_gateway.admin_port, request.replace(b"gateway.test", b"127.0.0.1"))
    assert 8_000 <= answer.json["estimate"]["output_tokens"] <= 4 * 2_500
