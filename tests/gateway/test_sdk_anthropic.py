"""Errors of the gateway on Anthropic's routes reach Anthropic's SDK as its own."""

import json
from collections.abc import AsyncIterator, Iterator

import anthropic
import pytest
from anthropic import AsyncAnthropic
from gatewayrig import CLIENT_KEY, ONCE, OTHER_KEY, Gateway, up
from wireclient import exchange, post

ASK = [{"role": "user", "content": "hello"}]
PATH = "/v1/messages"


@pytest.fixture(scope="module")
def claude_gateway(shared_far, tmp_path_factory) -> Iterator[Gateway]:
    config = {
        "server": {"max_body": "64KB"},
        "providers": {
            "up": up(shared_far.port),
            "hasty": up(shared_far.port, timeouts={"first_token": "250ms", "idle": "250ms"}),
            "resting": up(shared_far.port),
        },
        "models": {
            "mock": ONCE | {"targets": [{"provider": "up"}]},
            "hasty": ONCE | {"targets": [{"provider": "hasty"}]},
            "busy": ONCE | {"targets": [{"provider": "up"}], "limits": {"rpm": 1}},
            "resting": ONCE | {"targets": [{"provider": "resting"}]},
        },
        "tenants": {
            "acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]},
            "narrow": {"models": ["mock"], "keys": [{"name": "one", "key": OTHER_KEY}]},
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("claude"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def served(claude_gateway, far) -> Gateway:
    await claude_gateway.forget_log()
    far.reset()
    return claude_gateway


@pytest.fixture
async def sdk(served) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=served.url, api_key=CLIENT_KEY) as opened:
        yield opened


# what is asked -> exception, status, type
OWN_ERRORS = [
    ({"stream": "yes"}, anthropic.BadRequestError, 400, "invalid_request_error"),
    ({"model": "nobody-knows"}, anthropic.NotFoundError, 404, "not_found_error"),
    ({"user": "x" * 70_000}, anthropic.RequestTooLargeError, 413, "request_too_large"),
    ({"mock": {"status": 500}}, anthropic.InternalServerError, 502, "api_error"),
    ({"model": "hasty", "mock": {"delay_s": 30}}, anthropic.DeadlineExceededError, 504, "timeout_error"),
]


@pytest.mark.parametrize(("asked", "exception", "status", "kind"), OWN_ERRORS, ids=lambda v: str(v)[:30])
async def test_an_error_is_anthropics_in_class_and_shape_and_is_not_tried_again(
    sdk, served, far, asked, exception, status, kind
):
    with pytest.raises(exception) as raised:
        await sdk.messages.create(model="mock", max_tokens=9, messages=ASK, extra_body=asked)
    response = raised.value.response
    assert raised.value.body == {
        "type": "error",
        "error": {"type": kind, "message": raised.value.body["error"]["message"]},
        "request_id": response.headers["x-request-id"],
    }
    assert raised.value.status_code == status
    assert response.headers["x-should-retry"] == "false"
    assert (await served.log_line())["status"] == status
    assert len(far.seen) == (status > 500)


@pytest.mark.parametrize(
    ("key", "exception", "kind"),
    [
        ("sk-wrong-1234567890", anthropic.AuthenticationError, "authentication_error"),
        (OTHER_KEY, anthropic.PermissionDeniedError, "permission_error"),
    ],
)
async def test_who_may_not_is_told_in_anthropics_words(served, far, key, exception, kind):
    async with AsyncAnthropic(base_url=served.url, api_key=key) as sdk:
        with pytest.raises(exception) as raised:
            await sdk.messages.count_tokens(model="hasty", messages=ASK)
    assert raised.value.body["error"]["type"] == kind
    assert far.requests == 0


async def test_a_limit_is_a_rate_limit_error_with_the_wait(served, far):
    async with AsyncAnthropic(base_url=served.url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        await sdk.messages.create(model="busy", max_tokens=9, messages=ASK)
        with pytest.raises(anthropic.RateLimitError) as raised:
            await sdk.messages.create(model="busy", max_tokens=9, messages=ASK)
    headers = raised.value.response.headers
    assert raised.value.body["error"]["type"] == "rate_limit_error"
    assert headers["x-should-retry"] == "true"
    assert 0 < int(headers["retry-after"]) <= 61
    assert far.requests == 1


async def test_a_provider_that_rests_is_overloaded(served, far):
    body = {"model": "resting", "max_tokens": 9, "messages": ASK}
    limited = json.dumps(body | {"mock": {"status": 429, "retry_after_ms": 30_000}}).encode()
    await exchange(served.port, post(limited, PATH))
    answer = await exchange(served.port, post(json.dumps(body).encode(), PATH))
    assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")
    assert answer.header("x-should-retry") == "true"
    assert answer.header("retry-after") is not None


async def test_a_stream_that_breaks_ends_in_anthropics_error_event(sdk, served):
    broken = {"mock": {"events": 20, "interval_s": 0.02, "reset": "events:6"}}
    stream = await sdk.messages.create(
        model="mock", max_tokens=99, messages=ASK, stream=True, extra_body=broken
    )
    seen = []
    with pytest.raises(anthropic.APIStatusError, match="closed the connection") as raised:
        async for event in stream:
            seen.append(event.type)
    assert seen[0] == "message_start"
    assert raised.value.body["error"]["type"] == "api_error"
    line = await served.log_line()
    assert (line["status"], line["error_code"]) == (200, "upstream_error")


async def test_a_models_list_keeps_openais_shape(served):
    async with AsyncAnthropic(base_url=served.url, api_key="sk-wrong-1234567890") as sdk:
        with pytest.raises(anthropic.AuthenticationError) as raised:
            await sdk.models.list()
    assert raised.value.body["error"]["code"] == "invalid_api_key"
