"""Counts a prompt's tokens with the model's own vocabulary, where `estimate: exact` asks for it.

Text is counted exactly. What a provider makes of the rest is not public, so it is counted as documented or
upward: three tokens of frame for each message and for the answer's beginning, one for a name, definitions of
tools as the JSON they are sent as, a flat number for an image. Sounds and files have no such number: a prompt
with one of them is not counted.

Counting costs 25 ns a byte, more than all else that the gateway does with a request, so it runs in a thread
of its own, and a request that is too large, or comes when too many wait, or is not counted in time keeps its
learned estimate. The library holds the interpreter while it counts: texts go to it in pieces of a fraction of
a millisecond, so that the loop goes on in between.

Vocabularies are files on this machine, never fetched while requests run: those in the wheel of bpe-openai, or
the ones that the operator put where TIKTOKEN_CACHE_DIR points.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

FRAME_TOKENS: Final = 3  # of each message, and of the beginning of the answer
IMAGE_TOKENS: Final = 2000  # above what OpenAI's models take for one image
PIECE_CHARS: Final = 8192  # 0.2 ms of English, 0.4 ms of Chinese
BODY_BYTES_MAX: Final = 1 << 20  # 30 ms; base64 and long contexts above it are well estimated by their size
WAITING_MAX: Final = 16
DEADLINE_S: Final = 0.2

_VOCABULARY_URL: Final = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"

# The vocabularies' own splitting begins a piece before a word's single space: a cut there changes no count.
_SEAM: Final = re.compile(r"(?<=[^\s]) (?=[^\W\d_])")

_IMAGES: Final = frozenset({"image_url", "image", "input_image"})
_UNKNOWN: Final = frozenset(
    {"input_audio", "audio", "file", "input_file", "document", "video_url", "item_reference"}
)
_FRAME_KEYS: Final = frozenset(
    {"type", "id", "call_id", "tool_call_id", "tool_use_id", "status", "detail", "cache_control"}
)
_TOOL_KEYS: Final = ("tools", "functions", "response_format", "prediction")


class VocabularyError(Exception):
    """There is no vocabulary to count with on this machine; says what to do about it."""


def count_prompt(body: bytes, encoding: str, is_plain: bool | None = None) -> int:
    """Tokens of a request's prompt. `is_plain`: of a route that makes no conversation of it (completions and
    embeddings); None: as the body looks, which nobody may do who has not chosen it.

    ValueError where the body is not a JSON object or holds what nobody can count, VocabularyError where the
    encoding is not there.
    """
    request = orjson.loads(body)
    if type(request) is not dict:
        raise ValueError("the body is not a JSON object")
    if request.get("previous_response_id") or request.get("conversation"):
        raise ValueError("the provider keeps part of the prompt")
    count = vocabulary(encoding)
    if _looks_plain(request) if is_plain is None else is_plain:
        return sum(_count_value(request.get(key), count) for key in ("prompt", "input"))
    tokens = sum(_count_message(message, count) for message in _messages(request))
    tokens += sum(_count_json(request.get(key), count) for key in _TOOL_KEYS)
    return tokens + FRAME_TOKENS


class ExactCounter:
    """Counts prompts of one encoding for one worker. VocabularyError where it cannot be loaded."""

    def __init__(self, encoding: str, *, deadline_s: float = DEADLINE_S) -> None:
        vocabulary(encoding)
        self.encoding = encoding
        self.fallbacks = 0  # requests that kept their learned estimate
        self._deadline_s = deadline_s
        self._waiting = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="llmgw-tokens")

    async def count(self, body: bytes, estimated_tokens: int, is_plain: bool | None = None) -> int:
        """The prompt's tokens; `estimated_tokens` where they are not known in time. Needs no current task."""
        tokens = None
        if len(body) <= BODY_BYTES_MAX and self._waiting < WAITING_MAX:
            self._waiting += 1
            try:
                tokens = await self._counted(body, is_plain)
            finally:
                self._waiting -= 1
        if tokens is None:
            self.fallbacks += 1
            return estimated_tokens
        return tokens

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _counted(self, body: bytes, is_plain: bool | None) -> int | None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int | None] = loop.create_future()
        job = self._pool.submit(_count_or_none, body, self.encoding, is_plain)
        job.add_done_callback(functools.partial(_tell, loop, answer))
        timer = loop.call_later(self._deadline_s, _answer, answer, None)
        try:
            return await answer
        finally:
            timer.cancel()
            job.cancel()


def _count_or_none(body: bytes, encoding: str, is_plain: bool | None) -> int | None:
    """None for what cannot be counted."""
    try:
        return count_prompt(body, encoding, is_plain)
    except ValueError:
        return None


def _tell(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[int | None], job: Future[int | None]
) -> None:
    """In the pool's thread, or in the loop's where the job was cancelled."""
    if not job.cancelled():
        tokens = None if job.exception() else job.result()
        with suppress(RuntimeError):  # the loop has been closed since
            loop.call_soon_threadsafe(_answer, answer, tokens)


def _answer(answer: asyncio.Future[int | None], tokens: int | None) -> None:
    if not answer.done():
        answer.set_result(tokens)


# what of a request is text


def _looks_plain(request: dict[str, Any]) -> bool:
    return "prompt" in request or "embed" in str(request.get("model"))


def _messages(request: dict[str, Any]) -> Iterator[object]:
    """What stands in the conversation as a message of its own, instructions included."""
    yield from (request[key] for key in ("system", "instructions") if request.get(key))
    for key in ("messages", "input"):
        value = request.get(key)
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value


def _count_message(message: object, count: Callable[[str], int]) -> int:
    return FRAME_TOKENS + _count_value(message, count)


def _count_value(value: object, count: Callable[[str], int]) -> int:
    """Walks without recursion: bodies nest deeper than Python's stack."""
    tokens = 0
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            tokens += _count_text(value, count)
        elif isinstance(value, list):
            tokens += _count_list(value, rest)
        elif isinstance(value, dict):
            tokens += _count_members(value, rest, count)
        elif isinstance(value, int | float):
            tokens += count(str(value))
    return tokens


def _count_list(values: list[object], rest: list[object]) -> int:
    """A list of numbers is a text that comes as tokens already."""
    if all(isinstance(value, int) for value in values):
        return len(values)
    rest.extend(values)
    return 0


def _count_members(members: dict[str, Any], rest: list[object], count: Callable[[str], int]) -> int:
    kind = str(members.get("type"))
    if kind in _UNKNOWN:
        raise ValueError(f"nobody can tell the tokens of a part of type {kind}")
    if kind in _IMAGES:
        return IMAGE_TOKENS
    if kind == "tool_use":
        return _count_json(members.get("input"), count) + _count_value(members.get("name"), count)
    rest.extend(value for key, value in members.items() if key not in _FRAME_KEYS)
    return 1 if "name" in members else 0


def _count_json(value: object, count: Callable[[str], int]) -> int:
    return FRAME_TOKENS + _count_text(orjson.dumps(value).decode(), count) if value else 0


def _count_text(text: str, count: Callable[[str], int]) -> int:
    if len(text) <= PIECE_CHARS:
        return count(text)
    tokens = 0
    for piece in _pieces(text):
        tokens += count(piece)
        time.sleep(0)  # lets the loop have the interpreter
    return tokens


def _pieces(text: str) -> Iterator[str]:
    """Cut before a word where there is one; a text without any may count a token or two more at a seam."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        seam = _SEAM.search(text, start + PIECE_CHARS - 512, start + PIECE_CHARS)
        stop = seam.start() if seam else start + PIECE_CHARS
        yield text[start:stop]
        start = stop
    yield text[start:]


# vocabularies


@functools.cache
def vocabulary(encoding: str) -> Callable[[str], int]:
    """What counts a text's tokens. Loads once in a process, for 0.1 s (tiktoken: 1 s)."""
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", "")
    return _from_directory(encoding, directory) if directory else _bundled(encoding)


def _bundled(encoding: str) -> Callable[[str], int]:
    """Loads the package's extension module alone.

    The package's own start unpacks every vocabulary into dictionaries that only decoding needs: 0.7 s and
    64 MB in every worker.
    """
    package = importlib.util.find_spec("bpe_openai")
    if package is None or not package.submodule_search_locations:
        raise VocabularyError(
            "`estimate: exact` needs the package bpe-openai, or TIKTOKEN_CACHE_DIR and tiktoken"
        )
    name = "bpe_openai._bindings"
    spec = importlib.machinery.PathFinder.find_spec(name, list(package.submodule_search_locations))
    if spec is None or spec.loader is None:
        raise VocabularyError("this version of bpe-openai has no module _bindings")
    bindings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bindings)
    if encoding not in bindings.supported_encodings():
        raise VocabularyError(f"bpe-openai has no vocabulary {encoding}")
    count: Callable[[str], int] = bindings.tokenizer_for_encoding(encoding).count
    return count


def _from_directory(encoding: str, directory: str) -> Callable[[str], int]:
    """tiktoken fetches what it does not find; so it is asked only where it will find it."""
    file = hashlib.sha1(_VOCABULARY_URL.format(encoding).encode(), usedforsecurity=False).hexdigest()
    if not Path(directory, file).is_file():
        raise VocabularyError(
            f"TIKTOKEN_CACHE_DIR: no vocabulary {encoding} in {directory} (tiktoken's file {file})"
        )
    try:
        import tiktoken
    except ImportError:
        raise VocabularyError(
            "TIKTOKEN_CACHE_DIR is set, but the package tiktoken is not installed"
        ) from None
    known = tiktoken.get_encoding(encoding)
    return lambda text: len(known.encode_ordinary(text))
