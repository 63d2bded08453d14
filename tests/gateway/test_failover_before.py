"""Before the first byte of an answer the next target is asked; how the targets share what comes."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, UPSTREAM_KEY, Gateway, up
from openai import AsyncOpenAI, InternalServerError
from wireclient import chat, exchange, post, post_chunked

HASTY = {"first_token": "250ms", "idle": "250ms"}  # for who fails or stays silent anyway


@pytest.fixture(scope="module")
def shared_ends():
    ends = [FarEnd() for _ in range(3)]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def far_ends(shared_ends) -> list[FarEnd]:
    for end in shared_ends:
        end.hang_up()
        end.reset()
    return shared_ends


@pytest.fixture
async def trio(trio_gateway, far_ends) -> Gateway:
    await trio_gateway.forget_log()
    return trio_gateway


@pytest.fixture(scope="module")
def trio_gateway(shared_ends, tmp_path_factory) -> Iterator[Gateway]:
    """Providers a, b, c and the models that combine them."""
    ports = dict(zip("abc", (end.port for end in shared_ends), strict=True))
    ordered = {"strategy": "ordered"}
    targets = {name: {"provider": name} for name in "abc"}
    config = {
        "providers": {
            **{name: up(port, f"{UPSTREAM_KEY}-{name}") for name, port in ports.items()},
            "hasty-a": up(ports["a"], timeouts=HASTY),
            "dead": up(1),
            "keyed": up(ports["a"], "sk-up-key-one", "sk-up-key-two", "sk-up-key-three"),
            "short": up(ports["a"], timeouts={"first_token": "350ms", "total": "500ms"}),
        },
        "models": {
            "alone": {"targets": [targets["a"]], "retry": {"base_delay": "10ms"}},
            "pair": ordered | {"targets": [targets["a"], targets["b"]], "retry": {"max_attempts": 2}},
            "hasty-pair": ordered | {"targets": [{"provider": "hasty-a"}, targets["b"]]},
            "row": ordered | {"targets": [targets["c"], targets["a"], targets["b"]]},
            "behind-a-dead-one": ordered | {"targets": [{"provider": "dead"}, targets["b"]]},
            "shared": {"targets": [targets["a"] | {"weight": 5}, targets["b"] | {"weight": 2}, targets["c"]]},
            "half-broken": {"targets": [targets["a"], targets["b"], targets["c"]]},
            "ranked": {"targets": [targets["c"] | {"priority": 2}, targets["a"], targets["b"]]},
            "keyed": ordered | {"targets": [{"provider": "keyed"}, targets["b"]]},
            "short": ordered
            | {
                "targets": [
                    {"provider": "short", "model": name} for name in ("first", "again", "third", "last")
                ]
            },
            "named": ordered
            | {"targets": [targets["a"] | {"model": "name-at-a"}, targets["b"] | {"model": "name-at-b"}]},
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }
    gateway = Gateway(tmp_path_factory.mktemp("trio"), config).start()
    yield gateway
    gateway.kill()


# What the first target does, before a byte of an answer of its own could go to the client.
TROUBLES = {
    "500": {"status": 500},
    "503": {"status": 503, "retry_after": 60},
    "529": {"status": 529},
    "429": {"status": 429},
    "401": {"status": 401},
    "403": {"status": 403},
    "408": {"status": 408},
    "reset": {"reset": "before-head"},
    "reset-after-head": {"reset": "after-head"},
    "closed": {"close": "before-head"},
    "closed-after-head": {"close": "after-head"},
    "no-http": {"garbage": "http"},
    "broken-chunks": {"garbage": "chunk"},
    "head-too-large": {"headers_bytes": 900_000},
    "silent": {"stall": "before-head"},
    "silent-after-head": {"stall": "after-head"},
    "late": {"delay_s": 20},
    "late-first-token": {"first_token_s": 20},
}
ONLY_WHOLE = {
    "no-json": {"garbage": "json"},
    "cut-short": {"close": "bytes:50"},
    "cut-by-reset": {"reset": "bytes:50"},
    "silent-within": {"stall": "bytes:50"},
    "two-lengths": {"duplicate_length": "different"},
}
ONLY_STREAM = {
    "error-first": {"error_event": 0},
    "empty": {"close": "events:0"},
    "cut-within-the-first-event": {"close": "bytes:30"},
    "silent-within-the-first-event": {"stall": "bytes:30"},
}
ALL = [(False, fault) for fault in (TROUBLES | ONLY_WHOLE).values()]
ALL += [(True, fault) for fault in (TROUBLES | ONLY_STREAM).values()]
IDS = [f"whole-{name}" for name in TROUBLES | ONLY_WHOLE] + [
    f"stream-{name}" for name in TROUBLES | ONLY_STREAM
]


@pytest.mark.parametrize(("streams", "fault"), ALL, ids=IDS)
async def test_the_next_target_answers(trio, far_ends, streams, fault):
    a, b, _ = far_ends
    a.script(fault)
    began_s = time.monotonic()
    answer = await exchange(trio.port, post(chat("nonce-beef", model="hasty-pair", stream=streams)))
    assert (answer.status, answer.is_whole) == (200, True)
    assert b"nonce-beef " in answer.body
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("b", "2")
    assert (a.requests, b.requests) == (1, 1)
    assert time.monotonic() - began_s < 10  # what is late comes after 20 s
    line = await trio.log_line()
    assert (line["status"], line["provider_used"], line["attempts"]) == (200, "b", 2)
    assert line["fallback_used"]
    assert line["error_code"] is None
    assert line["usage_source"] == "reported"


async def test_a_target_that_cannot_be_connected_to_is_passed_over(trio):
    answer = await exchange(trio.port, post_chunked(chat(model="behind-a-dead-one")))
    assert (answer.status, answer.header("x-llmgw-attempts")) == (200, "2")
    assert trio.metrics().total("llm_upstream_attempts_total", provider="dead", outcome="broken") == 1


async def test_an_upload_finds_its_target_while_nothing_of_it_was_sent(trio, far_ends):
    """Its body can be read once: whoever cannot be connected to has read none of it."""
    blob = b"x" * 200_000
    async with AsyncOpenAI(base_url=trio.base_url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        answer = await sdk.audio.transcriptions.create(model="behind-a-dead-one", file=("a.wav", blob))
    assert answer.sha256 == hashlib.sha256(blob).hexdigest()
    assert (await trio.log_line())["attempts"] == 2


async def test_an_upload_that_a_target_has_taken_is_not_offered_to_another(trio, far_ends):
    far_ends[0].script({"status": 500, "path": "/v1/audio"})
    async with AsyncOpenAI(base_url=trio.base_url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        with pytest.raises(InternalServerError) as raised:
            await sdk.audio.transcriptions.create(model="pair", file=("a.wav", b"x" * 200_000))
    assert raised.value.status_code == 502
    assert [end.requests for end in far_ends] == [1, 0, 0]


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@pytest.mark.parametrize("streams", [False, True])
async def test_what_the_caller_did_wrong_is_not_asked_of_another(trio, far_ends, status, streams):
    a, b, _ = far_ends
    a.script({"status": status, "message": "Your fault.", "code": "because"})
    answer = await exchange(trio.port, post(chat(model="pair", stream=streams)))
    assert (answer.status, answer.error["message"], answer.error["code"]) == (
        status,
        "Your fault.",
        "because",
    )
    assert b.requests == 0
    assert not (await trio.log_line())["fallback_used"]


async def test_with_no_target_left_the_last_trouble_is_told_once(trio, far_ends):
    for mock in far_ends[:2]:
        mock.script({"status": 503, "retry_after": 7, "message": f"key {UPSTREAM_KEY} is out of quota"})
    answer = await exchange(trio.port, post(chat(model="pair")))
    assert (answer.status, answer.error["type"], answer.error["code"]) == (502, "api_error", "upstream_error")
    assert answer.header("x-should-retry") == "false"
    assert "quota" not in answer.body.decode()
    line = await trio.log_line()
    assert (line["attempts"], line["status"], line["error_code"]) == (2, 502, "upstream_error")


async def test_where_there_is_nobody_else_the_same_target_is_asked_again(trio, far_ends):
    far_ends[0].script({"status": 500})
    assert (await exchange(trio.port, post(chat(model="alone")))).status == 200
    line = await trio.log_line()
    assert (line["attempts"], line["fallback_used"]) == (2, False)


async def test_nobody_fell_back_where_there_was_nobody_else(trio, far_ends):
    far_ends[0].script({"status": 500, "times": 3})
    assert (await exchange(trio.port, post(chat(model="alone")))).status == 502
    line = await trio.log_line()
    assert (line["attempts"], line["fallback_used"]) == (3, False)


async def test_each_target_gets_the_name_it_knows_the_model_by(trio, far_ends):
    far_ends[0].script({"status": 500})
    answer = await exchange(trio.port, post(chat(model="named")))
    names = [json.loads(mock.seen[0].body)["model"] for mock in far_ends[:2]]
    assert names == ["name-at-a", "name-at-b"]
    assert answer.header("x-llmgw-model") == "name-at-b"
    assert answer.json["model"] == "name-at-b"
    keys = [mock.seen[0].values("authorization") for mock in far_ends[:2]]
    assert keys == [[f"Bearer {UPSTREAM_KEY}-a"], [f"Bearer {UPSTREAM_KEY}-b"]]


async def who_answered(gateway: Gateway, model: str, count: int) -> Counter[str | None]:
    answers = [await exchange(gateway.port, post(chat(model=model))) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.header("x-llmgw-provider") for answer in answers)


async def test_weights_are_shares_and_no_target_gets_its_share_in_one_go(trio):
    assert await who_answered(trio, "shared", 40) == {"a": 25, "b": 10, "c": 5}
    answers = [await exchange(trio.port, post(chat(model="shared"))) for _ in range(8)]
    order = "".join(answer.header("x-llmgw-provider") or "" for answer in answers)
    assert Counter(order) == {"a": 5, "b": 2, "c": 1}
    assert "aaaa" not in order


async def test_the_share_of_a_broken_target_goes_to_the_others(trio, far_ends):
    far_ends[0].script({"status": 500, "times": 100})
    answered = await who_answered(trio, "half-broken", 24)
    assert set(answered) == {"b", "c"}
    assert far_ends[0].requests <= 24


async def test_ordered_targets_are_asked_in_their_order(trio, far_ends):
    assert await who_answered(trio, "row", 5) == {"c": 5}
    far_ends[2].script({"status": 500})
    far_ends[0].script({"status": 500})
    answer = await exchange(trio.port, post(chat(model="row")))
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("b", "3")


async def test_a_later_priority_is_asked_when_every_earlier_one_failed(trio, far_ends):
    assert await who_answered(trio, "ranked", 6) == {"a": 3, "b": 3}
    far_ends[0].script({"status": 500})
    far_ends[1].script({"status": 500})
    answer = await exchange(trio.port, post(chat(model="ranked")))
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("c", "3")


async def test_requests_are_balanced_over_the_keys_of_a_provider(trio, far_ends):
    await who_answered(trio, "keyed", 9)
    used = Counter(arrival.values("authorization")[0] for arrival in far_ends[0].seen)
    assert used == {f"Bearer sk-up-key-{number}": 3 for number in ("one", "two", "three")}


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_key_that_is_refused_is_passed_over_for_the_next_key(trio, far_ends, status):
    far_ends[0].script({"status": status}, {"status": status})
    answer = await exchange(trio.port, post(chat(model="keyed")))
    assert (answer.status, answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == (
        200,
        "keyed",
        "3",
    )
    assert len({arrival.values("authorization")[0] for arrival in far_ends[0].seen}) == 3
    assert not (await trio.log_line())["fallback_used"]


async def test_when_every_key_is_refused_the_next_target_is_asked(trio, far_ends):
    far_ends[0].script({"status": 429, "times": 3})
    answer = await exchange(trio.port, post(chat(model="keyed")))
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("b", "4")


async def test_trouble_that_no_other_key_would_help_leaves_the_provider(trio, far_ends):
    far_ends[0].script({"status": 500})
    answer = await exchange(trio.port, post(chat(model="keyed")))
    assert (answer.header("x-llmgw-provider"), answer.header("x-llmgw-attempts")) == ("b", "2")


async def test_the_total_deadline_holds_over_all_attempts(trio, far_ends):
    far_ends[0].script({"stall": "before-head", "times": 5})
    began_s = time.monotonic()
    answer = await exchange(trio.port, post(chat(model="short")))
    took_s = time.monotonic() - began_s
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert 0.49 <= took_s < 10
    assert 1 <= far_ends[0].requests <= 2, "of four that could each have had their 350 ms"


async def test_an_attempt_that_is_left_is_ended_at_its_provider(trio, far_ends):
    far_ends[0].script({"stall": "before-head"})
    answer = await exchange(trio.port, post(chat(model="hasty-pair")))
    assert answer.status == 200
    await far_ends[0].wait(lambda mock: mock.seen.client_gone == 1)


async def test_many_at_once_each_find_the_target_that_works(trio, far_ends):
    far_ends[0].script(*[{"status": 500} if number % 2 else {"close": "before-head"} for number in range(60)])
    requests = [post(chat(f"nonce-{number:04x}", model="pair")) for number in range(60)]
    answers = await asyncio.gather(*(exchange(trio.port, request) for request in requests))
    for number, answer in enumerate(answers):
        assert answer.status == 200
        assert f"nonce-{number:04x} ".encode() in answer.body
