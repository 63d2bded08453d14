"""Is this the answer to that request? Anything else voids the run."""

from __future__ import annotations

import re
from typing import Any

import orjson

_NONCE = re.compile(r"nonce-([0-9a-f]+)")
_END = b"data: [DONE]\n\n"


class Wrong(Exception):
    """What is wrong with an answer, in words for the report."""


class Checker:
    """Holds every answer against its request's nonce and against the run's first answer.

    The mock's answers differ in nothing but the nonce, so the text, its length and the number of
    events must be the same throughout a run, whichever way a request went.
    """

    def __init__(self, is_stream: bool, content_events: int | None) -> None:
        self._is_stream = is_stream
        self._content_events = content_events
        self._text: str | None = None  # the first answer's, without its nonce
        self._event_count: int | None = None

    def check(self, status: int, body: bytes, nonce: str) -> None:
        """Raises Wrong."""
        if status != 200:
            raise Wrong(f"status {status}: {body[:200]!r}")
        text = self._streamed_text(body) if self._is_stream else _whole_text(body)
        found = _NONCE.findall(text)
        if found != [nonce]:
            whose = f"of another request ({found[0]})" if found else "without the request's nonce"
            raise Wrong(f"foreign answer: {whose}")
        bare = text.replace(nonce, "", 1)
        if self._text is None:
            self._text = bare
        elif bare != self._text:
            raise Wrong(f"the answer's text differs from the run's first: {text[:80]!r}")

    def _streamed_text(self, body: bytes) -> str:
        if not body.endswith(_END):
            raise Wrong(f"the stream does not end in [DONE]: {body[-80:]!r}")
        blocks = body[: -len(_END)].split(b"\n\n")[:-1]
        deltas = [_delta(block) for block in blocks]
        contents = [content for content in deltas if content]
        if self._content_events not in (None, len(contents)):
            raise Wrong(f"{len(contents)} content events, expected {self._content_events}")
        if self._event_count not in (None, len(blocks)):
            raise Wrong(f"{len(blocks)} events, the run's first stream had {self._event_count}")
        self._event_count = len(blocks)
        return "".join(contents)


def _whole_text(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["choices"][0]["message"]["content"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise Wrong(f"not a chat completion: {body[:200]!r}") from None


def _delta(block: bytes) -> str:
    """The content that one event adds; nothing for the role, finish and usage events."""
    try:
        event: Any = orjson.loads(block.removeprefix(b"data: "))
        choices = event["choices"]
        return str(choices[0]["delta"].get("content") or "") if choices else ""
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise Wrong(f"not a chunk of a chat completion: {block[:200]!r}") from None
