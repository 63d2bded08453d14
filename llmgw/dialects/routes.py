"""The routes whose requests we read. Every other `/v1` path is `OTHER`: passed on, and paid for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """`terminal` is what ends a complete stream: a data line's value, or event types."""

    name: str
    terminal: bytes | tuple[bytes, ...] | None = None
    # Whether `stream_options.include_usage` makes the provider report a stream's usage.
    has_usage_option: bool = False
    # Whether the length of the answer is bounded by `max_output_tokens`, elsewhere by `max_tokens`.
    says_max_output: bool = False
    # Whether an answer costs tokens, so that a silent provider's usage must be estimated.
    costs_tokens: bool = True
    # Whether the prompt is text as it stands, and no conversation.
    is_plain: bool = False
    # Whether an answer is text that the model wrote, so that its size says something about its tokens.
    is_text: bool = True


CHAT = Route("chat", b"[DONE]", has_usage_option=True)
COMPLETIONS = Route("completions", b"[DONE]", has_usage_option=True, is_plain=True)
EMBEDDINGS = Route("embeddings", is_plain=True, is_text=False)
RESPONSES = Route(
    "responses",
    (b"response.completed", b"response.incomplete", b"response.failed"),
    says_max_output=True,
)
MESSAGES = Route("messages", (b"message_stop",))  # Anthropic's own shape, passed on as it comes
OTHER = Route("other", costs_tokens=False)

INFERENCE: dict[str, Route] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
}
