"""Embeddings, models, moderations, images, audio: the routes whose answers are small or binary."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from llmgw.mock.answer import Answer, Refusal, json_answer
from llmgw.mock.chat import CREATED
from llmgw.mock.fault import Fault
from llmgw.mock.form import parse_form
from llmgw.mock.request import Request
from llmgw.mock.text import compose, find_nonce, prompt_size, to_tokens

DIMENSIONS = 256
MAX_DIMENSIONS = 8192
SPEECH_BYTES = 16 * 1024
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def embeddings(request: Request, fault: Fault) -> Answer:
    given = request.required("input", (str, list))
    inputs = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    size = min(request.json.get("dimensions") or DIMENSIONS, MAX_DIMENSIONS)
    as_base64 = request.json.get("encoding_format") == "base64"
    tokens = to_tokens(prompt_size(given))
    answer: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(repr(item), size, as_base64)}
            for index, item in enumerate(inputs)
        ],
        "model": request.model,
    }
    if not fault.no_usage:
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer(answer)


def moderations(request: Request, _fault: Fault) -> Answer:
    given = request.required("input", (str, list))
    categories = ("harassment", "hate", "self-harm", "sexual", "violence")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(categories, False),
        "category_scores": dict.fromkeys(categories, 0.0),
        "category_applied_input_types": {name: ["text"] for name in categories},
    }
    count = len(given) if isinstance(given, list) else 1
    model = str(request.json.get("model", "omni-moderation-latest"))
    return json_answer({"id": f"modr-{request.digest:08x}", "model": model, "results": [result] * count})


def images(request: Request, _fault: Fault) -> Answer:
    request.required("prompt", str)
    if request.json.get("response_format") == "url":
        data: dict[str, str] = {"url": f"https://example.com/{request.digest:08x}.png"}
    else:
        data = {"b64_json": _PIXEL}
    return json_answer({"created": CREATED, "data": [data] * (request.json.get("n") or 1)})


def speech(request: Request, fault: Fault) -> Answer:
    """Bytes that no text codec survives, chunked, the same for the same request."""
    request.required("input", str)
    size = fault.text_bytes or SPEECH_BYTES
    block = hashlib.sha256(request.body).digest() + bytes(range(256))
    body = (block * (size // len(block) + 1))[:size]
    return Answer(body, content_type=b"audio/mpeg", chunked=True)


def transcriptions(request: Request, fault: Fault) -> Answer:
    """The text is the mock's; `bytes` and `sha256` tell what arrived as the file."""
    form = parse_form(request.content_type, request.body)
    if "file" not in form or "model" not in form:
        raise Refusal(400, "Missing required parameter: 'file' and 'model'.", param="file")
    text = compose(find_nonce(request.body).encode(), fault).whole
    if "response_format" in form and form["response_format"].data == b"text":
        return Answer(text.encode() + b"\n", content_type=b"text/plain; charset=utf-8")
    data = form["file"].data
    answer: dict[str, Any] = {
        "text": text,
        "model": form["model"].data.decode(),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if not fault.no_usage:
        tokens = to_tokens(len(text))
        answer["usage"] = {
            "type": "tokens",
            "input_tokens": 0,
            "output_tokens": tokens,
            "total_tokens": tokens,
        }
    return json_answer(answer)


def model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "llmgw"}


def _vector(text: str, size: int, as_base64: bool) -> list[float] | str:
    """Components in [-1, 1), exact in binary32, so both encodings say the same numbers."""
    seed = hashlib.sha256(text.encode()).digest()
    numbers = [(seed[i % 32] ^ (i >> 5) & 0xFF) / 128 - 1 for i in range(size)]
    if not as_base64:
        return numbers
    return base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode()
