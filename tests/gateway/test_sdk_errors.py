"""Every error reaches the official SDK as the right exception, and after the right number of attempts."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from gatewayrig import CLIENT_KEY, ONCE, OTHER_KEY, POLL_S, UPSTREAM_KEY, Gateway, secrets_in, up
from openai import AsyncOpenAI
from wireclient import chat

ASK = [{"role": "user", "content": "hello"}]
HASTY = {"first_token": "300ms", "idle": "300ms"}


@pytest.fixture(scope="module")
def strict_gateway(shared_far, tmp_path_factory) -> Iterator[Gateway]:
    """Knows few models, waits for nobody, and takes no large bodies."""
    config = {
        "server": {"max_body": "64KB", "timeouts": {"body": "400ms", "header": "400ms"}},
        "providers": {
            "up": up(shared_far.port),
            "hasty": up(shared_far.port, timeouts=HASTY),
            "dead": {"dialect": "openai", "breaker": "off", "base_url": "http://127.0.0.1:1/v1"},
        },
        "models": {
            "mock": ONCE | {"targets": [{"provider": "up"}]},
            "hasty": ONCE | {"targets": [{"provider": "hasty"}]},
            "dead": ONCE | {"targets": [{"provider": "dead"}]},
        },
        "tenants": {
            "acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]},
            "narrow": {"models": ["mock"], "keys": [{"name": "one", "key": OTHER_KEY}]},
        },
        "routes": {"/v1/files*": "up"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("strict"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def strict(strict_gateway, far) -> Gateway:
    await strict_gateway.forget_log()
    far.reset()
    return strict_gateway


@pytest.fixture
async def sdk(strict) -> AsyncIterator[AsyncOpenAI]:
    """With the two retries that the package has by default."""
    async with AsyncOpenAI(base_url=strict.base_url, api_key=CLIENT_KEY) as opened:
        assert opened.max_retries == 2
        yield opened


# of the mock's member -> exception, status and code that the client sees, requests that the mock saw
OWN_ERRORS = [
    ({"stream": "yes"}, openai.BadRequestError, 400, None, 0),
    ({"max_tokens": -1}, openai.BadRequestError, 400, None, 0),
    ({"model": "nobody-knows"}, openai.NotFoundError, 404, "model_not_found", 0),
    ({"user": "x" * 70_000}, openai.APIStatusError, 413, "request_too_large", 0),
    ({"model": "dead"}, openai.InternalServerError, 502, "upstream_error", 0),
    ({"mock": {"close": "before-head"}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"reset": "bytes:20"}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"garbage": "http"}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"garbage": "json"}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"status": 401}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"status": 403}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"status": 500}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"mock": {"status": 503, "retry_after_ms": 1}}, openai.InternalServerError, 502, "upstream_error", 1),
    ({"model": "hasty", "mock": {"delay_s": 30}}, openai.InternalServerError, 504, "upstream_timeout", 1),
    (
        {"model": "hasty", "mock": {"stall": "bytes:9"}},
        openai.InternalServerError,
        504,
        "upstream_timeout",
        1,
    ),
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("asked", "exception", "status", "code", "arrivals"), OWN_ERRORS, ids=lambda value: str(value)[:40]
)
async def test_an_error_of_the_gateway_is_raised_after_one_attempt(
    sdk, strict, far, asked, exception, status, code, arrivals, streams
):
    if streams and "garbage" in asked.get("mock", {}):
        asked = {"mock": {"garbage": "http"}}
    if streams and "stall" in asked.get("mock", {}):
        asked = {"model": "hasty", "mock": {"stall": "after-head"}}
    if streams and "bytes:20" in asked.get("mock", {}).values():
        asked = {"mock": {"reset": "after-head"}}
    arguments = {"model": "mock", "messages": ASK, "stream": streams, "extra_body": asked}
    with pytest.raises(exception) as raised:
        await sdk.chat.completions.create(**arguments)
    error = raised.value
    assert (error.status_code, error.code) == (status, code)
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id.startswith("req_")
    assert not secrets_in(error.response.content)
    line = await strict.log_line()
    assert (line["status"], line["request_id"]) == (status, error.request_id)
    assert len(far.seen) == arrivals


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_clients_error_that_the_provider_reports_keeps_its_body(sdk, strict, far, status):
    mock = {"status": status, "message": "Your number 7 is odd.", "code": "odd_number"}
    with pytest.raises(openai.APIStatusError, match="Your number 7 is odd.") as raised:
        await sdk.chat.completions.create(model="mock", messages=ASK, extra_body={"mock": mock})
    expected = {400: openai.BadRequestError, 404: openai.NotFoundError, 422: openai.UnprocessableEntityError}
    assert type(raised.value) is expected.get(status, openai.APIStatusError)
    assert (raised.value.status_code, raised.value.code) == (status, "odd_number")
    assert raised.value.response.headers["x-llmgw-provider"] == "up"
    assert (await strict.log_line())["status"] == status
    assert len(far.seen) == 1


@pytest.mark.parametrize("key", ["sk-wrong-1234567890", CLIENT_KEY[:-1], CLIENT_KEY + "0", UPSTREAM_KEY])
async def test_an_unknown_key_is_an_authentication_error_and_nothing_goes_upstream(strict, far, key):
    async with AsyncOpenAI(base_url=strict.base_url, api_key=key) as sdk:
        with pytest.raises(openai.AuthenticationError) as raised:
            await sdk.chat.completions.create(model="mock", messages=ASK)
    assert raised.value.code == "invalid_api_key"
    assert key not in raised.value.response.text
    line = await strict.log_line()
    assert (line["status"], line["tenant_id"], line["key_name"]) == (401, "", "")
    assert far.requests == 0


async def test_a_model_off_the_keys_list_is_a_permission_error_whether_or_not_it_exists(strict, far):
    messages = []
    async with AsyncOpenAI(base_url=strict.base_url, api_key=OTHER_KEY) as sdk:
        for model in ("hasty", "nobody-knows"):
            with pytest.raises(openai.PermissionDeniedError) as raised:
                await sdk.chat.completions.create(model=model, messages=ASK)
            assert (raised.value.code, raised.value.param) == ("model_access_denied", "model")
            assert raised.value.type == "permission_error"
            messages.append(raised.value.message.replace(model, "MODEL"))
    assert len(set(messages)) == 1
    assert [line["status"] for line in await strict.log_lines(2)] == [403, 403]
    assert far.requests == 0


async def test_an_unknown_model_names_its_parameter(sdk):
    with pytest.raises(openai.NotFoundError, match="`nobody-knows` does not exist") as raised:
        await sdk.chat.completions.create(model="nobody-knows", messages=ASK)
    assert raised.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("nobody-knows")


async def test_a_route_that_no_provider_serves_is_unknown(sdk, far):
    with pytest.raises(openai.NotFoundError) as raised:
        await sdk.moderations.create(input="x")
    assert raised.value.code == "unknown_url"
    assert far.requests == 0


async def test_a_body_that_drips_is_a_timeout_that_is_not_tried_again(sdk, strict, far):
    body = chat()
    began_s = time.monotonic()

    async def drip() -> AsyncIterator[bytes]:
        yield body[:10]
        while not strict.metrics().total("llm_requests_total", status="408"):
            yield b" "
            await asyncio.sleep(POLL_S)

    with pytest.raises(openai.APIStatusError) as raised:
        await sdk.post("/chat/completions", cast_to=object, content=drip())
    assert (raised.value.status_code, raised.value.code) == (408, "request_timeout")
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert time.monotonic() - began_s < 20
    assert [line["status"] for line in await strict.log_lines(1)] == [408]
    assert far.requests == 0


async def test_a_stream_that_breaks_raises_in_the_middle_and_is_not_tried_again(sdk, strict, far):
    broken = {"mock": {"events": 20, "interval_s": 0.02, "reset": "events:6"}}
    stream = await sdk.chat.completions.create(model="mock", messages=ASK, stream=True, extra_body=broken)
    chunks = []
    with pytest.raises(openai.APIError, match="closed the connection before") as raised:
        async for chunk in stream:
            chunks.append(chunk)
    assert len(chunks) <= 6
    assert raised.value.code == "upstream_error"
    line = await strict.log_line()
    assert (line["status"], line["error_code"], line["attempts"]) == (200, "upstream_error", 1)
    assert far.requests == 1


async def test_an_error_event_of_the_provider_is_raised_where_it_stands(sdk, strict, far):
    broken = {"mock": {"events": 20, "interval_s": 0.02, "error_event": 6}}
    stream = await sdk.chat.completions.create(model="mock", messages=ASK, stream=True, extra_body=broken)
    chunks = []
    with pytest.raises(openai.APIError, match="The server had an error"):
        async for chunk in stream:
            chunks.append(chunk)
    assert len(chunks) == 6
    assert far.requests == 1
    assert (await strict.log_line())["error_code"]
