"""Who asks, what they may ask for, and what a refusal says."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import config
from llmgw.access import Keyring, Principal
from llmgw.errors import Forbidden, Unauthenticated

KEYRING = Keyring(
    config.load(
        f"""
server: {{admin: {{keys: [{{name: ops, key: sk-admin}}]}}}}
providers: {{mock: {{dialect: mock}}}}
models: {{mock: {{targets: [{{provider: mock}}]}}}}
tenants:
  open: {{keys: [{{name: one, key: sk-open-1}}, {{name: two, key: sk-open-2}}]}}
  held:
    models: ["gpt-*", "o?", mock]
    keys: [{{name: one, key_sha256: {hashlib.sha256(b"sk-held").hexdigest()}}}]
  both: {{models: ["*"], routes: [/v1/chat/*, /v1/audio/speech], keys: [{{name: one, key: sk-both}}]}}
  none: {{models: [], routes: [], keys: [{{name: one, key: sk-none}}]}}
""",
        source="f",
        environ={},
    )
)


def who(key: bytes) -> Principal:
    return KEYRING.identify(key)


def may_use(principal: Principal, endpoint: str) -> bool:
    try:
        KEYRING.permit_route(principal, endpoint)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("key", "tenant", "name"),
    [(b"sk-open-1", "open", "one"), (b"sk-open-2", "open", "two"), (b"sk-held", "held", "one")],
)
def test_a_key_is_its_tenants_and_has_its_name(key: bytes, tenant: str, name: str) -> None:
    assert (who(key).tenant, who(key).key_name) == (tenant, name)


def test_identifying_makes_nothing_new() -> None:
    assert who(b"sk-held") is who(b"sk-held")


@pytest.mark.parametrize("credential", [None, b""])
def test_no_key_is_answered_as_openai_does(credential: bytes | None) -> None:
    with pytest.raises(Unauthenticated, match="^You didn't provide an API key") as refusal:
        KEYRING.identify(credential)
    assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")
    assert refusal.value.type == "invalid_request_error"
    assert not refusal.value.should_retry


@given(st.binary(min_size=1, max_size=80))
def test_an_unknown_key_is_refused_with_one_sentence_that_holds_none_of_it(credential: bytes) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        KEYRING.identify(credential)
    assert refusal.value.message == "Incorrect API key provided."


@pytest.mark.parametrize(
    "credential",
    [b"sk-open", b"sk-open-1 ", b" sk-open-1", b"SK-OPEN-1", b"sk-open-1\0", b"sk-admin",
     hashlib.sha256(b"sk-held").digest(), hashlib.sha256(b"sk-held").hexdigest().encode()],
)  # fmt: skip
def test_only_the_whole_key_opens_and_neither_its_digest_nor_an_admin_key(credential: bytes) -> None:
    with pytest.raises(Unauthenticated):
        KEYRING.identify(credential)


def test_the_keyring_holds_no_key_in_clear() -> None:
    kept = repr(KEYRING._principals)
    assert "sk-" not in kept


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-", "o3", "mock"])
def test_a_tenant_may_use_what_its_globs_match(model: str) -> None:
    KEYRING.permit_model(who(b"sk-held"), model)


@pytest.mark.parametrize(
    "model", ["GPT-4o", "xgpt-4o", "o", "o33", "mocks", "", "*", "claude", "gpt-4o" * 200]
)
def test_and_nothing_else(model: str) -> None:
    with pytest.raises(Forbidden, match="does not have access to model") as refusal:
        KEYRING.permit_model(who(b"sk-held"), model)
    assert (refusal.value.status, refusal.value.type) == (403, "permission_error")
    assert (refusal.value.code, refusal.value.param) == ("model_access_denied", "model")
    assert len(refusal.value.message) < 200


def test_a_tenant_without_a_list_may_use_every_model_and_path() -> None:
    KEYRING.permit_model(who(b"sk-open-1"), "whatever/it:is")
    assert may_use(who(b"sk-open-1"), "/v1/files/file-1/content")


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("/v1/chat/completions", True), ("/v1/completions", True), ("/v1/embeddings", True),
        ("/v1/responses", True), ("/v1/messages", True), ("/v1/messages/count_tokens", True),
        ("/v1/models", True), ("/v1/models/gpt-4o", True), ("/v1/modelsx", False),
        ("/v1/responses/resp_1", False), ("/v1/chat/completions/chatcmpl-1", False), ("/v1/files", False),
        ("/v1/audio/speech", False), ("/v1/images/generations", False), ("/v1/batches", False),
    ],
)  # fmt: skip
def test_a_tenant_held_to_models_gets_only_paths_that_name_one(endpoint: str, allowed: bool) -> None:
    assert may_use(who(b"sk-held"), endpoint) is allowed


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("/v1/chat/completions", True),
        ("/v1/audio/speech", True),
        ("/v1/embeddings", False),
        ("/v1/Chat/x", False),
    ],
)
def test_routes_of_a_tenant_are_its_whole_allow_list(endpoint: str, allowed: bool) -> None:
    assert may_use(who(b"sk-both"), endpoint) is allowed


def test_an_empty_list_allows_nothing() -> None:
    principal = who(b"sk-none")
    assert not may_use(principal, "/v1/models")
    with pytest.raises(Forbidden):
        KEYRING.permit_model(principal, "")


def test_a_refused_path_is_a_403_that_names_it() -> None:
    with pytest.raises(Forbidden, match="does not have access to /v1/files") as refusal:
        KEYRING.permit_route(who(b"sk-held"), "/v1/files")
    assert refusal.value.status == 403


def test_the_list_of_models_is_cut_to_what_may_be_asked_for() -> None:
    names = ["mock", "gpt-4o", "claude-x", "gpt-*", "*", "o3"]
    assert KEYRING.visible_models(who(b"sk-held"), names) == ["mock", "gpt-4o", "o3"]
    assert KEYRING.visible_models(who(b"sk-open-1"), names) == ["mock", "gpt-4o", "claude-x", "o3"]
    assert KEYRING.visible_models(who(b"sk-none"), names) == []


def test_tenants_with_equal_lists_share_one_memory() -> None:
    assert who(b"sk-open-1").models is who(b"sk-both").models
    assert who(b"sk-open-1").models is not who(b"sk-held").models
