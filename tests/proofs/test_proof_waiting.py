"""Waiting instead of 429: in order, by class, fair between tenants, and never longer than said."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from farend import FarEnd
from gatewayrig import Gateway, up, wait_for
from proofkit import Caller, chat, most_at_once, most_in_window, with_callers

SLOTS = 4
PATIENT = {"max_wait": "30s"}


def key_of(name: str) -> str:
    return f"sk-gateway-{name}-4711deadbeef"


def tenant(*keys: str, limits: dict | None = None, **of_keys: dict) -> dict:
    """Its keys are patient ones, unless it is said what they are."""
    entries = [{"name": name, "key": key_of(name), **of_keys.get(name, PATIENT)} for name in keys]
    return {"keys": entries, "limits": limits or {}}


def config_of(far: FarEnd, **sections) -> dict:
    """A tenant or a provider for each test."""
    return {
        "providers": {
            "up": up(far.port),
            "slots": up(far.port, limits={"concurrent": SLOTS}),
            "window": up(far.port, limits={"rps": 60}),
        },
        "models": {
            "mock": {"targets": [{"provider": "up"}]},
            "slots": {"targets": [{"provider": "slots"}]},
            "window": {"targets": [{"provider": "window"}]},
        },
        "tenants": {
            "paced": tenant("paced", limits={"rps": 4}),
            "mixed": tenant("mixed", limits={"rps": 1}),
            "single": tenant("single", limits={"concurrent": 1}, single={}),
            "classes": tenant(
                "interactive", "batch", limits={"concurrent": SLOTS}, batch={"priority": "batch", **PATIENT}
            ),
            "many": tenant("many"),
            "few": tenant("few"),
        },
        **sections,
    }


@pytest.fixture(scope="module")
def shared_far() -> Iterator[FarEnd]:
    far = FarEnd(keep=100_000)
    yield far
    far.close()


@pytest.fixture(scope="module")
def gateway(shared_far, tmp_path_factory) -> Iterator[Gateway]:
    started = Gateway(tmp_path_factory.mktemp("waiting"), config_of(shared_far), workers=2).start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def narrow(shared_far, tmp_path_factory) -> Iterator[Gateway]:
    """One worker, in whose queue two may wait."""
    config = config_of(shared_far, queue={"max_waiting": 2})
    started = Gateway(tmp_path_factory.mktemp("narrow"), config).start()
    yield started
    started.kill()


@pytest.fixture
def far(shared_far) -> FarEnd:
    shared_far.reset()
    return shared_far


def slow(**more) -> bytes:
    return chat(mock={"delay_s": "500ms"}, **more)


def users_seen(far: FarEnd) -> Counter[str]:
    return Counter(json.loads(arrival.body)["user"] for arrival in far.seen)


async def keep_asking(caller: Caller, model: str) -> None:
    """Requests that are all of one size, so that shares can be counted in requests."""
    body = chat(model=model, user=caller.key, max_tokens=30, mock={"delay_s": "40ms"})
    while True:
        assert (await caller.ask(body)).status == 200


async def compete(
    gateway: Gateway, far: FarEnd, ones: dict[str, int], length_s: float, model: str = "mock"
) -> Counter[str]:
    """So many callers of each key, all ready to wait. Whose requests came while all asked."""
    began_s = time.monotonic()

    def act(caller: Caller):
        return keep_asking(caller, model)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(length_s):
            await asyncio.gather(
                *(with_callers([gateway], count, act, key_of(name)) for name, count in ones.items())
            )
    early_s = began_s + 0.3
    seen = [json.loads(arrival.body)["user"] for arrival in far.seen if early_s < arrival.started_s]
    counts = Counter({name: seen.count(key_of(name)) for name in ones})
    print(counts)
    return counts


async def test_a_key_that_may_wait_gets_answers_at_the_pace_of_the_limit(far, gateway):
    async def ask(caller):
        return await caller.ask(chat())

    answers = await with_callers([gateway], 10, ask, key_of("paced"))
    assert [answer.status for answer in answers] == [200] * 10
    waits_ms = sorted(int(answer.header("x-llmgw-queue-ms")) for answer in answers)
    assert waits_ms[3] < 500 < waits_ms[4] and 1500 < waits_ms[-1]
    assert most_in_window([(arrival.started_s, 1) for arrival in far.seen], 0.95) <= 4


async def test_a_request_says_itself_how_long_it_waits(far, gateway):
    async def act(caller):
        assert (await caller.ask(chat())).status == 200
        refused = await caller.ask(chat(), "x-llmgw-max-wait: 0s")
        late = await caller.ask(chat(), "x-llmgw-max-wait: 50ms")
        assert (await caller.ask(chat(), "x-llmgw-max-wait: 5s")).status == 200
        return refused, late

    [(refused, late)] = await with_callers([gateway], 1, act, key_of("mixed"))
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert (late.status, late.error["code"], late.error["type"]) == (429, "queue_timeout", "requests")
    assert late.header("x-should-retry") == "true" and int(late.header("retry-after-ms")) > 50
    assert far.requests == 2


async def test_nobody_waits_longer_than_it_said(far, gateway):
    async def late(caller):
        await far.wait(lambda mock: mock.seen.requests == 1)
        return await caller.ask(chat(), "x-llmgw-max-wait: 100ms")

    running = asyncio.ensure_future(
        with_callers([gateway], 1, lambda caller: caller.ask(slow()), key_of("single"))
    )
    [answer] = await with_callers([gateway], 1, late, key_of("single"))
    assert (answer.status, answer.error["code"]) == (429, "queue_timeout")
    assert [answer.status for answer in await running] == [200] and far.requests == 1


async def test_who_finds_the_queue_full_is_told_so(far, narrow):
    async def ask(caller):
        return await caller.ask(slow(), "x-llmgw-max-wait: 20s")

    answers = await with_callers([narrow], 5, ask, key_of("single"))
    assert Counter(answer.status for answer in answers) == {200: 3, 429: 2}
    for answer in answers:
        if answer.status == 429:
            assert (answer.error["code"], answer.error["type"]) == ("queue_full", "requests")
            assert answer.header("x-should-retry") == "true"
    assert far.requests == 3 and most_at_once(far.seen) == 1


async def test_who_loses_its_place_to_a_better_claim_is_told_when_to_come_again(far, narrow):
    def waiting() -> float:
        return narrow.metrics().total("llm_queue_depth")

    async def ask(caller):
        return await caller.ask(slow(), "x-llmgw-max-wait: 20s")

    running = [asyncio.ensure_future(with_callers([narrow], SLOTS, ask, key_of("interactive")))]
    await far.wait(lambda mock: mock.seen.requests == SLOTS)
    batch = asyncio.ensure_future(with_callers([narrow], 2, ask, key_of("batch")))
    await wait_for("the queue is full", lambda: waiting() == 2)
    running.append(asyncio.ensure_future(with_callers([narrow], 1, ask, key_of("interactive"))))
    answers = await batch
    assert Counter(answer.status for answer in answers) == {200: 1, 429: 1}
    [lost] = [answer for answer in answers if answer.status == 429]
    assert lost.error["code"] == "queue_full" and "better claim" in lost.error["message"]
    assert lost.header("x-should-retry") == "true"
    assert (lost.header("retry-after"), lost.header("retry-after-ms")) == ("1", "1000")
    for ones in await asyncio.gather(*running):
        assert {answer.status for answer in ones} == {200}


async def test_who_leaves_the_queue_is_not_sent_and_leaves_its_place_to_others(far, narrow):
    def waiting() -> float:
        return narrow.metrics().total("llm_queue_depth")

    async def ask(caller, user="gone"):
        return await caller.ask(slow(user=user), "x-llmgw-max-wait: 20s")

    running = asyncio.ensure_future(
        with_callers([narrow], 1, lambda caller: ask(caller, "first"), key_of("single"))
    )
    await far.wait(lambda mock: mock.seen.requests == 1)
    leaving = asyncio.ensure_future(with_callers([narrow], 2, ask, key_of("single")))
    await wait_for("two wait", lambda: waiting() == 2)
    leaving.cancel()
    await wait_for("nobody waits", lambda: waiting() == 0)
    await with_callers([narrow], 2, lambda caller: ask(caller, "last"), key_of("single"))
    await running
    assert users_seen(far) == {"first": 1, "last": 2}


async def test_batch_waits_while_interactive_callers_use_everything(far, gateway):
    counts = await compete(gateway, far, {"interactive": 4 * SLOTS, "batch": 2 * SLOTS}, 2.0)
    assert counts["batch"] <= 0.03 * counts["interactive"]
    assert most_at_once(far.seen) <= SLOTS


async def test_batch_gets_what_interactive_callers_leave(far, gateway):
    counts = await compete(gateway, far, {"interactive": SLOTS // 2, "batch": 2 * SLOTS}, 2.0)
    assert counts["batch"] > 0.3 * counts["interactive"] > 3
    assert most_at_once(far.seen) <= SLOTS


@pytest.mark.parametrize("model", ["slots", "window"])
async def test_tenants_share_a_providers_limit_however_many_of_each_ask(far, gateway, model):
    # Of each so many that any one worker's queue could use a whole window's worth for it.
    counts = await compete(gateway, far, {"many": 120, "few": 80}, 3.0, model)
    assert 0.425 < counts["many"] / counts.total() < 0.575
