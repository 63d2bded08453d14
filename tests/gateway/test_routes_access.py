"""Who may reach which model and which route, and what of a request decides that."""

import json

import pytest
from gatewayrig import Gateway, up
from wireclient import chat, exchange, get, post, post_chunked, wire_to

KEYS = {
    name: f"sk-of-{name}-0123456789" for name in ("all", "chats", "audio", "files", "none-such", "speech")
}


@pytest.fixture(scope="module")
def guarded_gateway(shared_far, tmp_path_factory):
    a_key = {name: [{"name": "k", "key": key}] for name, key in KEYS.items()}
    config = {
        "providers": {"up": up(shared_far.port), "other": up(shared_far.port, "sk-up-of-other")},
        "models": {
            "gpt-4o": {"targets": [{"provider": "up"}]},
            "gpt-4o-mini": {"targets": [{"provider": "other"}]},
            "gpt-4o*": {"targets": [{"provider": "up", "model": "some-4o"}]},
            "tts-1": {"targets": [{"provider": "up"}]},
            "org/model:v1?": {"targets": [{"provider": "up"}]},
        },
        "tenants": {
            "all": {"keys": a_key["all"]},
            "chats": {"models": ["gpt-4o", "gpt-4o-????"], "keys": a_key["chats"]},
            "audio": {"models": ["*"], "routes": ["/v1/audio/*"], "keys": a_key["audio"]},
            "files": {"models": ["gpt-4o"], "routes": ["/v1/files*", "/v1/models*"], "keys": a_key["files"]},
            "none-such": {"models": ["claude-*"], "keys": a_key["none-such"]},
            "speech": {"models": ["tts-1"], "routes": ["/v1/audio/*"], "keys": a_key["speech"]},
        },
        "routes": {"/v1/*": "up", "/v1/files*": "other"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("guarded"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def guarded(guarded_gateway, far) -> Gateway:
    await guarded_gateway.forget_log()
    far.reset()
    return guarded_gateway


ASKED = [
    ("all", "gpt-4o", 200),
    ("all", "unheard-of", 404),
    ("chats", "gpt-4o", 200),
    ("chats", "gpt-4o-mini", 200),
    ("chats", "gpt-4o-minis", 403),
    ("chats", "gpt-4o-", 403),
    ("chats", "gpt-4", 403),
    ("chats", "GPT-4O", 403),
    ("chats", "gpt-4o ", 403),
    ("chats", "tts-1", 403),
    ("chats", "unheard-of", 403),
    ("audio", "gpt-4o", 403),
    ("none-such", "gpt-4o", 403),
    ("none-such", "claude-x", 404),
]


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize(("tenant", "model", "status"), ASKED)
async def test_a_key_reaches_its_models_and_no_others(guarded, far, tenant, model, status, build):
    answer = await exchange(guarded.port, build(chat(model=model), key=KEYS[tenant]))
    assert answer.status == status
    if status == 403:
        assert (answer.error["type"], answer.error["code"]) == ("permission_error", "model_access_denied")
    assert far.requests == (status == 200)
    assert (await guarded.log_line())["tenant_id"] == tenant


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o","model":"tts-1","messages":[]}',
        b'{"model":"gpt-4o","messages":[],"mod\\u0065l":"tts-1"}',
        b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"tts-1","messages":[]}',
        b'{"model":"tts\\u002d1","messages":[]}',
        b'{"messages":[]}',
        b'{"model":null,"messages":[]}',
        b'{"model":["gpt-4o"],"messages":[]}',
        b'{"model":"gpt-4o\\u0000","messages":[]}',
        b'[{"model":"gpt-4o"}]',
        b'{"model":"gpt-4o"}{"model":"tts-1"}',
        b'\xef\xbb\xbf{"model":"tts-1"}',
        b"",
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [post, post_chunked])
async def test_no_spelling_of_a_body_reaches_another_model(guarded, far, build, body):
    answer = await exchange(guarded.port, build(body, key=KEYS["chats"]))
    assert answer.status in (400, 403)
    assert far.requests == 0


async def test_the_longest_pattern_decides_who_serves(guarded):
    served = {}
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-4o-2030", "org/model:v1x"):
        answer = await exchange(guarded.port, post(chat(model=model), key=KEYS["all"]))
        served[model] = (answer.header("x-llmgw-provider"), answer.header("x-llmgw-model"))
    assert served == {
        "gpt-4o": ("up", "gpt-4o"),
        "gpt-4o-mini": ("other", "gpt-4o-mini"),
        "gpt-4o-2030": ("up", "some-4o"),
        "org/model:v1x": ("up", "org/model:v1x"),
    }


async def test_the_list_of_models_is_cut_to_the_key(guarded):
    listed = {}
    for tenant in ("all", "chats", "files", "none-such"):
        answer = await exchange(guarded.port, get("/v1/models", key=KEYS[tenant]))
        listed[tenant] = [entry["id"] for entry in answer.json["data"]]
    assert listed == {
        "all": ["gpt-4o", "gpt-4o-mini", "tts-1"],
        "chats": ["gpt-4o", "gpt-4o-mini"],
        "files": ["gpt-4o"],
        "none-such": [],
    }
    hidden = await exchange(guarded.port, get("/v1/models/tts-1", key=KEYS["chats"]))
    absent = await exchange(guarded.port, get("/v1/models/nobody", key=KEYS["chats"]))
    assert (hidden.status, absent.status) == (404, 404)
    assert hidden.body.replace(b"tts-1", b"nobody") == absent.body


async def test_a_models_name_may_hold_a_slash_and_no_other_path_may(guarded, far):
    for spelling in ("org/model:v1x", "org%2Fmodel:v1x", "org%2fmodel%3Av1x"):
        answer = await exchange(guarded.port, get(f"/v1/models/{spelling}", key=KEYS["all"]))
        assert (answer.status, answer.json["id"]) == (200, "org/model:v1x")
    hidden = [
        get(f"/v1/{path}", key=KEYS["all"]) for path in ("models/..%2Ffiles", "models%2Fx", "files/a%2Fb")
    ]
    hidden.append(get("/v1/models/a%2Fb", key=KEYS["all"], method="DELETE"))
    for request in hidden:
        assert (await exchange(guarded.port, request)).status == 400
    assert far.requests == 0


@pytest.mark.parametrize(
    ("tenant", "path", "status"),
    [
        ("all", "/v1/moderations", 200),
        ("chats", "/v1/moderations", 403),
        ("chats", "/v1/files", 403),
        ("chats", "/v1/embeddings", 200),
        ("files", "/v1/chat/completions", 403),
        ("files", "/v1/files", 400),  # the mock's: that is no form
        ("files", "/v1/fil", 403),
        ("speech", "/v1/audio/speech", 200),
        ("speech", "/v1/audio", 403),
    ],
)
async def test_a_key_reaches_its_routes_and_no_others(guarded, far, tenant, path, status):
    model = "tts-1" if "audio" in path else "gpt-4o"
    body = json.dumps({"model": model, "input": "x", "voice": "alloy", "messages": []}).encode()
    answer = await exchange(guarded.port, post(body, path, key=KEYS[tenant]))
    assert answer.status == status
    assert far.requests == (status != 403)


async def test_a_route_without_a_model_goes_to_the_provider_of_its_path(guarded, far):
    await exchange(guarded.port, get("/v1/files", key=KEYS["all"]))
    await exchange(guarded.port, get("/v1/batches?limit=2&after=a%20b", key=KEYS["all"]))
    assert [arrival.values("authorization")[0].endswith("sk-up-of-other") for arrival in far.seen] == [
        True,
        False,
    ]
    assert (far.seen[1].path, far.seen[1].query) == ("/v1/batches", "limit=2&after=a%20b")


CREDENTIALS = [
    "key",
    "KEY",
    "api_key",
    "api-key",
    "apikey",
    "access_token",
    "token",
    "subscription-key",
    "x-api-key",
]
CREDENTIALS += ["Authorization", "sig", "signature", "%6bey", "k%65y", "key[]", "a=b;key", "%20key"]


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_a_credential_in_the_query_goes_no_further(guarded, far, name):
    await exchange(
        guarded.port, get(f"/v1/files?limit=2&{name}=sk-x&after=a%20b&keys=1&sky=2", key=KEYS["all"])
    )
    assert far.seen[0].query == "limit=2&after=a%20b&keys=1&sky=2"
    await exchange(guarded.port, get(f"/v1/files?{name}=sk-x", key=KEYS["all"]))
    assert far.seen[1].query == ""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_query_of_a_route_that_is_read_goes_no_further(guarded, far, path):
    body = json.loads(chat("x", model="gpt-4o")) | {"input": "x"}
    answer = await exchange(
        guarded.port, post(json.dumps(body).encode(), path + "?limit=2&key=x", key=KEYS["all"])
    )
    assert (answer.status, far.seen[0].query) == (200, "")


FORBIDDEN = json.dumps({"model": "gpt-4o", "input": "x", "voice": "alloy"}).encode()
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nxyz\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/JSON",
        "Application/Json; charset=utf-8",
        " application/json",
        "application/json;charset=utf-8",
        "application/vnd.api+json",
        "text/json",
        "text/plain",
        None,
    ],
)
async def test_a_model_in_json_is_judged_whatever_the_body_is_called(guarded, far, content_type):
    """Servers read JSON under many names, and under none: an unread body must not name a model."""
    lines = post(FORBIDDEN, "/v1/audio/speech", key=KEYS["speech"]).split(b"\r\n")
    kept = [line for line in lines if not line.startswith(b"Content-Type")]
    if content_type is not None:
        kept.insert(1, b"Content-Type:" + (content_type.encode() or b""))
    answer = await exchange(guarded.port, b"\r\n".join(kept))
    assert answer.status in (400, 403, 415)
    assert far.requests == 0


FORM_TYPES = [
    "multipart/form-data; boundary=b",
    'multipart/form-data; boundary="b"',
    "MULTIPART/FORM-DATA; BOUNDARY=b",
    "multipart/form-data; boundary=a; boundary=b",
    "multipart/form-data; boundary=b; boundary=a",
    "multipart/form-data; boundary*=utf-8''a; boundary=b",
    "multipart/form-data; boundary*0=a; boundary=b",
    'multipart/form-data; x="; boundary=a"; boundary=b',
    "multipart/form-data",
]


@pytest.mark.parametrize("content_type", FORM_TYPES)
async def test_a_model_in_a_form_is_judged_whatever_its_boundary_is_called(guarded, far, content_type):
    request = post(FORM % b"gpt-4o", "/v1/audio/transcriptions", key=KEYS["speech"])
    answer = await exchange(guarded.port, request.replace(b"application/json", content_type.encode()))
    assert answer.status in (400, 403)
    assert far.requests == 0


HEADS = [
    b'Content-Disposition: form-data; name="model"',
    b"content-disposition:form-data;name=model",
    b'Content-Disposition: form-data; NAME="model"',
    b'Content-Disposition: form-data;\r\n name="model"',
    b"Content-Disposition: form-data; name*=utf-8''model",
    b"Content-Disposition: form-data; name*=utf-8''mode%6C",
    b"Content-Disposition: form-data; name*=UTF-8'en'model",
    b'Content-Disposition: form-data; name*0="mo"; name*1="del"',
    b'Content-Disposition: form-data; name="mod\\el"',
    b'Content-Disposition: form-data; x=\n\n; name="model"',
    b'X: y\n\nContent-Disposition: form-data; name="model"',
    b'Content-Disposition: form-data; name="file"; name="model"',
    b'Content-Disposition: form-data; name="other"\r\nContent-Disposition: form-data; name="model"',
]


@pytest.mark.parametrize("head", HEADS, ids=str)
async def test_no_spelling_of_a_forms_field_hides_the_model(guarded, far, head):
    """The permitted name stands first, so that a second, hidden one would be the one that counts."""
    form = (FORM % b"tts-1").removesuffix(b"--b--\r\n") + b"--b\r\n" + head + b"\r\n\r\ngpt-4o\r\n--b--\r\n"
    request = post(form, "/v1/audio/transcriptions", key=KEYS["speech"])
    answer = await exchange(
        guarded.port, request.replace(b"application/json", b"multipart/form-data; boundary=b")
    )
    assert answer.status in (400, 403), answer.body
    assert b"gpt-4o" not in b"".join(arrival.body or b"" for arrival in far.seen)


async def test_a_permitted_form_goes_through(guarded, far):
    request = post(FORM % b"tts-1", "/v1/audio/transcriptions", key=KEYS["speech"])
    answer = await exchange(
        guarded.port, request.replace(b"application/json", b"multipart/form-data; boundary=b")
    )
    assert (answer.status, answer.json["model"]) == (200, "tts-1")
    assert far.seen[0].body == FORM % b"tts-1"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET"])
async def test_other_methods_on_a_known_route_are_judged_by_the_same_lists(guarded, far, method):
    body = chat(model="tts-1")
    request = post(body, key=KEYS["chats"]).replace(b"POST", method.encode(), 1)
    answer = await exchange(guarded.port, request)
    assert answer.status in (400, 403, 404, 405)
    assert far.requests == 0


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "FOO"])
async def test_methods_of_no_use_here_go_nowhere(guarded, far, method):
    answer = await exchange(guarded.port, get("/v1/chat/completions", method=method, key=KEYS["all"]))
    assert answer.status in (400, 405)
    assert far.requests == 0


@pytest.mark.parametrize(
    "path", ["/metrics", "/admin", "/admin/config", "/", "/v1", "/v1/", "/v2/models", "/V1/models"]
)
async def test_nothing_of_the_admin_listener_is_on_the_data_listener(guarded, far, path):
    answer = await exchange(guarded.port, get(path, key=KEYS["all"]))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert far.requests == 0


async def test_health_needs_no_key_and_leaves_no_line(guarded):
    for path in ("/health/live", "/health/ready"):
        assert (await exchange(guarded.port, get(path, key=None))).status == 200
    await exchange(guarded.port, get("/v1/models", key=KEYS["all"]))
    assert [line["endpoint"] for line in await guarded.log_lines(1)] == ["/v1/models"]


async def test_each_request_of_a_connection_is_judged_by_its_own_key(guarded, far):
    """A proxy may send everybody's requests on one: whom the last one was let in as says nothing of the next."""
    wrong = KEYS["chats"][:-1] + "8"
    sent = [("all", 200), ("all", 200), ("chats", 200), ("chats", 200), ("none-such", 403), ("chats", 200)]
    keys = [(KEYS[name], name, status) for name, status in sent]
    keys[2:2] = [(KEYS["all"][:-1], None, 401), (KEYS["all"] + "9", None, 401), (None, None, 401)]
    keys[-1:-1] = [(wrong, None, 401), (wrong, None, 401)]
    async with wire_to(guarded.port) as wire:
        for key, _, status in keys:
            wire.send(post(chat(model="gpt-4o"), key=key))
            assert (await wire.answer()).status == status
    lines = await guarded.log_lines(len(keys))
    assert [line["tenant_id"] or None for line in lines] == [name for _, name, _ in keys]
    assert far.requests == sum(status == 200 for _, _, status in keys)
