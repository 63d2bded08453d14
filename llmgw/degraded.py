"""The answer of last resort: what a model's operator wants to be said when nobody is left to answer.

It has the shape of the route that was asked, whole or as its stream, and costs nothing. There is
always one choice, whatever `n` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import time
from typing import Any, Final

import orjson

from llmgw._core.ask import Ask, Permit
from llmgw._wire.call import Call
from llmgw._wire.lines import reply_lines
from llmgw._wire.skim import Skim
from llmgw.upstream.heads import route_line, shown_trail

Json = dict[str, Any]

CODE: Final = "degraded"  # in the log, beside the status 200
DONE: Final = b"data: [DONE]\n\n"
ORIGIN: Final = b"content-type: %b\r\nserver: llmgw\r\nx-llmgw-degraded: true\r\nx-llmgw-cache: bypass\r\n"
NO_TOKENS: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
NO_RESPONSE_TOKENS: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def maybe_answer(call: Call, facts: Skim | None, permit: Permit) -> bytes | None:
    """The answer's body; None where the model has none, or the route no shape for one."""
    model = permit.plan.model
    shapes = SHAPES.get(call.route.name)
    if model is None or model.degraded is None or shapes is None:
        return None
    whole, streamed = shapes
    if not call.stream:
        return orjson.dumps(whole(call, model.degraded.message))
    return b"".join(streamed(call, model.degraded.message, facts is not None and facts.include_usage))


def head(call: Call, ask: Ask) -> bytes:
    """No provider and no model: none of them served."""
    call.trail = shown_trail(ask.trail or [])
    origin = ORIGIN % (
        b"text/event-stream\r\ncache-control: no-cache" if call.stream else b"application/json"
    )
    if call.trail:
        origin += route_line(call)
    return reply_lines(origin + b"x-llmgw-cost-usd: 0.000000\r\n", call)


def chat(call: Call, message: str) -> Json:
    said = {"role": "assistant", "content": message, "refusal": None}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
    return {**frame(call, "chatcmpl", "chat.completion"), "choices": [choice], "usage": NO_TOKENS}


def chat_events(call: Call, message: str, include_usage: bool) -> Iterator[bytes]:
    start = frame(call, "chatcmpl", "chat.completion.chunk")
    deltas: Iterable[tuple[Json, str | None]] = (
        ({"role": "assistant", "content": ""}, None),
        ({"content": message}, None),
        ({}, "stop"),
    )
    choices = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish} for delta, finish in deltas
    ]
    return chunks(start, choices, include_usage)


def completion(call: Call, message: str) -> Json:
    choice = {"index": 0, "text": message, "logprobs": None, "finish_reason": "stop"}
    return {**frame(call, "cmpl", "text_completion"), "choices": [choice], "usage": NO_TOKENS}


def completion_events(call: Call, message: str, include_usage: bool) -> Iterator[bytes]:
    choices: list[Json] = [
        {"index": 0, "text": message, "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"},
    ]
    return chunks(frame(call, "cmpl", "text_completion"), choices, include_usage)


def chunks(start: Json, choices: Iterable[Json], include_usage: bool) -> Iterator[bytes]:
    end = {"usage": None} if include_usage else {}
    for choice in choices:
        yield data({**start, "choices": [choice], **end})
    if include_usage:
        yield data({**start, "choices": [], "usage": NO_TOKENS})
    yield DONE


def response(call: Call, message: str) -> Json:
    return {
        "id": f"resp_{call.request_id}",
        "object": "response",
        "created_at": int(time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": call.model_requested,
        "output": [output_item(call, "completed", [output_part(message)])],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": NO_RESPONSE_TOKENS,
    }


def response_events(call: Call, message: str, include_usage: bool) -> Iterator[bytes]:
    """In the documented order; the last one has the whole response."""
    done = response(call, message)
    started = {**done, "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": done["output"][0]["id"], "output_index": 0, "content_index": 0}
    item = {"output_index": 0}
    events: tuple[tuple[str, Json], ...] = (
        ("response.created", {"response": started}),
        ("response.in_progress", {"response": started}),
        ("response.output_item.added", {**item, "item": output_item(call, "in_progress", [])}),
        ("response.content_part.added", {**place, "part": output_part("")}),
        ("response.output_text.delta", {**place, "delta": message, "logprobs": []}),
        ("response.output_text.done", {**place, "text": message, "logprobs": []}),
        ("response.content_part.done", {**place, "part": output_part(message)}),
        ("response.output_item.done", {**item, "item": done["output"][0]}),
        ("response.completed", {"response": done}),
    )
    for number, (kind, members) in enumerate(events):
        yield b"event: %b\n" % kind.encode() + data({"type": kind, "sequence_number": number, **members})


def output_item(call: Call, status: str, content: list[Json]) -> Json:
    return {
        "id": f"msg_{call.request_id}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def output_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def frame(call: Call, prefix: str, kind: str) -> Json:
    return {
        "id": f"{prefix}-{call.request_id}",
        "object": kind,
        "created": int(time()),
        "model": call.model_requested,
    }


def data(event: Json) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(event)


Whole = Callable[[Call, str], Json]
Streamed = Callable[[Call, str, bool], Iterator[bytes]]
SHAPES: Final[dict[str, tuple[Whole, Streamed]]] = {
    "chat": (chat, chat_events),
    "completions": (completion, completion_events),
    "responses": (response, response_events),
}
