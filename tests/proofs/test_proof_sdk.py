"""Limits as the users of the official SDK meet them: texts, headers, and what its retries make of them."""

import time
from collections.abc import AsyncIterator, Callable, Iterator

import openai
import pytest
from farend import FarEnd
from gatewayrig import Gateway, up, wait_for
from openai import AsyncOpenAI
from proofkit import A_CENT_EACH, chat
from wireclient import exchange, post, post_chunked

MESSAGES = [{"role": "user", "content": "hello"}]


def tenant(name: str, **more) -> dict:
    """A tenant for one test, whose key is named after it."""
    return {"keys": [{"name": "web", "key": key_of(name)}], **more}


def key_of(name: str) -> str:
    return f"sk-gateway-{name}-4711deadbeef"


TENANTS = {
    "second": {"limits": {"rps": 1}},
    "minute": {"limits": {"rpm": 2, "tpm": 100_000}},
    "both": {"limits": {"rpm": 100, "tpm": 10_000}},
    "small": {"limits": {"tpm": 50}},
    "poor": {"budgets": [{"amount": "0.01", "period": "1d"}]},
    "closed": {"limits": {"rpm": 0}},
    "shadow": {
        "limits": {"rpm": {"limit": 1, "mode": "shadow"}},
        "budgets": [{"amount": "0.01", "period": "1h", "mode": "shadow"}],
    },
    "users": {"users": {"limits": {"rpm": 1}, "budgets": [{"amount": "0.02", "period": "1h"}]}},
    "tags": {"tags": {"nightly": {"limits": {"rpm": 1}}}},
    "plain": {},
}


def config_of(far: FarEnd, second: FarEnd) -> dict:
    target = {"targets": [{"provider": "up"}]}
    return {
        "providers": {
            "up": up(far.port),
            "first": up(far.port, limits={"rpm": 2}),
            "second": up(second.port, limits={"rpm": 2}),
        },
        "models": {
            "mock": {**target, "price": A_CENT_EACH},
            "rare": {**target, "limits": {"rpm": 1}},
            "pair": {"strategy": "ordered", "targets": [{"provider": "first"}, {"provider": "second"}]},
            "*": target,
        },
        "tenants": {name: tenant(name, **more) for name, more in TENANTS.items()},
    }


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[FarEnd, FarEnd]]:
    pair = FarEnd(), FarEnd()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture(scope="module")
def gateway(ends, tmp_path_factory) -> Iterator[Gateway]:
    """One for all tests here: each has a tenant or a model of its own."""
    started = Gateway(tmp_path_factory.mktemp("sdk"), config_of(*ends), workers=2).start()
    yield started
    started.kill()


@pytest.fixture
def far(ends) -> FarEnd:
    for end in ends:
        end.reset()
    return ends[0]


@pytest.fixture
async def client_of(gateway) -> AsyncIterator[Callable[..., AsyncOpenAI]]:
    opened: list[AsyncOpenAI] = []

    def begin(name: str, max_retries: int = 0, **more) -> AsyncOpenAI:
        opened.append(
            AsyncOpenAI(base_url=gateway.base_url, api_key=key_of(name), max_retries=max_retries, **more)
        )
        return opened[-1]

    yield begin
    for client in opened:
        await client.close()


async def ask(client: AsyncOpenAI, model: str = "mock", **more):
    return await client.chat.completions.create(model=model, messages=MESSAGES, **more)


async def refusal(client: AsyncOpenAI, model: str = "mock", **more) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client, model, **more)
    return caught.value


def requests_of(gateway: Gateway, name: str) -> float:
    return gateway.metrics().total("llm_requests_total", tenant=name)


async def test_the_sdk_comes_back_when_it_was_told_and_then_gets_its_answer(far, gateway, client_of):
    client = client_of("second", max_retries=openai.DEFAULT_MAX_RETRIES)
    began_s = time.monotonic()
    for _ in range(3):
        await ask(client)
    assert time.monotonic() - began_s > 2.0
    assert far.requests == 3
    assert requests_of(gateway, "second") == 5, "one refusal each: the hint is exact"


async def test_a_request_limit_speaks_openais_sentence(far, client_of):
    client = client_of("minute")
    await ask(client)
    await ask(client)
    error = await refusal(client)
    assert isinstance(error, openai.RateLimitError)
    assert (error.type, error.code, error.param) == ("requests", "rate_limit_exceeded", None)
    text = "Rate limit reached for mock in organization minute on requests per min (RPM): Limit 2, Used 2, Requested 1."
    assert text in error.message and "Please try again in " in error.message
    headers = error.response.headers
    assert headers["x-should-retry"] == "true"
    assert 50 < int(headers["retry-after"]) <= 61
    assert 0 <= int(headers["retry-after"]) * 1000 - int(headers["retry-after-ms"]) < 1000
    assert far.requests == 2


@pytest.mark.parametrize("lane", [post, post_chunked], ids=["fast", "general"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_answers_tell_the_tightest_limits_in_both_lanes(far, gateway, lane, stream):
    answer = await exchange(gateway.port, lane(chat(stream=stream, max_tokens=10), key=key_of("both")))
    assert answer.status == 200
    names = [
        f"x-ratelimit-{word}-{what}"
        for word in ("limit", "remaining", "reset")
        for what in ("requests", "tokens")
    ]
    told = {name: answer.header(name) for name in names}
    assert None not in told.values()
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("100", "10000")
    assert 90 <= int(told["x-ratelimit-remaining-requests"]) < 100
    assert 9000 < int(told["x-ratelimit-remaining-tokens"]) < 10_000
    assert told["x-ratelimit-reset-requests"].startswith("1m0") or told[
        "x-ratelimit-reset-requests"
    ].endswith("s")


async def test_what_no_limit_holds_has_no_rate_limit_headers(far, gateway):
    answer = await exchange(gateway.port, post(chat(), key=key_of("plain")))
    assert answer.status == 200
    assert not [name for name, _ in answer.headers if name.startswith("x-ratelimit")]


async def test_what_can_never_fit_is_not_tried_again(far, gateway, client_of):
    client = client_of("small", max_retries=openai.DEFAULT_MAX_RETRIES)
    error = await refusal(client, max_tokens=1000)
    assert (error.status_code, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")
    assert error.message.partition(
        "Request too large for mock in organization small on tokens per min (TPM)"
    )[1]
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers
    assert far.requests == 0 and requests_of(gateway, "small") == 1


async def test_a_budget_that_is_used_up_is_not_tried_again(far, gateway, client_of):
    client = client_of("poor", max_retries=openai.DEFAULT_MAX_RETRIES)
    await ask(client)
    error = await refusal(client)
    assert isinstance(error, openai.RateLimitError)
    assert (error.type, error.code) == ("insufficient_quota", "insufficient_quota")
    assert "the budget of $0.01 per day in organization poor is used up" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    assert far.requests == 1 and requests_of(gateway, "poor") == 2


async def test_what_has_no_price_is_refused_under_a_budget(far, client_of):
    error = await refusal(client_of("poor"), "unheard-of")
    assert isinstance(error, openai.PermissionDeniedError)
    assert error.code == "price_unknown" and far.requests == 0


async def test_a_limit_of_nothing_refuses_everything(far, client_of):
    error = await refusal(client_of("closed", max_retries=openai.DEFAULT_MAX_RETRIES))
    assert (error.status_code, error.type) == (429, "requests")
    assert error.response.headers["x-should-retry"] == "false" and far.requests == 0


async def test_a_shadow_limit_refuses_nothing_and_counts_what_it_would_have(far, gateway, client_of):
    client = client_of("shadow")
    for _ in range(4):
        await ask(client)
    assert far.requests == 4

    def counted() -> bool:
        by = gateway.metrics().by("llm_rate_limit_shadow_exceeded_total", "limit")
        return by == {"tenant:budget:1h": 3, "tenant:rpm": 3}

    await wait_for("the shadow limits are counted", counted)
    assert gateway.metrics().total("llm_rate_limit_exceeded_total", tenant="shadow") == 0


async def test_each_user_has_limits_of_its_own(far, client_of):
    client = client_of("users")
    await ask(client, user="ann")
    error = await refusal(client, user="ann")
    assert (error.status_code, error.type) == (429, "requests")
    await ask(client, user="bob")
    await ask(client)
    await ask(client)
    assert far.requests == 4


async def test_a_tag_has_limits_of_its_own(far, client_of):
    client = client_of("tags")
    for header in ("nightly", "other", "other,another"):
        await ask(client, extra_headers={"x-llmgw-tags": header})
    for header in ("nightly", "other, nightly"):
        error = await refusal(client, extra_headers={"x-llmgw-tags": header})
        assert (error.status_code, error.type) == (429, "requests")
    await ask(client)
    assert far.requests == 4


async def test_a_model_has_limits_of_its_own(far, client_of):
    await ask(client_of("plain"), "rare")
    error = await refusal(client_of("minute"), "rare")
    assert error.status_code == 429 and "for rare in organization minute" in error.message
    await ask(client_of("plain"), "common")
    assert far.requests == 2


async def test_the_second_target_serves_what_the_firsts_quota_has_no_room_for(far, ends, client_of):
    client = client_of("plain")
    for _ in range(4):
        await ask(client, "pair")
    assert [end.requests for end in ends] == [2, 2]
    error = await refusal(client, "pair")
    assert (error.status_code, error.type) == (429, "requests")
    assert "first" not in error.message and "second" not in error.message
    assert [end.requests for end in ends] == [2, 2]
