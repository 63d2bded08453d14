"""The words of an answer and the rule by which tokens are counted.

Everything is a function of the request and its fault, so the same request has the same answer.
Token rule: ceil(UTF-8 bytes of the text / 4), and 85 for an image, as OpenAI counts one at low
detail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from llmgw.mock.fault import Fault

BYTES_PER_TOKEN = 4
IMAGE_BYTES = 85 * BYTES_PER_TOKEN
DEFAULT_TEXT = "This is the mock provider. It answers every question with these words, at once and for free."
_CACHED = 1 << 16  # texts from this size on are made anew each time, so the caches stay small
_FILLER = "the quick brown fox jumps over the lazy dog and runs on "
_WORDS = re.compile(r"\s*\S+|\s+")
_HEX = re.compile(rb"nonce-[0-9a-f]+")


class Text(NamedTuple):
    """What is answered: `lead` echoes the request's nonce, `rest` is the text proper."""

    lead: str
    rest: str
    pieces: int  # content events of a stream; 0 = one for each word
    is_cut: bool  # by the request's max_tokens

    @property
    def whole(self) -> str:
        return self.lead + self.rest

    @property
    def tokens(self) -> int:
        return to_tokens(size_of(self.lead) + size_of(self.rest))


def find_nonce(body: bytes) -> str:
    """`nonce-<hex>` of a request, or nothing. Load tests tell a foreign answer by it."""
    start = body.find(b"nonce-")
    while start >= 0:
        match = _HEX.match(body, start)
        if match:
            return match[0].decode()
        start = body.find(b"nonce-", start + 1)
    return ""


def compose(body: bytes, fault: Fault, max_tokens: Any = None) -> Text:
    """The answer's text. A size or number of events that was asked for wins over max_tokens."""
    nonce = find_nonce(body)
    lead = nonce + " " if nonce else ""
    if fault.text_bytes:
        return Text(lead, _sized(fault.text or _FILLER, fault.text_bytes - len(lead)), fault.events, False)
    if fault.text or fault.events:
        return Text(lead, fault.text or _sized(_FILLER, fault.events * 5), fault.events, False)
    if isinstance(max_tokens, int) and 0 < max_tokens * BYTES_PER_TOKEN < len(lead) + len(DEFAULT_TEXT):
        left = max(0, max_tokens * BYTES_PER_TOKEN - len(lead))
        return Text(lead, DEFAULT_TEXT[:left], 0, True)
    return Text(lead, DEFAULT_TEXT, 0, False)


def escaped_pieces(text: Text) -> Iterator[bytes]:
    """The text of each content event, as JSON strings with their quotes."""
    pieces = iter(
        _cut_small(text.rest, text.pieces) if len(text.rest) < _CACHED else _cut(text.rest, text.pieces)
    )
    if text.lead:
        yield orjson.dumps(text.lead)[:-1] + next(pieces)[1:]
    yield from pieces


def size_of(text: str) -> int:
    """UTF-8 bytes, without encoding where it is plain ASCII."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def prompt_size(value: Any) -> int:
    """Bytes of text anywhere under a prompt, in any of the dialects' shapes."""
    if isinstance(value, str):
        return size_of(value)
    if isinstance(value, list):
        return sum(map(prompt_size, value))
    if isinstance(value, dict):
        if "image" in str(value.get("type", "")) or "inlineData" in value:
            return IMAGE_BYTES
        return sum(prompt_size(value[key]) for key in ("content", "text", "parts") if key in value)
    return BYTES_PER_TOKEN if isinstance(value, int) else 0  # a token id, as embeddings take them


def to_tokens(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


def _sized(filler: str, size_bytes: int) -> str:
    return _fill_small(filler, size_bytes) if size_bytes < _CACHED else _fill(filler, size_bytes)


def _fill(filler: str, size_bytes: int) -> str:
    """Exactly this many bytes; a character that would be cut in two becomes spaces."""
    size_bytes = max(size_bytes, 0)
    data = filler.encode()
    cut = (data * (size_bytes // len(data) + 1))[:size_bytes].decode("utf-8", "ignore")
    return cut + " " * (size_bytes - size_of(cut))


def _cut(text: str, count: int) -> Iterator[bytes]:
    if not count:
        yield from map(orjson.dumps, _WORDS.findall(text) or [text])
        return
    size, more = divmod(len(text), count)
    start = 0
    for i in range(count):
        end = start + size + (i < more)
        yield orjson.dumps(text[start:end])
        start = end


@lru_cache(maxsize=64)
def _cut_small(text: str, count: int) -> tuple[bytes, ...]:
    return tuple(_cut(text, count))


@lru_cache(maxsize=64)
def _fill_small(filler: str, size_bytes: int) -> str:
    return _fill(filler, size_bytes)
