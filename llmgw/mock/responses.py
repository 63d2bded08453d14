"""OpenAI's /v1/responses, whole and as its typed events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmgw.mock.answer import Answer, Event, json_answer, stream_answer
from llmgw.mock.chat import CREATED
from llmgw.mock.fault import Fault
from llmgw.mock.request import Request
from llmgw.mock.text import Text, compose, escaped_pieces, prompt_size, to_tokens


def responses(request: Request, fault: Fault) -> Answer:
    prompt = request.required("input", (str, list))
    text = compose(request.body, fault, request.json.get("max_output_tokens"))
    done = _completed(request, prompt, text, fault)
    if request.json.get("stream"):
        return stream_answer(_events(done, text))
    return json_answer(done)


def _completed(request: Request, prompt: Any, text: Text, fault: Fault) -> dict[str, Any]:
    prompt_tokens = to_tokens(prompt_size(prompt) + prompt_size(request.json.get("instructions")))
    usage = {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": min(prompt_tokens, fault.cached_tokens)},
        "output_tokens": text.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + text.tokens,
    }
    return {
        "id": f"resp_{request.digest:08x}",
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if text.is_cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if text.is_cut else None,
        "instructions": request.json.get("instructions"),
        "metadata": {},
        "model": request.model,
        "output": [_message(request.digest, "completed", [_part(text.whole)])],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if fault.no_usage else usage,
    }


def _events(done: dict[str, Any], text: Text) -> Iterator[Event]:
    """The documented order; the last one, `response.completed` (or `.incomplete`), carries usage."""
    message = done["output"][0]
    item = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    started = {**done, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    opened = {**message, "status": "in_progress", "content": []}
    number = iter(range(1 << 62))

    def event(kind: str, terminal: bool = False, **members: Any) -> Event:
        body = {"type": kind, "sequence_number": next(number), **members}
        return Event(orjson.dumps(body), kind, terminal)

    yield event("response.created", response=started)
    yield event("response.in_progress", response=started)
    yield event("response.output_item.added", output_index=0, item=opened)
    yield event("response.content_part.added", **item, part=_part(""))
    for piece in escaped_pieces(text):
        delta = orjson.Fragment(piece)
        yield event("response.output_text.delta", **item, delta=delta, logprobs=[])
    yield event("response.output_text.done", **item, text=text.whole, logprobs=[])
    yield event("response.content_part.done", **item, part=message["content"][0])
    yield event("response.output_item.done", output_index=0, item=message)
    yield event(f"response.{done['status']}", terminal=True, response=done)


def _message(digest: int, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{digest:08x}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
