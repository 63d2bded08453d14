"""What goes to a provider: Azure's paths and key, names with odd characters, base URLs with paths, no key at all."""

import json

import pytest
from gatewayrig import CLIENT_KEY, OTHER_KEY, Gateway
from wireclient import chat, exchange, get, post, post_chunked

AZURE_KEY = "azure-key-0123456789abcdef"


@pytest.fixture(scope="module")
def mixed_gateway(shared_far, tmp_path_factory):
    host = f"http://127.0.0.1:{shared_far.port}"
    azure = {"dialect": "azure", "base_url": host, "api_keys": [AZURE_KEY]}
    config = {
        "providers": {
            "azure": {**azure, "api_version": "2024-10-21"},
            "below": {"dialect": "openai", "base_url": f"{host}/openai/v1/", "api_keys": ["sk-below"]},
            "keyless": {"dialect": "openai", "base_url": f"{host}/v1"},
            "built-in": {"dialect": "mock"},
        },
        "models": {
            "gpt-4o": {"targets": [{"provider": "azure", "model": "my-deployment"}]},
            "free/*": {"targets": [{"provider": "azure"}]},
            "below": {"targets": [{"provider": "below"}]},
            "keyless": {"targets": [{"provider": "keyless"}]},
            "mock": {"targets": [{"provider": "built-in"}]},
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
        "routes": {"/v1/*": "azure"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("mixed"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def mixed(mixed_gateway, far) -> Gateway:
    await mixed_gateway.forget_log()
    far.reset()
    return mixed_gateway


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("streams", [False, True])
async def test_azure_gets_its_path_version_and_key_header(mixed, far, build, streams):
    answer = await exchange(mixed.port, build(chat("nonce-beef", model="gpt-4o", stream=streams)))
    assert answer.status == 200
    assert b"nonce-beef" in answer.body
    (arrival,) = far.seen
    assert arrival.path == "/openai/deployments/my-deployment/chat/completions"
    assert arrival.query == "api-version=2024-10-21"
    assert (arrival.values("api-key"), arrival.values("authorization")) == ([AZURE_KEY], [])
    line = await mixed.log_line()
    assert (line["model_requested"], line["model_used"]) == ("gpt-4o", "my-deployment")
    assert line["usage_source"] == "reported"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/embeddings", "/openai/deployments/my-deployment/embeddings"),
        ("/v1/completions", "/openai/deployments/my-deployment/completions"),
        ("/v1/audio/speech", "/openai/deployments/my-deployment/audio/speech"),
        ("/v1/images/generations", "/openai/deployments/my-deployment/images/generations"),
        ("/v1/responses", "/openai/responses"),
    ],
)
async def test_each_route_has_its_place_at_azure(mixed, far, path, expected):
    body = json.dumps({"model": "gpt-4o", "input": "x", "prompt": "x", "voice": "alloy"}).encode()
    await exchange(mixed.port, post(body, path))
    assert far.seen[0].path == expected
    assert json.loads(far.seen[0].body)["model"] == "my-deployment"


async def test_a_clients_query_stands_beside_azures_version(mixed, far):
    await exchange(mixed.port, get("/v1/files?purpose=batch&api-version=1999-01-01"))
    await exchange(mixed.port, get("/v1/files?purpose=batch"))
    assert far.seen[1].query == "purpose=batch&api-version=2024-10-21"
    versions = [part for part in far.seen[0].query.split("&") if part.startswith("api-version=")]
    assert versions[-1] == "api-version=2024-10-21"


async def test_no_path_of_a_client_reaches_a_deployment_past_the_models(mixed, far):
    """At Azure a deployment is a path: it would be a model that nobody allowed, priced or counted."""
    for path in ("/v1/deployments/other/chat/completions", "/v1/deployments/my-deployment/chat/completions"):
        answer = await exchange(mixed.port, post(chat(model="gpt-4o"), path))
        assert answer.status in (403, 404)
    assert far.requests == 0


async def test_a_name_is_one_segment_of_a_path_whatever_it_holds(mixed, far):
    await exchange(mixed.port, post(chat(model="free/../../x?y#z% \u00e9")))
    (arrival,) = far.seen
    assert arrival.path == "/openai/deployments/free%2F..%2F..%2Fx%3Fy%23z%25%20%C3%A9/chat/completions"
    assert arrival.query == "api-version=2024-10-21"


async def test_a_base_url_may_have_a_path(mixed, far):
    assert (await exchange(mixed.port, post(chat(model="below")))).status == 200
    assert far.seen[0].path == "/openai/v1/chat/completions"
    assert far.seen[0].values("host") == [f"127.0.0.1:{far.port}"]


async def test_a_provider_without_a_key_is_sent_none_and_never_the_clients(mixed, far):
    await exchange(mixed.port, post(chat(model="keyless")))
    (arrival,) = far.seen
    assert not {"authorization", "api-key", "x-api-key"} & {name.lower() for name, _ in arrival.headers}


async def test_the_built_in_mock_answers_without_an_address(mixed, far):
    answer = await exchange(mixed.port, post(chat("nonce-beef", model="mock")))
    assert b"nonce-beef" in answer.body
    assert far.requests == 0


async def test_tenants_do_not_see_each_other(gateway, far):
    """The same request of two tenants is two requests, and each line has its own tenant."""
    body = chat("the same words")
    for key in (CLIENT_KEY, OTHER_KEY):
        assert (await exchange(gateway.port, post(body, key=key))).status == 200
    assert [line["tenant_id"] for line in await gateway.log_lines(2)] == ["acme", "narrow"]
    metrics = gateway.metrics()
    assert metrics.total("llm_requests_total", tenant="narrow", status="200") >= 1
    assert far.requests == 2
