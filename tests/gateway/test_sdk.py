"""The official openai package, asynchronous, against the gateway: what works there works here."""

import base64
import hashlib
import json

import pytest
from gatewayrig import UPSTREAM_KEY
from pydantic import BaseModel

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
BLOB = bytes(range(256)) * 900  # no text codec survives it, and it does not fit into one read


class Step(BaseModel):
    why: str
    sure: bool


class Plan(BaseModel):
    title: str
    steps: list[Step]
    score: float
    note: str | None


async def test_chat_answers_with_what_the_provider_said(client, far):
    answer = await client.chat.completions.create(model="mock", messages=ASK)
    assert answer.choices[0].message.content.startswith("nonce-beef This is the mock provider.")
    assert answer.usage.prompt_tokens == 4
    (seen,) = far.seen
    assert json.loads(seen.body) == {"messages": ASK, "model": "mock"}
    assert seen.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]


async def test_a_raw_response_tells_who_answered_and_what_it_cost(client):
    raw = await client.chat.completions.with_raw_response.create(model="mock", messages=ASK)
    answer = raw.parse()
    cost_usd = (answer.usage.prompt_tokens * 1 + answer.usage.completion_tokens * 2) / 1e6
    assert float(raw.headers["x-llmgw-cost-usd"]) == pytest.approx(cost_usd, abs=1e-9)
    assert raw.headers["x-llmgw-provider"] == "up"
    assert raw.headers["x-llmgw-attempts"] == "1"
    assert answer._request_id == raw.headers["x-request-id"]


async def test_a_stream_without_asking_for_usage_brings_none(client, far):
    chunks = [
        chunk async for chunk in await client.chat.completions.create(model="mock", messages=ASK, stream=True)
    ]
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert json.loads(far.seen[0].body)["stream_options"] == {"include_usage": True}


async def test_a_stream_that_asks_for_usage_gets_it_in_its_last_chunk(client):
    stream = await client.chat.completions.create(
        model="mock", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert (chunks[-1].choices, chunks[-1].usage.prompt_tokens) == ([], 4)
    assert all("usage" in chunk.model_fields_set for chunk in chunks)


async def test_the_stream_helper_adds_up_to_the_whole_answer(client):
    whole = await client.chat.completions.create(model="mock", messages=ASK)
    async with client.chat.completions.stream(model="mock", messages=ASK) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
async def test_a_tool_call_comes_back_whole(client, choice):
    answer = await client.chat.completions.create(
        model="mock", messages=ASK, tools=[TOOL], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "look_up")
    assert json.loads(call.function.arguments) == {"city": "nonce-beef", "days": 2}


async def test_streamed_tool_deltas_add_up_to_the_same_call(client):
    async with client.chat.completions.stream(
        model="mock", messages=ASK, tools=[TOOL], tool_choice="required"
    ) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "nonce-beef", "days": 2}


async def test_a_json_schema_is_parsed_by_the_helper(client):
    answer = await client.chat.completions.parse(model="mock", messages=ASK, response_format=Plan)
    assert answer.choices[0].message.parsed.steps == [Step(why="nonce-beef", sure=True)]


async def test_a_streamed_json_schema_is_parsed_by_the_helper(client):
    async with client.chat.completions.stream(model="mock", messages=ASK, response_format=Plan) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed.title == "nonce-beef"


async def test_vision_parts_of_any_size_go_through_unchanged(client, far):
    url = "data:image/png;base64," + base64.b64encode(BLOB).decode()
    parts = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = await client.chat.completions.create(model="mock", messages=[{"role": "user", "content": parts}])
    assert answer.usage.prompt_tokens == 1 + 85
    assert far.seen[0].body_bytes > len(url)


async def test_completions_whole_and_streamed(client):
    whole = await client.completions.create(model="mock", prompt="nonce-aa")
    stream = await client.completions.create(model="mock", prompt="nonce-aa", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert all(chunk.usage is None for chunk in chunks)


async def test_embeddings_are_the_same_in_both_encodings(client):
    asked = {"model": "mock", "input": ["one", "two"], "dimensions": 40}
    packed = await client.embeddings.create(**asked)  # the package asks for base64
    plain = await client.embeddings.create(**asked, encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert len(packed.data) == 2
    assert packed.usage.prompt_tokens == 2


async def test_models_are_the_names_that_may_be_asked_for_and_nobody_else_is_asked(client, far):
    assert [model.id async for model in client.models.list()] == ["mock", "renamed"]
    assert (await client.models.retrieve("mock")).id == "mock"
    assert far.requests == 0


async def test_responses_whole(client):
    answer = await client.responses.create(model="mock", input="nonce-cafe", instructions="be brief")
    assert answer.output_text.startswith("nonce-cafe ")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


async def test_responses_streamed_end_in_completed_with_usage(client):
    text, last, numbers = "", None, []
    async for event in await client.responses.create(model="mock", input="nonce-cafe", stream=True):
        numbers.append(event.sequence_number)
        text += event.delta if event.type == "response.output_text.delta" else ""
        last = event
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.usage.output_tokens > 0
    assert numbers == list(range(len(numbers)))


async def test_a_response_is_parsed_by_the_helper(client):
    text = Step(why="because", sure=True).model_dump_json()
    answer = await client.responses.parse(
        model="mock", input="why", text_format=Step, extra_body={"mock": {"text": text}}
    )
    assert answer.output_parsed == Step(why="because", sure=True)


async def test_a_file_comes_back_byte_for_byte_and_can_be_deleted(client, far):
    file = await client.files.create(file=("blob.bin", BLOB), purpose="batch")
    assert file.sha256 == hashlib.sha256(BLOB).hexdigest()
    assert (await client.files.content(file.id)).content == BLOB
    assert [listed.id async for listed in client.files.list()] == [file.id]
    assert (await client.files.delete(file.id)).deleted
    assert [arrival.method for arrival in far.seen] == ["POST", "GET", "GET", "DELETE"]
    assert {value for arrival in far.seen for value in arrival.values("authorization")} == {
        f"Bearer {UPSTREAM_KEY}"
    }


async def test_speech_is_binary_and_streamed(client):
    asked = {
        "model": "mock",
        "voice": "alloy",
        "input": "hi",
        "extra_body": {"mock": {"text_bytes": 700_001}},
    }
    whole = await client.audio.speech.create(**asked)
    async with client.audio.speech.with_streaming_response.create(**asked) as streamed:
        pieces = [piece async for piece in streamed.iter_bytes(10_000)]
    assert len(whole.content) == 700_001
    assert b"".join(pieces) == whole.content
    assert whole.response.headers["content-type"] == "audio/mpeg"


async def test_a_transcription_is_uploaded_whole_and_accounted_under_its_model(client, gateway, far):
    answer = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", BLOB))
    assert (answer.model, answer.bytes) == ("gpt-4o-transcribe", len(BLOB))
    assert answer.sha256 == hashlib.sha256(BLOB).hexdigest()
    line = await gateway.log_line()
    assert (line["model_requested"], line["endpoint"]) == ("gpt-4o-transcribe", "/v1/audio/transcriptions")
    assert (line["output_tokens"], line["usage_source"]) == (answer.usage.output_tokens, "reported")


async def test_a_transcription_under_another_name_is_asked_for_under_the_providers_own(client):
    answer = await client.audio.transcriptions.create(model="renamed", file=("a.wav", BLOB))
    assert answer.model == "its-real-name"
    assert answer.sha256 == hashlib.sha256(BLOB).hexdigest()


async def test_a_transcription_may_be_plain_text(client):
    answer = await client.audio.transcriptions.create(
        model="mock", file=("a.wav", b"x"), response_format="text"
    )
    assert answer.startswith("This is the mock")


async def test_moderations_and_images_are_passed_on(client):
    moderation = await client.moderations.create(input=["a", "b"])
    assert [result.flagged for result in moderation.results] == [False, False]
    image = await client.images.generate(prompt="a dot", model="mock")
    assert base64.b64decode(image.data[0].b64_json).startswith(b"\x89PNG")


async def test_only_listed_headers_of_the_sdk_go_upstream(client, far):
    await client.chat.completions.create(
        model="mock",
        messages=ASK,
        extra_headers={
            "Idempotency-Key": "once",
            "OpenAI-Beta": "x=y",
            "OpenAI-Organization": "org",
            "X-Own": "1",
        },
    )
    assert {name.lower() for name, _ in far.seen[0].headers} == {
        "host",
        "user-agent",
        "accept-encoding",
        "authorization",
        "accept",
        "openai-beta",
        "idempotency-key",
        "content-type",
        "content-length",
    }
    assert far.seen[0].values("user-agent")[0].startswith("llmgw/")
