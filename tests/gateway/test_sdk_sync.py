"""The official openai package, synchronous, as most of its users call it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from gatewayrig import CLIENT_KEY
from openai import OpenAI

ASK = [{"role": "user", "content": "hello nonce-beef"}]
Value = TypeVar("Value")


@pytest.fixture
def sync_client(gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=CLIENT_KEY) as opened:
        yield opened


async def aside(function: Callable[[], Value]) -> Value:
    return await asyncio.to_thread(function)


async def test_chat_and_its_stream_say_the_same(sync_client):
    def ask() -> tuple[str, str]:
        whole = sync_client.chat.completions.create(model="mock", messages=ASK).choices[0].message.content
        stream = sync_client.chat.completions.create(model="mock", messages=ASK, stream=True)
        return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    whole, streamed = await aside(ask)
    assert whole == streamed
    assert whole.startswith("nonce-beef ")


async def test_streamed_responses_end_in_completed(sync_client):
    def ask() -> list[str]:
        return [event.type for event in sync_client.responses.create(model="mock", input="hi", stream=True)]

    types = await aside(ask)
    assert types[0] == "response.created"
    assert types[-1] == "response.completed"


async def test_embeddings_models_and_files(sync_client):
    def ask() -> tuple[int, list[str], bytes]:
        vectors = sync_client.embeddings.create(model="mock", input="one").data[0].embedding
        names = [model.id for model in sync_client.models.list()]
        file = sync_client.files.create(file=("a.bin", b"\0\1\2" * 1000), purpose="batch")
        return len(vectors), names, sync_client.files.content(file.id).read()

    assert await aside(ask) == (256, ["mock", "renamed"], b"\0\1\2" * 1000)


async def test_a_stream_that_is_left_early_ends_at_the_provider_too(sync_client, gateway, far):
    def ask() -> None:
        paced = {"mock": {"interval_s": 0.05, "events": 500}}
        with sync_client.chat.completions.create(
            model="mock", messages=ASK, stream=True, extra_body=paced
        ) as stream:
            next(iter(stream))

    await aside(ask)
    await far.wait(lambda mock: mock.seen.client_gone == 1)
    line = await gateway.log_line()
    assert line["client_gone"]
    assert line["usage_source"] == "estimated"


async def test_connections_are_kept_and_used_again(sync_client, far):
    def ask() -> None:
        for _ in range(3):
            sync_client.chat.completions.create(model="mock", messages=ASK)

    await aside(ask)
    assert len({arrival.connection for arrival in far.seen}) == 1
    assert [json.loads(arrival.body)["model"] for arrival in far.seen] == ["mock"] * 3
