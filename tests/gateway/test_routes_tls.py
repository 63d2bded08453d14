"""Providers that are spoken to over TLS: trusted as configured, or not spoken to at all."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, UPSTREAM_KEY, Gateway
from test_routes_sockets import established, sockets_of
from wireclient import chat, exchange, post, post_chunked

from llmgw.mock.certificate import self_signed


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))[0]


@pytest.fixture(scope="module")
def secure_far(ca_file) -> Iterator[FarEnd]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, ca_file.with_name("mock-key.pem"))
    far = FarEnd("0.0.0.0", ssl=context)  # 127.0.0.2 too, which the certificate does not name
    yield far
    far.close()


@pytest.fixture(scope="module")
def secure_gateway(secure_far, ca_file, tmp_path_factory) -> Iterator[Gateway]:
    def at(host: str, **tls: object) -> dict[str, object]:
        url = f"https://{host}:{secure_far.port}/v1"
        return {"dialect": "openai", "base_url": url, "api_keys": [UPSTREAM_KEY], "tls": tls}

    names = ("trusted", "unknown-ca", "wrong-name", "unverified")
    config = {
        "providers": {
            "trusted": at("127.0.0.1", ca_file=str(ca_file)),
            "unknown-ca": at("127.0.0.1"),
            "wrong-name": at("127.0.0.2", ca_file=str(ca_file)),
            "unverified": at("127.0.0.2", verify=False),
        },
        "models": {
            **{name: {"targets": [{"provider": name}]} for name in names},
            "second": {
                "strategy": "ordered",
                "targets": [{"provider": "unknown-ca"}, {"provider": "trusted"}],
            },
        },
        "tenants": {"acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]}},
    }
    gateway = Gateway(tmp_path_factory.mktemp("secure"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def secure(secure_gateway, secure_far) -> Gateway:
    secure_far.reset()
    await secure_gateway.forget_log()
    return secure_gateway


@pytest.mark.parametrize("build", [post, post_chunked])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_trusted_provider_answers(secure, secure_far, build, streams):
    answer = await exchange(secure.port, build(chat("nonce-beef", model="trusted", stream=streams)))
    assert (answer.status, answer.is_whole) == (200, True)
    assert b"nonce-beef" in answer.body
    assert secure_far.seen[0].values("authorization") == [f"Bearer {UPSTREAM_KEY}"]


@pytest.mark.parametrize("size", [100, 70_000, 3_000_000])
async def test_bodies_of_any_size_cross_it_unchanged(secure, secure_far, size):
    body = chat("x" * size, model="trusted", mock={"text_bytes": size})
    answer = await exchange(secure.port, post(body))
    assert (answer.status, len(answer.json["choices"][0]["message"]["content"])) == (200, size)
    assert secure_far.seen[0].body_bytes == len(body)


@pytest.mark.parametrize("model", ["unknown-ca", "wrong-name"])
async def test_a_certificate_that_does_not_hold_is_502_and_nothing_is_sent(secure, secure_far, model):
    answer = await exchange(secure.port, post(chat(model=model)))
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert "certificate" not in answer.body.decode()
    assert secure_far.requests == 0


async def test_who_asks_for_no_verification_gets_none(secure):
    assert (await exchange(secure.port, post(chat(model="unverified")))).status == 200


async def test_a_certificate_that_does_not_hold_leads_to_the_next_target(secure):
    answer = await exchange(secure.port, post(chat(model="second")))
    assert (answer.status, answer.header("x-llmgw-provider")) == (200, "trusted")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_stream_is_as_broken_as_without_tls(secure, secure_far, how):
    body = chat(model="trusted", stream=True, mock={"events": 9, "interval_s": 0.02, how: "events:4"})
    answer = await exchange(secure.port, post(body))
    assert not answer.is_whole
    assert b'"upstream_error"' in answer.events[-1]
    assert secure_far.requests == 1


async def test_nagle_is_off_under_tls_too(secure, secure_far):
    (pid,) = secure.worker_pids()
    try:
        for copy in sockets_of(pid):
            copy.close()
    except PermissionError as error:
        pytest.skip(f"the kernel does not let us look into a child process: {error}")
    await exchange(secure.port, post(chat(model="trusted")))
    assert set(established(pid, secure_far.port)) == {True}
