"""OpenAI's chat completions and the older completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmgw.mock.answer import Answer, Event, Refusal, stream_answer
from llmgw.mock.fault import Fault
from llmgw.mock.request import Request
from llmgw.mock.schema import value_for
from llmgw.mock.text import Text, compose, escaped_pieces, prompt_size, to_tokens

CREATED = 1_767_225_600  # 2026-01-01: answers are the same whenever they are asked for
DONE = Event(b"[DONE]", terminal=True)

_CHAT = (
    b'{"id":"chatcmpl-%08x","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"message":{"role":"assistant","content":%b,"refusal":null,"annotations":[]},"logprobs":null,'
    b'"finish_reason":"%b"}]%b,"service_tier":"default","system_fingerprint":"fp_mock"}'
)
_CHUNK_HEAD = (
    b'{"id":"chatcmpl-%08x","object":"chat.completion.chunk","created":%d,"model":%b,'
    b'"service_tier":"default","system_fingerprint":"fp_mock","choices":['
)
_USAGE = (
    b',"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)


def chat(request: Request, fault: Fault) -> Answer:
    body = request.json
    messages = request.required("messages", list)
    if body.get("n", 1) not in (1, None):
        raise Refusal(400, "The mock answers with one choice.", code="unsupported_value", param="n")
    model = orjson.dumps(request.model)
    text = compose(request.body, fault, body.get("max_completion_tokens") or body.get("max_tokens"))
    if tool := _chosen_tool(body):
        return _tool_answer(request, model, tool, text, fault)
    if body.get("response_format"):
        text = _structured(body["response_format"], text)
    usage = _usage(prompt_size(messages), text.tokens, fault)
    if body.get("stream"):
        deltas = (b'{"content":%b}' % piece for piece in escaped_pieces(text))
        return _stream(request, model, deltas, _finish(text), usage)
    content = orjson.dumps(text.whole)
    return Answer(_CHAT % (request.digest, CREATED, model, content, _finish(text), usage))


def completions(request: Request, fault: Fault) -> Answer:
    body = request.json
    prompt = request.required("prompt", (str, list))
    text = compose(request.body, fault, body.get("max_tokens"))
    usage = _usage(prompt_size(prompt), text.tokens, fault)
    frame = b'{"id":"cmpl-%08x","object":"text_completion","created":%d,"model":%b,"choices":[%%b]%%b}' % (
        request.digest,
        CREATED,
        orjson.dumps(request.model).replace(b"%", b"%%"),
    )
    choice = b'{"index":0,"text":%b,"logprobs":null,"finish_reason":%b}'
    finish = b'"%b"' % _finish(text)
    if not body.get("stream"):
        return Answer(frame % (choice % (orjson.dumps(text.whole), finish), usage))
    wanted = _wants_usage(body)
    nothing = b',"usage":null' if wanted else b""

    def events() -> Iterator[Event]:
        for piece in escaped_pieces(text):
            yield Event(frame % (choice % (piece, b"null"), nothing))
        yield Event(frame % (choice % (b'""', finish), nothing))
        if wanted and usage:
            yield Event(frame % (b"", usage))
        yield DONE

    return stream_answer(events())


def _stream(request: Request, model: bytes, deltas: Iterator[bytes], finish: bytes, usage: bytes) -> Answer:
    """Role delta, the deltas, the finish chunk, the usage chunk where it was asked for, [DONE]."""
    wanted = _wants_usage(request.json)
    start = _CHUNK_HEAD % (request.digest, CREATED, model)
    tail = b'],"usage":null}' if wanted else b"]}"
    frame = start.replace(b"%", b"%%") + b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' + tail

    def events() -> Iterator[Event]:
        yield Event(frame % (b'{"role":"assistant","content":"","refusal":null}', b"null"))
        for delta in deltas:
            yield Event(frame % (delta, b"null"))
        yield Event(frame % (b"{}", b'"%b"' % finish))
        if wanted and usage:
            yield Event(start + b"]" + usage + b"}")
        yield DONE

    return stream_answer(events())


def _tool_answer(request: Request, model: bytes, tool: dict[str, Any], text: Text, fault: Fault) -> Answer:
    arguments = orjson.dumps(
        value_for(tool.get("parameters") or {"type": "object"}, text.lead.strip() or "mock")
    )
    usage = _usage(prompt_size(request.json["messages"]), to_tokens(len(arguments)), fault)
    call = {
        "id": f"call_{request.digest:08x}",
        "type": "function",
        "function": {"name": tool["name"], "arguments": arguments.decode()},
    }
    if request.json.get("stream"):
        return _stream(request, model, _tool_deltas(call), b"tool_calls", usage)
    content = b'null,"tool_calls":' + orjson.dumps([call])
    return Answer(_CHAT % (request.digest, CREATED, model, content, b"tool_calls", usage))


def _tool_deltas(call: dict[str, Any]) -> Iterator[bytes]:
    """As OpenAI cuts them: id and name first with empty arguments, then the arguments in pieces."""
    arguments = call["function"]["arguments"]
    first = {"index": 0, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
    yield orjson.dumps({"tool_calls": [first]})
    for start in range(0, len(arguments), 8):
        piece = {"index": 0, "function": {"arguments": arguments[start : start + 8]}}
        yield orjson.dumps({"tool_calls": [piece]})


def _chosen_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function to call: the one that tool_choice names, or the first where one is required."""
    choice = body.get("tool_choice")
    if not body.get("tools") or choice in (None, "auto", "none"):
        return None
    tools = [tool["function"] for tool in body["tools"] if "function" in tool]
    wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else tools[0]["name"]
    for tool in tools:
        if tool["name"] == wanted:
            return dict(tool)
    raise Refusal(400, f"Tool choice {wanted!r} not found in 'tools' parameter.", param="tool_choice")


def _structured(response_format: dict[str, Any], text: Text) -> Text:
    kind = response_format.get("type")
    if kind == "json_schema":
        schema = response_format.get("json_schema", {}).get("schema", {})
        value = value_for(schema, text.lead.strip() or "mock")
    elif kind == "json_object":
        value = {"answer": text.whole}
    else:
        return text
    return text._replace(lead="", rest=orjson.dumps(value).decode())


def _finish(text: Text) -> bytes:
    return b"length" if text.is_cut else b"stop"


def _usage(size_bytes: int, completion: int, fault: Fault) -> bytes:
    if fault.no_usage:
        return b""
    prompt = to_tokens(size_bytes)
    return _USAGE % (prompt, completion, prompt + completion, min(prompt, fault.cached_tokens))


def _wants_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
