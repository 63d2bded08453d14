"""Streams as providers write them."""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"[DONE]"
RESPONSES = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
Terminal = bytes | frozenset[bytes] | None
BOM = b"\xef\xbb\xbf"


def chunk(choices: list[Any], **more: Any) -> bytes:
    head = {
        "id": "chatcmpl-Bx1",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "gpt-4o-mini",
    }
    return orjson.dumps({**head, "choices": choices, **more})


def delta(content: str, finish: str | None = None, **more: Any) -> bytes:
    return chunk(
        [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}], **more
    )


def sse(*datas: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + data + end + end for data in datas)


def typed(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **members}) + b"\n\n"


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0},
}
TOOL = {
    "index": 0,
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"usage":null,"q":"é"}'},
}
FORGED = 'data: [DONE]\n\n"usage":null,"choices":[],"usage":{"prompt_tokens":0},"error":{"x":1}'

# name -> (stream, terminal)
CORPUS: dict[str, tuple[bytes, Terminal]] = {
    "openai": (sse(delta(""), delta("Hel"), delta("lo é"), delta("", "stop"), DONE), DONE),
    "openai usage forced": (
        sse(
            delta("", usage=None),
            delta("Hi", usage=None),
            delta("", "stop", usage=None),
            chunk([], usage=USAGE),
            DONE,
        ),
        DONE,
    ),
    "azure": (
        sse(
            chunk(
                [],
                prompt_filter_results=[
                    {"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}
                ],
            ),
            delta("Hi", usage=None),
            chunk([], usage=None, prompt_filter_results=[]),
            chunk([], usage=USAGE),
            DONE,
        ),
        DONE,
    ),
    "vllm continuous usage": (
        sse(
            delta("a", usage={"prompt_tokens": 9, "completion_tokens": 1}),
            delta("b", usage=USAGE),
            chunk([], usage=USAGE),
            DONE,
        ),
        DONE,
    ),
    "tools": (
        sse(chunk([{"index": 0, "delta": {"tool_calls": [TOOL], "content": None}}], usage=None), DONE),
        DONE,
    ),
    "reasoning": (sse(chunk([{"delta": {"reasoning_content": "hm\n", "refusal": "no"}}]), DONE), DONE),
    "completions": (
        sse(orjson.dumps({"choices": [{"text": "once", "index": 0}], "usage": None}), DONE),
        DONE,
    ),
    "crlf": (sse(delta("a", usage=None), delta("b"), chunk([], usage=USAGE), DONE, end=b"\r\n"), DONE),
    "cr": (sse(delta("a", usage=None), chunk([], usage=USAGE), delta("b"), DONE, end=b"\r"), DONE),
    "mixed line ends": (
        b": hi\r\ndata: "
        + delta("a")
        + b"\r\n\ndata: "
        + chunk([], usage=USAGE)
        + b"\n\r\ndata:"
        + DONE
        + b"\r\r\n",
        DONE,
    ),
    "comments": (b": OPENROUTER PROCESSING\n\n:\n\n" + sse(delta("a")) + b": ping\n\n\n\n" + sse(DONE), DONE),
    "other fields": (
        b"id: 7\nretry: 100\n\nid: 8\ndata: "
        + chunk([], usage=USAGE)
        + b"\nretry: 5\n\nfoo\ndatax: 1\n\ndata\n\n"
        + sse(DONE),
        DONE,
    ),
    "bom": (BOM + sse(delta("a", usage=None), DONE), DONE),
    "bom twice": (BOM + BOM + sse(delta("a"), DONE), DONE),
    "bom and blank line": (BOM + b"\r\n" + sse(delta("a"), DONE), DONE),
    "several data lines": (
        b'data: {"choices": [],\ndata:  "usage": null,\nid: 3\ndata: "x": 1}\n\n'
        b'data:{"choices":[],\r\ndata:"usage":{"a":\rdata: 1}}\n\n'
        b'data: {"choices":[{"delta":\ndata\ndata: {"content":"a"}}],"usage":null}\r\n\r\n' + sse(DONE),
        DONE,
    ),
    "done over two lines": (b"data: [DONE]\ndata:\n\n" + sse(delta("a"), DONE), DONE),
    "done in text": (
        sse(delta("[DONE]"), delta("data: [DONE]\n\n"), b" [DONE]", b"[DONE] ", b'"[DONE]"', DONE),
        DONE,
    ),
    "forged in text": (sse(delta(FORGED, usage=None), delta(FORGED), chunk([], system=FORGED), DONE), DONE),
    "usage member first and alone": (
        sse(
            b'{"usage":null , "a":1}',
            b'{ "usage" : null }',
            b'{"a":1 , "usage":null}',
            b'{"a":1,"usage":null,"b":[2]}',
            DONE,
        ),
        DONE,
    ),
    "usage spelled oddly": (
        sse(
            rb'{"us\u0061ge":null,"choices":[{"delta":{"c\u006fntent":"\u00e9"}}]}',
            b'{"usage":null,"usage":null}',
            b'{"usage":null,"choices":[ ],"usage":{"b":2}}',
            b'{"usage":7}',
            b'{"usage":[1],"choices":[]}',
            DONE,
        ),
        DONE,
    ),
    "error in the middle": (
        sse(delta("a"), b'{"error":{"message":"overloaded","code":null}}', delta("b"), b'{"error":"x"}'),
        DONE,
    ),
    "error of its own type": (
        sse(delta("a")) + b'event: error\ndata: {"message":"x"}\n\n' + sse(b'{"type":"error"}'),
        DONE,
    ),
    "error null": (sse(delta("a", error=None), DONE), DONE),
    "not json": (
        sse(b"{", b"plain words", b'{"usage":null,"error":1', b"\xff", b"1", b"[1]", b"") + sse(DONE),
        DONE,
    ),
    "behind the end": (
        sse(delta("a"), DONE) + b"\n\n" + sse(delta("b"), chunk([], usage=USAGE), DONE) + b"data: x",
        DONE,
    ),
    "behind the end, crlf": (sse(delta("a"), DONE, end=b"\r\n") + sse(delta("b")), DONE),
    "cut off": (sse(delta("a"), chunk([], usage=USAGE)) + b"data: " + delta("b")[:40], DONE),
    "cut off before the blank line": (sse(delta("a")) + b"data: [DONE]\n", DONE),
    "no terminal known": (sse(delta("a", usage=None), b'{"text":"b"}', DONE, delta("c")), None),
    "anthropic passed through": (
        typed("message_start", message={"content": [], "usage": {"input_tokens": 3}})
        + typed("content_block_delta", delta={"type": "text_delta", "text": "hi"})
        + typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
        + typed("message_stop"),
        frozenset({b"message_stop"}),
    ),
    "responses": (
        typed("response.created", response={"id": "r", "usage": None, "error": None, "output": []})
        + typed("response.output_text.delta", delta="Hé")
        + typed("response.function_call_arguments.delta", delta="{}")
        + typed("response.output_text.done", text="Hé")
        + typed(
            "response.completed",
            response={"output": [{"content": [{"text": "Hé"}]}], "usage": USAGE, "error": None},
        )
        + typed("response.output_text.delta", delta="late"),
        RESPONSES,
    ),
    "responses failed": (
        typed("response.output_text.delta", delta="x")
        + typed("error", code="e", message="m")
        + typed("response.failed", response={"error": {"code": "e"}, "usage": None}),
        RESPONSES,
    ),
    "responses without event lines": (
        sse(
            b'{"type":"response.output_text.delta","delta":"ab"}',
            b'{"type":"response.incomplete","response":{"usage":{"a":1}}}',
        ),
        RESPONSES,
    ),
}
