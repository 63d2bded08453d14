"""Anthropic's /v1/messages and its token count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmgw.mock.answer import Answer, Event, json_answer, stream_answer
from llmgw.mock.fault import Fault
from llmgw.mock.request import Request
from llmgw.mock.text import Text, compose, escaped_pieces, prompt_size, to_tokens


def messages(request: Request, fault: Fault) -> Answer:
    request.required("messages", list)
    limit = request.required("max_tokens", int)
    text = compose(request.body, fault, limit)
    reason = "max_tokens" if text.is_cut else "end_turn"
    message = {
        "id": f"msg_{request.digest:08x}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [{"type": "text", "text": text.whole}],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": _input_tokens(request) - fault.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": fault.cached_tokens,
            "output_tokens": text.tokens,
        },
    }
    if fault.no_usage:
        message["usage"] = None
    if request.json.get("stream"):
        return stream_answer(_events(message, text))
    return json_answer(message)


def count_tokens(request: Request, _fault: Fault) -> Answer:
    request.required("messages", list)
    return json_answer({"input_tokens": _input_tokens(request)})


def _input_tokens(request: Request) -> int:
    return to_tokens(prompt_size(request.json["messages"]) + prompt_size(request.json.get("system")))


def _events(message: dict[str, Any], text: Text) -> Iterator[Event]:
    usage = message["usage"]
    first_usage = usage and {**usage, "output_tokens": 1}
    opened = {**message, "content": [], "stop_reason": None, "usage": first_usage}
    yield _event("message_start", message=opened)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for piece in escaped_pieces(text):
        delta = {"type": "text_delta", "text": orjson.Fragment(piece)}
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    total = usage and {"output_tokens": usage["output_tokens"]}
    yield _event("message_delta", delta=stop, usage=total)
    yield _event("message_stop", terminal=True)


def _event(kind: str, *, terminal: bool = False, **members: Any) -> Event:
    return Event(orjson.dumps({"type": kind, **members}), kind, terminal)
