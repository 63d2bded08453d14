"""Bodies on routes that are passed on: what of them is read, and what an unread one could be held to."""

import json

import pytest
from gatewayrig import ONCE, Gateway, up
from wireclient import exchange, post, post_chunked, wire_to

KEYS = {
    name: f"sk-of-{name}-0123456789"
    for name in ("free", "tokens", "money", "users", "shadow", "few", "prompts")
}
READ_TYPES = ("text/plain", "text/json", "application/x-www-form-urlencoded", "TEXT/Plain; charset=utf-8")
RAW_TYPES = ("application/octet-stream", "audio/wav", "application/json, application/octet-stream")
PATH = "/v1/moderations"
DRAW = "/v1/images/generations"
DRAWN = {"model": "drawn", "prompt": "a cat"}


@pytest.fixture(scope="module")
def shared_held(shared_far, tmp_path_factory):
    keys = {name: [{"name": "k", "key": key}] for name, key in KEYS.items()}
    config = {
        "providers": {"up": up(shared_far.port)},
        "models": {
            "drawn": ONCE
            | {"targets": [{"provider": "up"}], "price": {"request": "0.01", "input": "0", "output": "0"}},
            "*": ONCE | {"targets": [{"provider": "up"}]},
        },
        "tenants": {
            "free": {"keys": keys["free"], "limits": {"rpm": 1000}},
            "tokens": {"keys": keys["tokens"], "limits": {"tpm": 4000}},
            "prompts": {"keys": keys["prompts"], "limits": {"tps": 4000}},
            "money": {"keys": keys["money"], "budgets": [{"amount": "5.00", "period": "1d"}]},
            "users": {"keys": keys["users"], "users": {"limits": {"rpd": 1}}},
            "shadow": {"keys": keys["shadow"], "limits": {"tpm": {"limit": 4000, "mode": "shadow"}}},
            "few": {"keys": keys["few"], "models": ["gpt-4o"], "routes": ["/v1/*"]},
        },
        "routes": {"/v1/*": "up"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("held"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def held(shared_held, far) -> Gateway:
    await shared_held.forget_log()
    far.reset()
    return shared_held


def called(request: bytes, content_type: str) -> bytes:
    return request.replace(b"application/json", content_type.encode(), 1)


@pytest.mark.parametrize("content_type", READ_TYPES)
@pytest.mark.parametrize("build", [post, post_chunked])
async def test_json_is_read_under_every_name_that_providers_read_it_by(held, far, build, content_type):
    body = json.dumps({"model": "gpt-4o", "input": "x", "user": "anna"}).encode()
    answer = await exchange(held.port, called(build(body, PATH, key=KEYS["tokens"]), content_type))
    line = await held.log_line()
    assert (answer.status, line["model_requested"], line["user"]) == (200, "gpt-4o", "anna")
    assert (far.seen[0].body, far.seen[0].values("content-type")) == (body, [content_type])


@pytest.mark.parametrize("content_type", READ_TYPES)
@pytest.mark.parametrize("key", ["free", "tokens"])
async def test_what_is_called_text_and_is_no_json_is_refused(held, far, key, content_type):
    answer = await exchange(held.port, called(post(b"model=gpt-4o", PATH, key=KEYS[key]), content_type))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert far.requests == 0


@pytest.mark.parametrize("content_type", RAW_TYPES)
@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize(
    ("key", "is_passed"),
    [("free", True), ("shadow", True), ("tokens", False), ("money", False), ("users", False), ("few", False)],
)
async def test_a_raw_body_passes_only_where_nothing_of_it_could_be_held_to(
    held, far, key, is_passed, build, content_type
):
    body = b'{"model":"gpt-4o","input":"x"}'
    answer = await exchange(held.port, called(build(body, PATH, key=KEYS[key]), content_type))
    assert (answer.status == 400) is not is_passed
    assert [arrival.body for arrival in far.seen] == ([body] if is_passed else [])


def form(*fields: tuple[str, str], file_at: int = 9) -> bytes:
    parts = [f'name="{name}"\r\n\r\n{value}' for name, value in fields]
    parts.insert(file_at, 'name="file"; filename="a.wav"\r\n\r\n' + "x" * 5000)
    return (
        "".join(f"--b\r\nContent-Disposition: form-data; {part}\r\n" for part in parts).encode()
        + b"--b--\r\n"
    )


def upload(body: bytes, key: str) -> bytes:
    return called(post(body, "/v1/audio/transcriptions", key=KEYS[key]), "multipart/form-data; boundary=b")


@pytest.mark.parametrize("file_at", [0, 1, 2])
async def test_the_user_of_a_form_is_held_to_the_limits_of_users(held, far, file_at):
    user = f"user-\u00e9-{file_at}"
    request = upload(form(("model", "gpt-4o"), ("user", user), file_at=file_at), "users")
    assert [(await exchange(held.port, request)).status for _ in range(2)] == [200, 429]
    assert [line["user"] for line in await held.log_lines(2)] == [user, user]
    other = upload(form(("user", user + "2"), ("model", "gpt-4o"), file_at=file_at), "users")
    assert (await exchange(held.port, other)).status == 200
    assert far.requests == 2


async def test_a_form_that_names_no_user_passes(held):
    assert (await exchange(held.port, upload(form(("model", "gpt-4o")), "users"))).status == 200


@pytest.mark.parametrize("fields", [("user", "user"), ("user", "filler", "user")])
@pytest.mark.parametrize("key", ["free", "users"])
async def test_a_second_user_ends_a_form(held, far, key, fields):
    named = [
        (name, f"value-{number}" * (20_000 if name == "filler" else 1)) for number, name in enumerate(fields)
    ]
    answer = await exchange(held.port, upload(form(("model", "gpt-4o"), *named, file_at=2), key))
    assert (answer.status, answer.error["param"]) == (400, "user")
    await far.wait(lambda mock: mock.in_flight == 0)
    assert {arrival.ended for arrival in far.seen} <= {"client_gone"}


@pytest.mark.parametrize("name", ["x" * 513, "x" * 50_000])
async def test_a_user_of_a_form_is_as_long_as_any_other(held, far, name):
    answer = await exchange(held.port, upload(form(("user", name), ("model", "gpt-4o")), "users"))
    assert (answer.status, answer.error["param"]) == (400, "user")
    assert far.requests == 0


async def test_a_request_that_was_priced_and_not_answered_may_have_been_done(held, far):
    async with wire_to(held.port) as wire:
        wire.send(post(json.dumps(DRAWN | {"mock": {"delay_s": 30}}).encode(), DRAW, key=KEYS["money"]))
        await far.wait(lambda mock: mock.in_flight == 1)
    line = await held.log_line()
    assert (line["client_gone"], line["usage_source"], line["cost_usd"]) == (True, None, 0.01)


@pytest.mark.parametrize(
    ("fault", "status", "cost_usd"),
    [
        ({}, 200, 0.01),
        ({"close": "before-head"}, 502, 0.01),
        ({"reset": "after-head"}, 502, 0.01),
        ({"status": 500}, 502, None),
        ({"status": 429}, 503, None),
        ({"status": 400}, 400, None),
        ({"status": 404}, 404, None),
    ],
    ids=str,
)
async def test_a_price_as_a_request_is_charged_for_what_was_not_refused(held, fault, status, cost_usd):
    answer = await exchange(
        held.port, post(json.dumps(DRAWN | {"mock": fault}).encode(), DRAW, key=KEYS["money"])
    )
    line = await held.log_line()
    assert (answer.status, line["cost_usd"], line["usage_source"]) == (status, cost_usd, None)
    await held.forget_log()


async def test_half_an_upload_costs_nothing(held, far):
    body = form(("model", "drawn"))
    request = upload(body, "money").replace(b"Length: %d" % len(body), b"Length: 1000000")
    async with wire_to(held.port) as wire:
        wire.send(request)
        await far.wait(lambda mock: mock.in_flight == 1)
    line = await held.log_line()
    assert (line["client_gone"], line["attempts"], line["cost_usd"]) == (True, 1, None)


@pytest.mark.parametrize(
    ("prompt", "more", "status"),
    [
        (["x"] * 100, {}, 429),
        ([[1, 2]] * 100, {}, 429),
        (["x"] * 5, {"n": 10}, 429),
        (["x"] * 5, {"n": 1, "best_of": 10}, 429),
        ([1, 2] * 50, {}, 200),
        (["x"] * 5, {"n": 2}, 200),
    ],
)
async def test_each_prompt_of_a_list_is_answered_and_reserved_for(held, far, prompt, more, status):
    body = json.dumps({"model": "mock", "prompt": prompt, "max_tokens": 100, **more}).encode()
    answer = await exchange(held.port, post(body, "/v1/completions", key=KEYS["prompts"]))
    assert answer.status == status
    assert far.requests == (status == 200)


BACKGROUND = ["true", '"true"', "1", "{}", 'false,"background":true', 'false,"back\\u0067round":true']


@pytest.mark.parametrize("value", BACKGROUND)
@pytest.mark.parametrize("build", [post, post_chunked])
async def test_a_response_in_the_background_is_refused_as_nobody_could_charge_it(held, far, build, value):
    body = b'{"model":"mock","input":"x","background":%b}' % value.encode()
    answer = await exchange(held.port, build(body, "/v1/responses", key=KEYS["free"]))
    assert (answer.status, answer.error["param"]) == (400, "background")
    assert far.requests == 0


@pytest.mark.parametrize(
    ("path", "value"), [("/v1/responses", "false"), ("/v1/responses", "null"), (DRAW, '"transparent"')]
)
async def test_other_backgrounds_are_not_our_concern(held, path, value):
    body = b'{"model":"mock","input":"x","prompt":"x","background":%b}' % value.encode()
    assert (await exchange(held.port, post(body, path, key=KEYS["free"]))).status == 200
