"""What somebody supposes: a request that nobody made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from llmgw._wire.call import Call
from llmgw.dialects.paths import check_route, check_url, route_of
from llmgw.errors import BadRequest

# Of JSON, as the question is sent.
QUESTION_MAX_BYTES: Final = 1 << 20
ENDPOINT: Final = "/v1/chat/completions"
# In place of an id, which no request that was made has.
NO_ID: Final = "supposed"
TOKENS_MAX: Final = 1 << 31
BYTES_MAX: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Question:
    """`key` is a key's name. Without a `body` the prompt has `prompt_bytes`."""

    tenant: str
    key: str
    model: str
    endpoint: str
    user: str | None
    tags: str | None
    priority: str | None
    max_wait: str | None
    body: dict[str, Any] | None
    prompt_bytes: int
    max_tokens: int | None


def question_of(raw: bytes) -> Question:
    """Raises BadRequest."""
    try:
        asked = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The question is no JSON: {error}.") from None
    if not isinstance(asked, dict):
        raise BadRequest("The question is a JSON object.")
    fields = Fields(asked)
    body = fields.maybe("body", dict)
    named = body.get("model") if body is not None else None
    question = Question(
        tenant=fields.text("tenant"),
        key=fields.text("key"),
        model=fields.maybe("model", str) or (named if isinstance(named, str) else ""),
        endpoint=fields.maybe("endpoint", str) or ENDPOINT,
        user=fields.maybe("user", str),
        tags=fields.tags(),
        priority=fields.maybe("priority", str),
        max_wait=fields.maybe("max_wait", str),
        body=body,
        prompt_bytes=fields.count("prompt_bytes", BYTES_MAX) or 0,
        max_tokens=fields.count("max_tokens", TOKENS_MAX),
    )
    fields.finish()
    return question


class Fields:
    """Takes fields out of the question, one by one: what is left at the end is unknown."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.left = asked

    def maybe(self, name: str, kind: type) -> Any:
        value = self.left.pop(name, None)
        if value is not None and not isinstance(value, kind):
            raise BadRequest(f"`{name}` is {'text' if kind is str else 'an object'}.", param=name)
        return value

    def text(self, name: str) -> str:
        value: str | None = self.maybe(name, str)
        if not value:
            raise BadRequest(f"`{name}` is needed.", param=name)
        return value

    def count(self, name: str, below: int) -> int | None:
        value = self.left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise BadRequest(f"`{name}` is a whole number from 0 to {below - 1}.", param=name)
        return value

    def tags(self) -> str | None:
        """As the header has them, or a list."""
        value = self.left.pop("tags", None)
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            value = ",".join(value)
        if value is not None and not isinstance(value, str):
            raise BadRequest("`tags` is a list of names.", param="tags")
        return value

    def finish(self) -> None:
        for name in self.left:
            raise BadRequest(f"`{name[:100]}` is not known here.", param=name[:100])


def call_of(question: Question) -> Call:
    """The call that it would be, with a body as small as may be where none is given."""
    call = Call()
    call.request_id, call.method = NO_ID, "POST"
    call.endpoint, _, query = question.endpoint.partition("?")
    check_url(call.method, call.endpoint, query)
    check_route(call.method, call.endpoint)
    call.route = route_of(call.method, call.endpoint)
    call.tenant_id, call.key_name = question.tenant, question.key
    call.tags, call.priority, call.max_wait = map(
        header, (question.tags, question.priority, question.max_wait)
    )
    body = dict(question.body or {})
    if question.model:
        body["model"] = question.model
    if question.user is not None:
        body["user"] = question.user
    if question.max_tokens is not None:
        body["max_output_tokens" if call.route.says_max_output else "max_tokens"] = question.max_tokens
    try:
        call.body = orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"The body cannot be written as JSON: {error}.", param="body") from None
    return call


def header(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None
