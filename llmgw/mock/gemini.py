"""Gemini's generateContent and streamGenerateContent (as server-sent events)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmgw.mock.answer import Answer, Event, Refusal, json_answer, stream_answer
from llmgw.mock.fault import Fault
from llmgw.mock.request import Request
from llmgw.mock.text import Text, compose, escaped_pieces, prompt_size, to_tokens


def generate(request: Request, fault: Fault) -> Answer:
    text = _text(request, fault)
    return json_answer({**_candidate(request, text.whole, _finish(text)), **_usage(request, text, fault)})


def stream(request: Request, fault: Fault) -> Answer:
    if request.query.get("alt") != ["sse"]:
        raise Refusal(400, "The mock streams with alt=sse only.")
    text = _text(request, fault)
    return stream_answer(_events(request, text, _usage(request, text, fault)))


def _events(request: Request, text: Text, usage: dict[str, Any]) -> Iterator[Event]:
    for piece in escaped_pieces(text):
        yield Event(orjson.dumps(_candidate(request, orjson.Fragment(piece), None)))
    yield Event(orjson.dumps({**_candidate(request, "", _finish(text)), **usage}), terminal=True)


def _candidate(request: Request, text: Any, finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    model = request.params["model"]
    return {"candidates": [candidate], "modelVersion": model, "responseId": f"{request.digest:08x}"}


def _usage(request: Request, text: Text, fault: Fault) -> dict[str, Any]:
    if fault.no_usage:
        return {}
    prompt = to_tokens(
        prompt_size(request.json["contents"]) + prompt_size(request.json.get("systemInstruction"))
    )
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": text.tokens,
        "totalTokenCount": prompt + text.tokens,
    }
    if fault.cached_tokens:
        counts["cachedContentTokenCount"] = min(prompt, fault.cached_tokens)
    return {"usageMetadata": counts}


def _text(request: Request, fault: Fault) -> Text:
    request.required("contents", list)
    config = request.json.get("generationConfig") or {}
    return compose(request.body, fault, config.get("maxOutputTokens"))


def _finish(text: Text) -> str:
    return "MAX_TOKENS" if text.is_cut else "STOP"
