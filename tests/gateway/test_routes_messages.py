"""Anthropic's own shape: passed on as it comes, read and charged like every other prompt."""

import json

import pytest
from gatewayrig import CLIENT_KEY, ONCE, OTHER_KEY, Gateway, up
from wireclient import exchange, post, post_chunked, wire_to

PATH = "/v1/messages"
PACED = {"interval_s": 0.01}
USERS_KEY = "sk-of-users-0123456789"
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream")


@pytest.fixture(scope="module")
def shared_metered(shared_far, tmp_path_factory):
    config = {
        "providers": {"up": up(shared_far.port)},
        "models": {
            "mock": ONCE | {"targets": [{"provider": "up"}], "price": {"input": "1.00", "output": "2.00"}}
        },
        "tenants": {
            "acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]},
            "capped": {"limits": {"tpm": 4000}, "keys": [{"name": "one", "key": OTHER_KEY}]},
            "users": {"users": {"limits": {"rpd": 1}}, "keys": [{"name": "one", "key": USERS_KEY}]},
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("metered"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def metered(shared_metered, far) -> Gateway:
    await shared_metered.forget_log()
    far.reset()
    return shared_metered


def messages(text: str = "hello", **more: object) -> bytes:
    asked = {"model": "mock", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}
    return json.dumps(asked | more).encode()


@pytest.mark.parametrize("build", [post, post_chunked])
async def test_an_answer_is_charged_by_its_report_and_goes_as_it_came(metered, far, build):
    body = messages(user="anna", mock={"text_bytes": 40})
    answer = await exchange(metered.port, build(body, PATH + "?beta=true" if build is post_chunked else PATH))
    line = await metered.log_line()
    usage = answer.json["usage"]
    assert (line["input_tokens"], line["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert (line["usage_source"], line["user"]) == ("reported", "anna")
    assert line["cost_usd"] == pytest.approx((line["input_tokens"] + 2 * line["output_tokens"]) / 1e6)
    assert (far.seen[0].path, far.seen[0].body) == (PATH, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_report_is_estimated(metered, stream):
    answer = await exchange(
        metered.port, post(messages("x" * 400, stream=stream, mock={"no_usage": True}), PATH)
    )
    line = await metered.log_line()
    assert (answer.status, line["usage_source"]) == (200, "estimated")
    assert line["input_tokens"] >= 100
    assert line["cost_usd"] > 0


async def test_a_stream_goes_as_it_came_and_asks_for_nothing(metered, far):
    body = messages(stream=True)
    answer = await exchange(metered.port, post(body, PATH))
    assert (answer.status, answer.is_whole) == (200, True)
    assert b"message_stop" in answer.events[-1]
    assert far.seen[0].body == body


async def test_a_stream_without_its_end_is_broken(metered):
    faulty = PACED | {"no_done": True, "events": 3}
    answer = await exchange(metered.port, post(messages(stream=True, mock=faulty), PATH))
    assert not answer.is_whole
    assert (await metered.log_line())["error_code"] == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_pays_for_its_prompt(metered, far, stream):
    async with wire_to(metered.port) as wire:
        wire.send(post(messages("x" * 400, stream=stream, mock={"delay_s": 30}), PATH))
        await far.wait(lambda mock: mock.in_flight == 1)
    line = await metered.log_line()
    assert (line["client_gone"], line["usage_source"], line["output_tokens"]) == (True, "estimated", 0)
    assert 100 <= line["input_tokens"] < 150
    assert line["cost_usd"] == line["input_tokens"] / 1e6


async def test_a_provider_that_breaks_off_before_its_answer_may_have_read_the_prompt(metered):
    answer = await exchange(metered.port, post(messages("x" * 400, mock={"close": "before-head"}), PATH))
    line = await metered.log_line()
    assert (answer.status, line["usage_source"]) == (502, "estimated")
    assert 100 <= line["input_tokens"] < 150


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("build", [post, post_chunked])
async def test_its_tokens_are_reserved_whatever_the_body_is_called(metered, far, build, content_type):
    request = build(messages(max_tokens=5000), PATH, key=OTHER_KEY)
    answer = await exchange(metered.port, request.replace(b"application/json", content_type.encode()))
    assert (answer.status, answer.header("x-ratelimit-limit-tokens")) == (429, "4000")
    assert far.requests == 0


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b'{"messages":[],"max_tokens":5}'])
async def test_a_body_that_cannot_be_read_or_names_no_model_goes_nowhere(metered, far, body):
    assert (await exchange(metered.port, post(body, PATH))).status == 400
    assert far.requests == 0


async def test_a_request_that_is_free_does_not_make_the_next_one_free(metered, far):
    """Whoever may send one is remembered, and with it what such requests cost."""
    body = messages(max_tokens=5000)
    for path in (PATH, "/v1/chat/completions"):
        free = post(body, path, key=OTHER_KEY).replace(b"POST", b"GET", 1)
        assert (await exchange(metered.port, free)).status < 429
        assert (await exchange(metered.port, post(body, path, key=OTHER_KEY))).status == 429


async def test_a_changed_method_is_charged_like_the_usual_one(metered, far):
    put = post(messages(max_tokens=5000), PATH, key=OTHER_KEY).replace(b"POST", b"PUT", 1)
    assert (await exchange(metered.port, put)).status == 429
    assert far.requests == 0


async def test_the_user_of_its_metadata_is_held_to_the_limits_of_users(metered):
    named = messages(metadata={"user_id": "berta"})
    statuses = [
        (await exchange(metered.port, post(body, PATH, key=USERS_KEY))).status
        for body in (named, named, messages(metadata={"user_id": "carla"}), messages(user="berta"))
    ]
    assert statuses == [200, 429, 200, 429]
    assert [line["user"] for line in await metered.log_lines(4)] == ["berta", "berta", "carla", "berta"]


@pytest.mark.parametrize(
    "metadata", ['{"user_id":5}', '{"user_id":"a","user_id":"b"}', json.dumps({"user_id": "x" * 513})]
)
async def test_a_user_that_cannot_be_told_is_400_here_and_nobodys_concern_elsewhere(metered, far, metadata):
    body = messages()[:-1] + f',"metadata":{metadata}}}'.encode()
    assert (await exchange(metered.port, post(body, PATH))).status == 400
    assert far.requests == 0
    assert (await exchange(metered.port, post(body))).status == 200


async def test_counting_tokens_is_passed_on_and_costs_none(metered):
    answer = await exchange(metered.port, post(messages("x" * 400), PATH + "/count_tokens"))
    line = await metered.log_line()
    assert answer.json == {"input_tokens": 100}
    assert (line["usage_source"], line["input_tokens"], line["cost_usd"]) == (None, 0, None)
