"""What one caller does must not close a target to the others, nor use what is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from farend import FarEnd
from gatewayrig import OTHER_KEY, Gateway, up
from wireclient import CLIENT_KEY, Answer, chat, exchange, post

PATH = "/v1/chat/completions"
BREAKER = {"breaker": {"failures": 3}}
TENANTS = {
    "hasty": {"keys": [{"name": "k", "key": CLIENT_KEY}]},
    "other": {"keys": [{"name": "k", "key": OTHER_KEY}]},
}


def config(providers: dict[str, Any], models: dict[str, Any], **tenant: Any) -> dict[str, Any]:
    return {
        "providers": providers,
        "models": models,
        "tenants": TENANTS | {"hasty": TENANTS["hasty"] | tenant},
    }


async def ask(gateway: Gateway, body: bytes, *headers: str, key: str = CLIENT_KEY) -> Answer:
    return await exchange(gateway.port, post(body, PATH, *headers, key=key))


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_a_caller_in_a_hurry_opens_no_circuit(
    start_gateway: Callable[..., Gateway], a: FarEnd, is_stream: bool
) -> None:
    gateway = start_gateway(
        config(
            {"a": up(a.port, **BREAKER)},
            {"m": {"targets": [{"provider": "a"}], "retry": {"max_attempts": 1}}},
        )
    )
    slow = {"interval_s": "600ms", "events": 3} if is_stream else {"delay_s": "2s"}
    for _ in range(5):
        await ask(gateway, chat(model="m", stream=is_stream, mock=slow), "x-llmgw-timeout: 150ms")
    assert gateway.metrics().total("llm_circuit_state") == 0
    assert (await ask(gateway, chat(model="m"), key=OTHER_KEY)).status == 200


async def test_a_prompt_that_is_too_large_for_a_provider_pauses_it_for_nobody(
    start_gateway: Callable[..., Gateway], a: FarEnd
) -> None:
    gateway = start_gateway(config({"a": up(a.port)}, {"m": {"targets": [{"provider": "a"}]}}))
    text = (
        "Request too large for gpt-4 in organization o on tokens per min (TPM): Limit 10000, Requested 20000."
    )
    a.script({"status": 429, "message": text})
    refused = await ask(gateway, chat(model="m"))
    assert (refused.status, refused.header("x-should-retry")) == (502, "false")
    answers = [await ask(gateway, chat(model="m"), key=OTHER_KEY) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4


async def test_what_the_retry_budget_refuses_uses_nothing_of_the_next_target(
    start_gateway: Callable[..., Gateway], a: FarEnd, b: FarEnd
) -> None:
    gateway = start_gateway(
        config(
            {
                "a": up(a.port, retry_budget={"ratio": 0, "per_second": 0}),
                "b": up(b.port, limits={"rpm": 3}),
            },
            {
                "m": {"strategy": "ordered", "targets": [{"provider": "a"}, {"provider": "b"}]},
                "at-b": {"targets": [{"provider": "b"}]},
            },
        )
    )
    a.script({"status": 500, "times": 5})
    assert [(await ask(gateway, chat(model="m"))).status for _ in range(5)] == [502] * 5
    assert b.requests == 0
    assert [(await ask(gateway, chat(model="at-b"))).status for _ in range(4)] == [200, 200, 200, 429]


async def test_who_waits_at_a_limit_gets_an_answer_though_its_target_pauses(
    start_gateway: Callable[..., Gateway], a: FarEnd
) -> None:
    gateway = start_gateway(
        config(
            {"a": up(a.port)},
            {"m": {"targets": [{"provider": "a"}], "retry": {"max_attempts": 1}}},
            limits={"concurrent": 1},
        )
    )
    a.script({"status": 429, "retry_after": 1, "delay_s": "300ms"})
    first = asyncio.create_task(ask(gateway, chat(model="m")))
    await a.wait(lambda mock: mock.in_flight == 1)
    second = await ask(gateway, chat(model="m"), "x-llmgw-max-wait: 8s")
    assert ((await first).status, second.status) == (503, 200)
    assert 300 <= float(second.header("x-llmgw-queue-ms") or 0) < 8000
