"""What is charged for an answer that ends badly, tells too little, or is too large to be held."""

import json

import pytest
from wireclient import chat, exchange, post

ENDED = {"interval_s": 0.01, "events": 50, "text_bytes": 5000}
USAGE = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
DONE = b"[DONE]"
EVENT_BYTES = 500


def stream_of(*events: object) -> str:
    """Its text; all events are of one size."""
    datas = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f": {' ' * (EVENT_BYTES - len(data))}\ndata: {data}\n\n" for data in datas)


def told(*events: object) -> dict:
    """A mock's fault: this stream, event by event, over a connection that is kept."""
    pace = {"drip_bytes": EVENT_BYTES + len(": \ndata: \n\n"), "drip_s": "20ms"}
    return {"body": stream_of(*events), "content_type": "text/event-stream", **pace}


def said(text: str) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


ERROR = {"error": {"message": "Out of memory.", "type": "server_error", "param": None, "code": None}}


async def test_a_stream_without_its_end_is_charged_by_what_the_provider_reported(gateway):
    whole = await exchange(gateway.port, post(chat("nonce-beef", stream=True, mock=ENDED)))
    answer = await exchange(
        gateway.port, post(chat("nonce-beef", stream=True, mock=ENDED | {"no_done": True}))
    )
    assert (whole.is_whole, answer.is_whole) == (True, False)
    first, second = await gateway.log_lines(2)
    assert first["output_tokens"] > 1000
    assert (second["usage_source"], second["error_code"]) == ("reported", "upstream_error")
    same = ("output_tokens", "cost_usd")
    assert [second[name] for name in same] == [first[name] for name in same]


async def test_a_stream_that_ends_in_an_error_is_charged_by_what_was_relayed(gateway, far):
    await exchange(gateway.port, post(chat("nonce-beef", stream=True, mock=ENDED | {"error_event": 25})))
    line = await gateway.log_line()
    assert (line["usage_source"], line["error_code"]) == ("estimated", "upstream_error")
    assert 500 < line["output_tokens"] < 700  # 24 of 50 pieces of 5,000 bytes
    await exchange(gateway.port, post(chat()))
    assert len({arrival.connection for arrival in far.seen}) == 1, "the connection was kept"


async def test_a_stream_whatever_its_2xx_is_charged_and_our_usage_stays_here(gateway, far):
    far.script({"status": 201})
    answer = await exchange(gateway.port, post(chat("nonce-beef", stream=True)))
    line = await gateway.log_line()
    assert (answer.status, answer.events[-1]) == (201, DONE)
    assert b"usage" not in answer.body
    assert (line["usage_source"], line["output_tokens"] > 0) == ("reported", True)


@pytest.mark.parametrize("end", [(), ("[DONE]",), (ERROR, "[DONE]"), (said("more"), "[DONE]")])
async def test_an_error_within_a_stream_is_its_end_and_goes_out_once(gateway, far, end):
    far.script(told(said("12345678"), said("9"), ERROR, *end))
    answer = await exchange(gateway.port, post(chat(stream=True)))
    assert [json.loads(data) for data in answer.events] == [said("12345678"), said("9"), ERROR]
    assert not answer.is_whole
    line = await gateway.log_line()
    assert (line["status"], line["error_code"]) == (200, "upstream_error")
    assert (line["usage_source"], line["output_tokens"]) == ("estimated", 3)


async def test_a_response_that_failed_goes_out_as_it_is_and_counts_as_broken(gateway, far):
    usage = {"input_tokens": 5, "output_tokens": 7}
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error"}, "usage": usage}}
    created = {"type": "response.created", "response": {"usage": None}}
    before = gateway.metrics().total("llm_upstream_attempts_total", outcome="broken")
    far.script(told(created, failed))
    body = json.dumps({"model": "mock", "input": "hi", "stream": True}).encode()
    answer = await exchange(gateway.port, post(body, "/v1/responses"))
    assert [json.loads(data) for data in answer.events] == [created, failed]
    assert answer.is_whole, "that is how such a stream ends"
    line = await gateway.log_line()
    assert (line["error_code"], line["usage_source"]) == ("upstream_error", "reported")
    assert (line["input_tokens"], line["output_tokens"]) == (5, 7)
    assert gateway.metrics().total("llm_upstream_attempts_total", outcome="broken") == before + 1


WRONG = [
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, ("estimated", 100, 100)),
    ({"prompt_tokens": 12}, ("estimated", 12, 100)),
    ({"prompt_tokens": 0, "completion_tokens": 34}, ("estimated", 100, 34)),
    ({"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 500}, ("reported", 12, 488)),
    (USAGE, ("reported", 12, 34)),
]


@pytest.mark.parametrize(("usage", "expected"), WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("streams", [False, True])
async def test_a_report_that_cannot_be_true_is_completed(gateway, far, usage, expected, streams):
    if streams:
        far.script(told(said("a" * 400), {"choices": [], "usage": usage}, "[DONE]"))
    else:
        message = {"role": "assistant", "content": "a" * 400}
        far.script({"body": json.dumps({"choices": [{"message": message}], "usage": usage})})
    answer = await exchange(gateway.port, post(chat("x" * 400, stream=streams)))
    assert (answer.status, answer.is_whole) == (200, True)
    line = await gateway.log_line()
    source, read, written = expected
    assert (line["usage_source"], line["output_tokens"]) == (source, written)
    assert line["input_tokens"] == pytest.approx(read, abs=0 if read == 12 else 15)


async def test_a_reranking_that_tells_but_a_total_is_charged_for_it(odd_gateway, odd):
    answer = json.dumps({"results": [], "usage": {"total_tokens": 77}}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
    odd.replies = [head + answer]
    body = json.dumps({"model": "mock", "query": "q", "documents": ["d"]}).encode()
    await exchange(odd_gateway.port, post(body, "/v1/rerank"))
    line = await odd_gateway.log_line()
    assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == ("reported", 77, 0)


IMAGES = json.dumps(
    {"data": [{"b64_json": "x" * 1_300_000}], "usage": {"input_tokens": 5, "output_tokens": 272}}
)


@pytest.mark.parametrize("late", [0, 3, 200_000])
async def test_a_large_answer_is_charged_by_the_usage_at_its_end_however_late_that_comes(gateway, far, late):
    """On a route that does not cost tokens unless it says so; what was held is a part of what was relayed."""
    pieces = {"drip_bytes": len(IMAGES) - late, "drip_s": "50ms"} if late else {}
    far.script({"body": IMAGES, **pieces})
    body = json.dumps({"model": "mock", "prompt": "a cat"}).encode()
    answer = await exchange(gateway.port, post(body, "/v1/images/generations"))
    assert answer.body == IMAGES.encode()
    line = await gateway.log_line()
    assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == ("reported", 5, 272)


async def test_a_large_answer_without_a_report_is_charged_for_all_that_was_relayed(gateway, far):
    asked = chat(mock={"text_bytes": 1_500_000, "no_usage": True})
    answer = await exchange(gateway.port, post(asked))
    line = await gateway.log_line()
    assert (line["usage_source"], line["output_tokens"]) == ("estimated", -(-len(answer.body) // 4))
