"""What a request says of itself: its patience, and whom it stays with; in both lanes the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from farend import FarEnd
from gatewayrig import Gateway, up
from wireclient import CLIENT_KEY, chat, exchange, post, post_chunked

LANES = pytest.mark.parametrize("spell", [post, post_chunked], ids=["fast", "general"])
PATH = "/v1/chat/completions"
Spell = Callable[..., bytes]


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], a: FarEnd, b: FarEnd, c: FarEnd) -> Gateway:
    ends = {"a": up(a.port), "b": up(b.port), "c": up(c.port)}
    targets = [{"provider": name} for name in ends]

    def hashed(on: str) -> dict[str, Any]:
        return {"strategy": "hash", "hash_on": on, "targets": targets}

    return start_gateway(
        {
            "providers": ends,
            "models": {
                "alone": {"targets": targets[:1]},
                "by-header": hashed("header:X-Session-ID"),
                "by-user": hashed("user"),
                "by-conversation": hashed("conversation"),
            },
            "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
        }
    )


@LANES
async def test_a_caller_that_waits_so_long_gets_an_answer_or_an_error_by_then(
    gateway: Gateway, a: FarEnd, spell: Spell
) -> None:
    a.script({"delay_s": 20, "times": 9})
    began_s = time.monotonic()
    answer = await exchange(gateway.port, spell(chat(model="alone"), PATH, "x-llmgw-timeout: 400ms"))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert 0.35 <= time.monotonic() - began_s < 5


@LANES
@pytest.mark.parametrize(
    "value", ["0", "-1s", "soon", "1e9", "1m30", "s1", "1234567890ms", "1.1234567s", "nan"]
)
async def test_a_patience_that_is_none_is_a_client_error(gateway: Gateway, spell: Spell, value: str) -> None:
    answer = await exchange(gateway.port, spell(chat(model="alone"), PATH, f"x-llmgw-timeout: {value}"))
    assert (answer.status, answer.error["param"]) == (400, "x-llmgw-timeout")


@LANES
@pytest.mark.parametrize("value", ["1m30s", "90", "1.5s", "25h", "86401"])
async def test_a_patience_may_be_spelled_in_parts_and_be_of_any_length(
    gateway: Gateway, a: FarEnd, spell: Spell, value: str
) -> None:
    answer = await exchange(gateway.port, spell(chat(model="alone"), PATH, f"x-llmgw-timeout: {value}"))
    assert answer.status == 200


async def provider_of(gateway: Gateway, request: bytes) -> str | None:
    answer = await exchange(gateway.port, request)
    assert answer.status == 200
    return answer.header("x-llmgw-provider")


@LANES
async def test_a_session_stays_with_one_target_and_sessions_are_spread(
    gateway: Gateway, spell: Spell
) -> None:
    homes: Counter[str | None] = Counter()
    for session in range(24):
        name = ("x-session-id", "X-SESSION-ID")[session % 2]
        requests = [
            spell(chat(f"turn {turn}", model="by-header"), PATH, f"{name}: s{session}") for turn in range(3)
        ]
        seen = {await provider_of(gateway, request) for request in requests}
        assert len(seen) == 1, session
        homes.update(seen)
    assert set(homes) == {"a", "b", "c"}


async def test_a_session_is_at_home_in_both_lanes(gateway: Gateway) -> None:
    for session in range(8):
        line = f"x-session-id: both-{session}"
        homes = {
            await provider_of(gateway, spell(chat(model="by-header"), PATH, line))
            for spell in (post, post_chunked)
        }
        assert len(homes) == 1


async def test_a_user_stays_with_one_target(gateway: Gateway) -> None:
    homes = {
        user: {
            await provider_of(gateway, post(chat(str(turn), model="by-user", user=user))) for turn in range(3)
        }
        for user in map(str, range(16))
    }
    assert all(len(home) == 1 for home in homes.values())
    assert len(set().union(*homes.values())) == 3


async def test_the_turns_of_a_conversation_stay_with_one_target(gateway: Gateway) -> None:
    found = set()
    for number in range(16):
        messages = [{"role": "user", "content": f"conversation {number}"}]
        homes = set()
        for turn in range(3):
            homes.add(await provider_of(gateway, post(chat(model="by-conversation", messages=messages))))
            messages = [
                *messages,
                {"role": "assistant", "content": f"answer {turn}"},
                {"role": "user", "content": f"and {turn}?"},
            ]
        assert len(homes) == 1
        found |= homes
    assert found == {"a", "b", "c"}
