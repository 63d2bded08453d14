"""Exact counts: equal to tiktoken's on OpenAI's own vocabularies, and never in anybody's way."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from llmgw._wire.serving import Serving
from llmgw.config.encodings import encoding_of
from llmgw.limits import exact
from llmgw.limits.exact import ExactCounter, VocabularyError, count_prompt, vocabulary

ENCODINGS = ["o200k_base", "cl100k_base"]
GOLDEN = [
    "",
    "hello world",
    "Don't stop: 1234567 times, it's 3.14159!\r\n\r\n\tTABS  and   spaces   \n",
    "Überschätzungen werden zurückgegeben; übrig bleibt nichts.",
    "网关在发送请求之前预留可能使用的额度。",
    "ゲートウェイは送信前に使用量を見積もります。",
    "Шлюз резервирует токены. البوابة تحجز الرموز. שער",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b \x00\x01",
    "def f(x):\n    return {k: v for k, v in x.items() if k}\n\n\n",
    "<|endoftext|> <|im_start|> <|fim_prefix|>",
    base64.b64encode(random.Random(1).randbytes(600)).decode(),
    " " * 300 + "\n" * 50 + "a" * 300,
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The wheel's vocabularies as files of tiktoken's cache, whose SHA-256 tiktoken checks."""
    found = tmp_path_factory.mktemp("vocabularies")
    (package,) = importlib.util.find_spec("bpe_openai").submodule_search_locations
    for encoding in ENCODINGS:
        url = f"https://openaipublic.blob.core.windows.net/encodings/{encoding}.tiktoken"
        data = gzip.decompress(Path(package, "data", f"{encoding}.tiktoken.gz").read_bytes())
        (found / hashlib.sha1(url.encode()).hexdigest()).write_bytes(data)
    return found


@pytest.fixture(scope="module")
def judge(directory):
    """tiktoken's own count of a text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(directory))
        known = {encoding: tiktoken.get_encoding(encoding) for encoding in ENCODINGS}
    return lambda text, encoding: len(known[encoding].encode_ordinary(text))


@pytest.fixture(autouse=True)
def bundled(monkeypatch):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)


def tokens_of(encoding: str = "o200k_base", **members: Any) -> int:
    return count_prompt(json.dumps(members).encode(), encoding)


def text_tokens(*texts: str) -> int:
    return sum(vocabulary("o200k_base")(text) for text in texts)


# texts


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", GOLDEN)
def test_a_text_counts_what_tiktoken_counts(judge, text, encoding):
    assert tokens_of(encoding, prompt=text) == judge(text, encoding)
    assert tokens_of(encoding, model="text-embedding-3-small", input=text) == judge(text, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_long_text_counted_in_pieces_counts_the_same(judge, encoding):
    chosen = random.Random(3)
    words = [word for text in GOLDEN for word in text.split(" ") if 0 < len(word) < 100]
    text = "".join(
        chosen.choice(words) + chosen.choice([" ", " ", " ", "\n", ", ", "  "]) for _ in range(20_000)
    )
    assert len(text) > 10 * exact.PIECE_CHARS
    assert tokens_of(encoding, prompt=text) == judge(text, encoding)


@pytest.mark.parametrize(
    "text", ["网关" * 20_000, "a" * 50_000, " " * 50_000, "aGVsbG8" * 8000, "1" * 50_000]
)
def test_a_long_text_without_words_differs_by_a_token_or_two_a_seam(judge, text):
    seams = len(text) // exact.PIECE_CHARS
    assert 0 <= tokens_of(prompt=text) - judge(text, "o200k_base") <= 2 * seams


# requests


def test_a_message_is_its_role_and_content_in_a_frame_of_three_and_the_answer_begins_with_three():
    assert tokens_of(messages=[{"role": "user", "content": "hello world"}]) == 3 + 1 + 2 + 3
    parts = [{"type": "text", "text": "hello world"}, {"type": "text", "text": "hello"}]
    assert tokens_of(messages=[{"role": "user", "content": parts}]) == 3 + 1 + 2 + 1 + 3


def test_a_name_counts_one_more_than_itself():
    plain = tokens_of(messages=[{"role": "user", "content": "hi"}])
    assert tokens_of(messages=[{"role": "user", "content": "hi", "name": "hello"}]) == plain + 2


def test_every_shape_of_the_same_conversation_counts_the_same():
    text = "Count me once, wherever I stand."
    chat = tokens_of(messages=[{"role": "user", "content": text}])
    assert tokens_of(input=[{"role": "user", "content": [{"type": "input_text", "text": text}]}]) == chat
    assert tokens_of(input=[{"type": "message", "role": "user", "content": text}]) == chat
    assert (
        tokens_of(messages=[{"role": "user", "content": [{"type": "text", "text": text}]}], max_tokens=9)
        == chat
    )
    assert tokens_of(input=text, model="gpt-4o") == chat - text_tokens("user")


def test_instructions_and_a_system_prompt_are_a_message():
    plain = tokens_of(input="hi")
    assert tokens_of(input="hi", instructions="hello world") == plain + 3 + 2
    assert tokens_of(input="hi", system=[{"type": "text", "text": "hello world"}]) == plain + 3 + 2


def test_tools_count_as_their_json():
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    plain = tokens_of(messages=[])
    assert tokens_of(messages=[], tools=tools) == plain + 3 + text_tokens(
        json.dumps(tools, separators=(",", ":"))
    )
    assert tokens_of(messages=[], tools=None, functions=[]) == plain


def test_calls_of_tools_and_their_results_count():
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
    least = text_tokens("assistant", "now", '{"zone":"UTC"}', "tool", "noon") + 3 * 3
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
    assert least <= tokens_of(messages=[{"role": "assistant", "tool_calls": [call]}, answer]) <= least + 8
    use = {"type": "tool_use", "id": "t", "name": "now", "input": {"zone": "UTC", "at": 12.5}}
    least = text_tokens("assistant", "now", '{"zone":"UTC","at":12.5}') + 2 * 3
    assert least <= tokens_of(messages=[{"role": "assistant", "content": [use]}]) <= least + 8


def test_an_image_counts_flat():
    plain = tokens_of(messages=[{"role": "user", "content": []}])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert tokens_of(messages=[{"role": "user", "content": [image, image]}]) == plain + 2 * exact.IMAGE_TOKENS


def test_prompts_that_are_tokens_already_count_one_each():
    assert tokens_of(prompt=[1, 2, 3]) == 3
    assert tokens_of(prompt=[[1, 2], [3]]) == 3
    assert tokens_of(prompt=["hello world", "hello"]) == 3
    assert tokens_of(prompt=[]) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b"\xff",
        b'{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]}]}',
        b'{"input":[{"type":"input_file","file_id":"f"}]}',
        b'{"input":"and then?","previous_response_id":"r"}',
    ],
)
def test_what_cannot_be_counted_is_said_so(body):
    with pytest.raises(ValueError):
        count_prompt(body, "o200k_base")


def test_no_shape_of_json_breaks_the_count():
    chosen = random.Random(5)
    leaves = [None, True, 0, -1, 1.5, 10**18, "x", "", [], {}]
    keys = [
        "messages",
        "input",
        "prompt",
        "tools",
        "system",
        "instructions",
        "role",
        "content",
        "type",
        "name",
        "text",
    ]

    def value(depth: int) -> Any:
        kind = chosen.random()
        if depth and kind < 0.4:
            return {chosen.choice(keys): value(depth - 1) for _ in range(3)}
        return [value(depth - 1) for _ in range(3)] if depth and kind < 0.7 else chosen.choice(leaves)

    for _ in range(2000):
        assert tokens_of(**{chosen.choice(keys): value(4) for _ in range(4)}) >= 0


def test_nesting_is_not_recursion():
    body = b'{"messages":[{"content":' + b"[" * 900 + b'"hi"' + b"]" * 900 + b"}]}"
    assert count_prompt(body, "o200k_base") == 3 + 1 + 3


# vocabularies


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1-nano-2025-04-14", "o200k_base"),
        ("gpt-5.1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o1", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("ft:gpt-4o-2024-08-06:acme::id", "o200k_base"),
        ("openai/gpt-oss-120b", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("GPT-35-Turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("claude-haiku-4-5", ""),
        ("my-deployment", ""),
        ("gpt-40", ""),
        ("olmo-2", ""),
        ("", ""),
    ],
)
def test_the_encoding_is_told_by_the_models_name(model, encoding):
    assert encoding_of(model) == encoding


def test_a_directory_of_vocabularies_is_used_where_it_is_named(monkeypatch, directory):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(directory))
    count = vocabulary.__wrapped__("o200k_base")
    assert [count(text) for text in GOLDEN] == [text_tokens(text) for text in GOLDEN]


def test_a_vocabulary_that_is_not_there_is_an_error_and_not_a_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(VocabularyError, match="no vocabulary o200k_base in"):
        vocabulary.__wrapped__("o200k_base")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    with pytest.raises(VocabularyError, match="no vocabulary p50k_base"):
        ExactCounter("p50k_base")
    assert list(tmp_path.iterdir()) == []


def test_loading_neither_runs_the_packages_own_start_nor_loads_tiktoken():
    code = (
        "import sys; from llmgw.limits.exact import vocabulary; vocabulary('o200k_base');"
        "sys.exit('bpe_openai' in sys.modules or 'tiktoken' in sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "TIKTOKEN_CACHE_DIR"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0


# off the loop


CHAT = json.dumps({"messages": [{"role": "user", "content": "hello world"}]}).encode()
ESTIMATE = 77_777


@pytest.fixture
def counter():
    counter = ExactCounter("o200k_base", deadline_s=30)
    yield counter
    counter.close()


@pytest.fixture
def gate(monkeypatch):
    """While it is not set, a count does not end; `begun` has those that have begun."""
    gate = threading.Event()
    gate.begun = []

    def held(body: bytes, encoding: str, is_plain: bool | None) -> int:
        gate.begun.append(body)
        gate.wait(30)
        return 5

    monkeypatch.setattr(exact, "_count_or_none", held)
    yield gate
    gate.set()


async def test_the_count_comes_from_another_thread(counter, monkeypatch):
    threads = []
    count = exact._count_or_none

    def watched(body: bytes, encoding: str, is_plain: bool | None) -> int | None:
        threads.append(threading.get_ident())
        return count(body, encoding, is_plain)

    monkeypatch.setattr(exact, "_count_or_none", watched)
    assert await counter.count(CHAT, ESTIMATE) == 9
    assert threads and threading.get_ident() not in threads
    assert counter.fallbacks == 0


async def test_the_count_needs_no_current_task(counter):
    results = []

    async def serve() -> None:
        assert asyncio.current_task() is None
        results.append(await counter.count(CHAT, ESTIMATE))

    done = asyncio.Event()
    serving = Serving(serve(), lambda failure: (results.append(failure), done.set()))
    asyncio.get_running_loop().call_soon(serving.start)
    await asyncio.wait_for(done.wait(), 30)
    assert results == [9, None]


async def test_a_body_above_the_bound_keeps_its_estimate(counter, gate):
    assert await counter.count(b" " * (exact.BODY_BYTES_MAX + 1), ESTIMATE) == ESTIMATE
    assert counter.fallbacks == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages":[{"type":"input_audio"}]}'])
async def test_what_cannot_be_counted_keeps_its_estimate(counter, body):
    assert await counter.count(body, ESTIMATE) == ESTIMATE


async def test_a_count_that_takes_too_long_keeps_its_estimate(gate):
    counter = ExactCounter("o200k_base", deadline_s=0.01)
    assert await counter.count(CHAT, ESTIMATE) == ESTIMATE
    assert await counter.count(CHAT, ESTIMATE) == ESTIMATE, "this one had not even begun"
    gate.set()
    counter.close()


async def test_when_too_many_wait_a_further_one_keeps_its_estimate_at_once(counter, gate):
    waiting = [asyncio.ensure_future(counter.count(CHAT, ESTIMATE)) for _ in range(exact.WAITING_MAX)]
    await asyncio.sleep(0)
    assert await counter.count(CHAT, ESTIMATE) == ESTIMATE
    gate.set()
    assert await asyncio.gather(*waiting) == [5] * exact.WAITING_MAX
    assert await counter.count(CHAT, ESTIMATE) == 5, "there is room again"


async def test_a_client_that_leaves_takes_its_count_out_of_the_line(counter, gate):
    waiting = [asyncio.ensure_future(counter.count(CHAT, ESTIMATE)) for _ in range(exact.WAITING_MAX)]
    await asyncio.sleep(0)
    for count in waiting:
        count.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    gate.set()
    assert await counter.count(CHAT, ESTIMATE) == 5
    assert len(gate.begun) <= 2, "of those who left, one was at it already"


async def test_the_loop_goes_on_while_a_long_prompt_is_counted(counter):
    text = "The loop has other requests to serve. " * 26_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    assert 900_000 < len(body) <= exact.BODY_BYTES_MAX
    count = asyncio.ensure_future(counter.count(body, ESTIMATE))
    turns = 0
    while not count.done():
        await asyncio.sleep(0)
        turns += 1
    assert count.result() == count_prompt(body, "o200k_base")
    assert turns >= 50, "of some hundred pieces, the loop had its turn between most"


def test_no_member_of_the_body_makes_a_conversation_plain() -> None:
    body = json.dumps(
        {"model": "embed", "prompt": "", "messages": [{"role": "user", "content": "word " * 500}]}
    )
    assert count_prompt(body.encode(), "o200k_base", is_plain=False) > 500
