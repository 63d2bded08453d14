"""Another model in its place, by why the first could not: what it costs and may is that model's."""

import json

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, Gateway, up
from openai import AsyncOpenAI
from proofkit import records
from wireclient import chat, exchange, post

ONCE = {"retry": {"max_attempts": 1}}
CAUSES = {
    "rate_limit": {"status": 429, "retry_after": "1"},
    "timeout": {"stall": "before-head"},
    "server_error": {"status": 500},
    "context_length": {"status": 400, "code": "context_length_exceeded"},
    "content_policy": {"status": 400, "code": "content_policy_violation"},
}
WORDS = {
    "rate_limit": "429",
    "timeout": "timeout",
    "server_error": "500",
    "context_length": "400",
    "content_policy": "400",
}
DOLLARS = {cause: number + 2 for number, cause in enumerate(CAUSES)}  # for a million output tokens


def named(number: int) -> dict[str, str]:
    return {"input": "0", "output": f"{number}.00"}


@pytest.fixture(scope="module")
def shared_gateway(far_ends, module_gateway):
    calm = {"breaker": "off", "retry_budget": {"per_second": 1000}}
    a, b, c = (end.port for end in far_ends)
    first = {**ONCE, "targets": [{"provider": "a"}], "price": named(1)}
    config = {
        "providers": {
            "a": up(a, timeouts={"first_token": "250ms"}, **calm),
            "b": up(b, **calm),
            "c": up(c, **calm),
            **{
                name: up(a, timeouts={"first_token": "250ms"}, breaker={"failures": 2, "open": "1m"})
                for name in ("opens", "opens-alone")
            },
        },
        "models": {
            "mock": {**first, "fallbacks": {cause: [f"for-{cause}"] for cause in CAUSES}},
            **{
                f"for-{cause}": {
                    **ONCE,
                    "targets": [{"provider": "b", "model": f"b-{cause}"}],
                    "price": named(dollars),
                }
                for cause, dollars in DOLLARS.items()
            },
            "listed": {**first, "fallbacks": ["one", "two"]},
            "one": {
                **ONCE,
                "targets": [{"provider": "b"}],
                "limits": {"rpm": 1},
                "fallbacks": ["never"],
            },
            "opens": {
                **ONCE,
                "targets": [{"provider": "opens"}],
                "fallbacks": {"default": ["two"], "timeout": ["at-b"]},
            },
            "opens-alone": {
                **ONCE,
                "targets": [{"provider": "opens-alone"}],
                "fallbacks": {"default": ["two"], "timeout": []},
            },
            "at-b": {**ONCE, "targets": [{"provider": "b"}]},
            "two": {**ONCE, "targets": [{"provider": "c", "model": "c-two"}]},
            "never": {**ONCE, "targets": [{"provider": "c", "model": "c-never"}]},
        },
        "tenants": {
            "acme": {"models": ["mock", "listed", "opens*"], "keys": [{"name": "web", "key": CLIENT_KEY}]}
        },
    }
    return module_gateway(config)


@pytest.fixture
async def gateway(shared_gateway: Gateway, a: FarEnd, b: FarEnd, c: FarEnd) -> Gateway:
    await shared_gateway.forget_log()
    for end in (a, b, c):
        end.reset()
    return shared_gateway


def charged(gateway: Gateway, request_id: str) -> list[tuple[str, str, bool]]:
    found = [one for one in records(gateway) if one["request_id"] == request_id]
    return [(one["model"], one["model_used"], one["charged"]) for one in found]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cause", CAUSES)
async def test_each_cause_has_its_own_model_and_that_is_paid_for(gateway, a, b, cause, stream):
    a.script(CAUSES[cause])
    answer = await exchange(gateway.port, post(chat("nonce-beef", stream=stream)))
    assert (answer.status, b"nonce-beef" in answer.body) == (200, True)
    assert json.loads(b.seen[0].body)["model"] == f"b-{cause}"
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-model")) == ("b", f"b-{cause}")
    assert answer.header("x-llmgw-route") == f"a/mock:{WORDS[cause]},b/b-{cause}:ok"
    assert answer.header("x-llmgw-attempts") == "2"
    line = await gateway.log_line()
    assert (line["status"], line["error_code"], line["fallback_used"]) == (200, None, True)
    assert (line["model_requested"], line["model_used"], line["provider_used"]) == ("mock", f"b-{cause}", "b")
    assert line["cost_usd"] == pytest.approx(line["output_tokens"] * DOLLARS[cause] / 1e6, abs=1e-9)
    assert charged(gateway, line["request_id"]) == [
        ("mock", "mock", False),
        (f"for-{cause}", f"b-{cause}", True),
    ]


@pytest.mark.parametrize("cause", ["context_length", "content_policy"])
async def test_what_only_another_model_could_take_goes_to_none_that_is_not_named(gateway, a, b, cause):
    a.script(CAUSES[cause])
    answer = await exchange(gateway.port, post(chat(model="listed")))
    assert (answer.status, answer.error["code"]) == (400, CAUSES[cause]["code"])
    assert len(b.seen) == 0


async def test_what_is_wrong_with_the_request_goes_nowhere_else(gateway, a, b):
    a.script({"status": 422})
    answer = await exchange(gateway.port, post(chat()))
    assert (answer.status, len(b.seen)) == (422, 0)


async def test_the_limits_of_the_model_that_serves_count(gateway, a, b, c):
    a.script({"status": 500, "times": 2})
    routes = []
    for _ in range(2):
        answer = await exchange(gateway.port, post(chat(model="listed")))
        routes.append(answer.header("x-llmgw-route"))
    assert routes == [
        "a/listed:500,b/one:ok",
        "a/listed:500,b/one:limit,c/c-two:ok",
    ]
    assert (len(b.seen), len(c.seen)) == (1, 1)


async def test_a_chain_goes_on_but_never_by_the_fallbacks_of_a_fallback(gateway, a, b, c):
    for end in (a, b):
        end.script({"status": 500})
    c.script({"status": 502})
    answer = await exchange(gateway.port, post(chat(model="listed")))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert [json.loads(one.body)["model"] for one in c.seen] == ["c-two"]
    line = await gateway.log_line()
    assert (line["attempts"], line["provider_used"]) == (2 + len(b.seen), "c")


async def test_where_the_first_is_paused_the_next_serves_without_asking_it(gateway, a, b):
    a.script({"status": 429, "retry_after": "30"})
    for _ in range(2):
        answer = await exchange(gateway.port, post(chat()))
        assert answer.status == 200
    assert answer.header("x-llmgw-route") == "a/mock:cooling,b/b-rate_limit:ok"
    assert (answer.header("x-llmgw-attempts"), len(a.seen), len(b.seen)) == ("1", 1, 2)


async def test_the_sdk_gets_the_answer_and_sees_who_gave_it(gateway, a):
    a.script(CAUSES["context_length"])
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=CLIENT_KEY, max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="mock", messages=[{"role": "user", "content": "hello"}]
        )
    assert raw.parse().model == raw.headers["x-llmgw-model"] == "b-context_length"


@pytest.mark.parametrize(
    ("model", "while_open"),
    [("opens", (200, "b")), ("opens-alone", (503, None))],
    ids=["named for timeouts", "none for timeouts"],
)
async def test_the_fallback_for_a_cause_holds_once_the_circuit_is_open(gateway, a, b, model, while_open):
    a.script({"stall": "before-head", "times": 9})
    routes, answers = [], []
    for _ in range(3):
        answer = await exchange(gateway.port, post(chat(model=model)))
        routes.append(answer.header("x-llmgw-route").split(",")[0])
        answers.append((answer.status, answer.header("x-llmgw-provider")))
    assert routes == [f"{model}/{model}:timeout"] * 2 + [f"{model}/{model}:open"]
    assert answers[-1] == while_open
    assert len(a.seen) == 2
