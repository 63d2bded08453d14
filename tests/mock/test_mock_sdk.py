"""The official openai package parses every shape of the mock."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, OpenAI
from pydantic import BaseModel

from llmgw.mock import Mock

ASK = [{"role": "user", "content": "hello nonce-beef"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
        },
    },
}
BLOB = bytes(range(256)) * 300


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{mock.port}/v1", api_key="k", max_retries=0) as opened:
        yield opened


async def test_chat_and_its_usage(client):
    answer = await client.chat.completions.create(model="m", messages=ASK)
    assert answer.choices[0].message.content.startswith("nonce-beef ")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_stream_is_role_then_content_then_finish_then_usage(client):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="m",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"mock": {"events": 4, "text": "a b c d "}},
        )
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "nonce-beef a b c d "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 5
    assert len(chunks) == 7


async def test_the_synchronous_client_reads_both_forms(mock):
    def ask() -> tuple[str, str]:
        with OpenAI(base_url=f"http://127.0.0.1:{mock.port}/v1", api_key="k", max_retries=0) as client:
            whole = client.chat.completions.create(model="m", messages=ASK).choices[0].message.content
            stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
            return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
async def test_a_required_tool_is_called_with_arguments_of_its_schema(client, choice):
    answer = await client.chat.completions.create(model="m", messages=ASK, tools=[TOOL], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "look_up")
    assert json.loads(call.function.arguments) == {"city": "nonce-beef", "days": 2}


async def test_streamed_tool_deltas_add_up_to_the_same_call(client):
    async with client.chat.completions.stream(
        model="m", messages=ASK, tools=[TOOL], tool_choice="required"
    ) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "nonce-beef", "days": 2}


async def test_tools_are_not_called_unless_required(client):
    answer = await client.chat.completions.create(model="m", messages=ASK, tools=[TOOL])
    assert answer.choices[0].message.tool_calls is None


class Step(BaseModel):
    why: str
    sure: bool


class Plan(BaseModel):
    title: str
    steps: list[Step]
    score: float
    note: str | None


async def test_a_json_schema_is_satisfied(client):
    answer = await client.chat.completions.parse(model="m", messages=ASK, response_format=Plan)
    plan = answer.choices[0].message.parsed
    assert plan.title == "nonce-beef"
    assert plan.steps == [Step(why="nonce-beef", sure=True)]


async def test_json_object_is_an_object(client):
    answer = await client.chat.completions.create(
        model="m", messages=ASK, response_format={"type": "json_object"}
    )
    assert "nonce-beef" in json.loads(answer.choices[0].message.content)["answer"]


async def test_vision_parts_are_accepted_and_counted(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "what"}, image]
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    assert answer.usage.prompt_tokens == 1 + 85


async def test_more_than_one_choice_is_refused(client):
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="m", messages=ASK, n=2)


async def test_completions_whole_and_streamed(client):
    whole = await client.completions.create(model="m", prompt="nonce-aa")
    stream = await client.completions.create(
        model="m%d", prompt="nonce-aa", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert chunks[0].model == "m%d"


async def test_embeddings_are_the_same_in_both_encodings(client):
    asked = {"model": "e", "input": ["one", "two"], "dimensions": 40}
    packed = await client.embeddings.create(**asked)  # the package asks for base64
    plain = await client.embeddings.create(**asked, encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert len(packed.data) == 2
    assert len(packed.data[0].embedding) == 40
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == 2


@pytest.mark.parametrize("given", ["one", ["one"], [1, 2, 3], [[1, 2, 3]]])
async def test_embeddings_take_each_form_of_input(client, given):
    assert len((await client.embeddings.create(model="e", input=given)).data) == 1


async def test_responses_whole(client):
    answer = await client.responses.create(model="m", input="nonce-cafe", instructions="be brief")
    assert answer.output_text.startswith("nonce-cafe ")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


async def test_responses_streamed_end_in_completed_with_usage(client):
    text, last, numbers = "", None, []
    async for event in await client.responses.create(model="m", input="nonce-cafe", stream=True):
        numbers.append(event.sequence_number)
        text += event.delta if event.type == "response.output_text.delta" else ""
        last = event
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.usage.output_tokens > 0
    assert numbers == list(range(len(numbers)))


async def test_models_are_listed_and_found(client):
    assert [model.id async for model in client.models.list()] == ["mock"]
    assert (await client.models.retrieve("mock")).id == "mock"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other")


async def test_a_file_comes_back_byte_for_byte(client):
    file = await client.files.create(file=("blob.bin", BLOB), purpose="batch")
    assert (file.bytes, file.filename, file.sha256) == (
        len(BLOB),
        "blob.bin",
        hashlib.sha256(BLOB).hexdigest(),
    )
    assert (await client.files.content(file.id)).content == BLOB
    assert [listed.id async for listed in client.files.list()] == [file.id]
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_old_files_make_room(start_mock):
    mock = await start_mock(max_files_bytes=1000)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{mock.port}/v1", api_key="k") as client:
        for letter in "ab":
            last = await client.files.create(file=("f", letter.encode() * 600), purpose="batch")
        assert [listed.id async for listed in client.files.list()] == [last.id]


async def test_an_upload_is_counted_and_its_model_read(client):
    answer = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", BLOB))
    assert (answer.model, answer.bytes) == ("whisper-1", len(BLOB))
    assert answer.sha256 == hashlib.sha256(BLOB).hexdigest()


async def test_a_transcription_may_be_plain_text(client):
    answer = await client.audio.transcriptions.create(model="w", file=("a.wav", b"x"), response_format="text")
    assert answer.startswith("This is the mock")


async def test_speech_is_binary(client):
    asked = {
        "model": "tts-1",
        "voice": "alloy",
        "input": "hi",
        "extra_body": {"mock": {"text_bytes": 50_001}},
    }
    first, second = [await client.audio.speech.create(**asked) for _ in range(2)]
    assert first.content == second.content
    assert len(first.content) == 50_001
    assert first.response.headers["content-type"] == "audio/mpeg"


async def test_moderations_and_images(client):
    moderation = await client.moderations.create(input=["a", "b"])
    assert [result.flagged for result in moderation.results] == [False, False]
    image = await client.images.generate(prompt="a dot", model="gpt-image-1")
    assert base64.b64decode(image.data[0].b64_json).startswith(b"\x89PNG")
    linked = await client.images.generate(prompt="a dot", response_format="url")
    assert linked.data[0].url.startswith("https://")


async def test_azures_paths_and_key_header(mock):
    async with AsyncAzureOpenAI(
        azure_endpoint=f"http://127.0.0.1:{mock.port}", api_key="k", api_version="2024-10-21", max_retries=0
    ) as client:
        answer = await client.chat.completions.create(model="my-deployment", messages=ASK)
    assert answer.model == "my-deployment"
    assert mock.seen[0].path == "/openai/deployments/my-deployment/chat/completions"
    assert mock.seen[0].query == "api-version=2024-10-21"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_each_status_raises_its_exception(client, status, error):
    with pytest.raises(error) as raised:
        await client.chat.completions.create(model="m", messages=ASK, extra_body={"mock": {"status": status}})
    assert raised.value.status_code == status


async def test_the_package_retries_a_scripted_failure_once(mock):
    mock.script({"status": 503, "retry_after_ms": 1})
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{mock.port}/v1", api_key="k", max_retries=1) as client:
        await client.chat.completions.create(model="m", messages=ASK)
    assert [arrival.status for arrival in mock.seen] == [503, 200]


async def test_an_error_event_raises_in_the_middle_of_a_stream(client):
    stream = await client.chat.completions.create(
        model="m", messages=ASK, stream=True, extra_body={"mock": {"error_event": 2}}
    )
    with pytest.raises(openai.APIError, match="The server had an error"):
        [chunk async for chunk in stream]
