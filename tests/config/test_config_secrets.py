"""Credentials: in the tree only where they are needed, in no message at all."""

import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw import config
from llmgw.errors import ConfigError

TEXT = """
server: {admin: {host: 0.0.0.0, keys: [{name: ops, key: "Adm1nS3cretZ"}]}}
providers:
  openai:
    dialect: openai
    api_keys: ["Prov1derS3cretZ", "${PROVIDER_KEY}"]
    proxy: "http://me:Pr0xyS3cretZ@proxy.example:3128"
    timeouts: {connect: 5s}
    breaker: {slow: 20s}
    health_check: {every: 10s}
  own: {dialect: openai, base_url: "http://own.example/v1", breaker: off}
models:
  "*": {targets: [{provider: openai, weight: 2}, {provider: own}], fallbacks: {timeout: [own]}, hedge: {after: p90}}
  own: {score: {latency: 1}, targets: [{provider: own}], mirror: {target: {provider: openai}}, fallbacks: ["gpt-4o"]}
tenants:
  acme:
    models: ["gpt-*"]
    keys:
      - {name: web, key: "Cl1entS3cretZ"}
      - name: env
        key: "${CLIENT_KEY}"
redis: {url: "rediss://me:R3d1sS3cretZ@cache.example:6379/0"}
alerts: {webhook: "https://hooks.example/T0/H00kS3cretZ"}
"""
ENVIRON = {"PROVIDER_KEY": "Prov1derEnvS3cretZ", "CLIENT_KEY": "Cl1entEnvS3cretZ"}
GATEWAY_KEYS = ["Adm1nS3cretZ", "Cl1entS3cretZ", "Cl1entEnvS3cretZ"]
PROVIDER_SECRETS = ["Prov1derS3cretZ", "Prov1derEnvS3cretZ", "Pr0xyS3cretZ", "R3d1sS3cretZ", "H00kS3cretZ"]
SLIP_TEXTS = [
    "",
    " ",
    "\n",
    ":",
    ": ",
    "- ",
    "[",
    "}",
    '"',
    "*",
    "&",
    "#",
    "|",
    ">",
    "!",
    "?",
    "${",
    "x",
    ",",
]
MARK = "S3cret"  # stands in each of them


def loaded() -> config.Config:
    return config.load(TEXT, source="f.yaml", environ=ENVIRON)


def test_the_tree_survives_pickling_whole() -> None:
    assert pickle.loads(pickle.dumps(loaded())) == loaded()


def test_no_gateway_key_is_in_the_tree_in_clear() -> None:
    data = pickle.dumps(loaded())
    assert [key for key in GATEWAY_KEYS if key.encode() in data] == []
    assert hashlib.sha256(b"Cl1entS3cretZ").hexdigest() in repr(loaded())


def test_provider_credentials_reach_the_workers_but_no_repr() -> None:
    data, shown = pickle.dumps(loaded()), repr(loaded()) + str(loaded())
    assert [secret for secret in PROVIDER_SECRETS if secret.encode() not in data] == []
    assert MARK not in shown


def refusal(text: str, environ: dict[str, str]) -> str:
    """All that an operator sees of what is wrong with the file; empty if nothing is."""
    try:
        config.load(text, source="f.yaml", environ=environ)
    except ConfigError as error:
        assert error.problems
        assert all(line.startswith("f.yaml:") and "\n" not in line for line in error.problems)
        return str(error) + repr(error)
    return ""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_slip_of_the_pen_puts_a_credential_into_a_message(data: st.DataObject) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        text = text[:at] + data.draw(st.sampled_from(SLIP_TEXTS)) + text[at + cut :]
    assert MARK not in refusal(text, ENVIRON)


SLIPS = [
    ("key: ", "key:"),
    ("api_keys: ", "api_keys:"),
    ("api_keys: [", "api_key: ["),
    ("keys:\n", "kyes:\n"),
    ('"Cl1entS3cretZ"', '["Cl1entS3cretZ"]'),
    ('"Cl1entS3cretZ"', "*Cl1entS3cretZ"),
    ('"Cl1entS3cretZ"', "!Cl1entS3cretZ! x"),
    ('"Cl1entS3cretZ"', '"Cl1entS3cretZ with a blank"'),
    ("key: ", "key_sha256: "),
    ("key: ", "name: "),
    ("- {name: web, key: ", "- {"),
    ("dialect: openai", 'dialect: "${PROVIDER_KEY}"'),
    ("connect: 5s", 'connect: "${PROVIDER_KEY}"'),
    ("weight: 2", 'weight: "${PROVIDER_KEY}"'),
    ("provider: openai", 'provider: "${PROVIDER_KEY}"'),
    ('["gpt-*"]', '["${CLIENT_KEY} x"]'),
    ("dialect: openai", 'dialect: openai\n    base_url: "https://me:S3cret@own.example/v1"'),
    ("dialect: openai", 'dialect: openai\n    base_url: "https://own.example/v1?key=S3cret"'),
    ("dialect: openai", 'dialect: openai\n    base_url: "sk-S3cret"'),
    ("acme:\n", "acme: |\n"),
    ("openai:\n", "openai: >\n"),
    ('"Cl1entS3cretZ"', '"${Cl1entS3cretZ}"'),
    ("@proxy.example:3128", "@proxy.example:99999"),
    ("/0", "/zero"),
    ("rediss://", "redis:/"),
    ("url:", "urls:"),
    ("url: ", "url:"),
    ("@cache.example", "/@cache.example"),
    ('"rediss://me:R3d1sS3cretZ@cache.example:6379/0"', '"R3d1sS3cretZ"'),
    ("webhook: ", "webhook:"),
    ("webhook: ", "hook: "),
    ("https://hooks", "hooks"),
    ("models:\n", "models:\n  sk-S3cret: {}\n"),
    ("tenants:\n", "tenants:\n  sk-S3cret x: {}\n"),
]


@pytest.mark.parametrize(("right", "wrong"), SLIPS, ids=lambda text: ascii(text))
def test_a_known_slip_is_refused_without_showing_the_credential(right: str, wrong: str) -> None:
    assert right in TEXT
    seen = refusal(TEXT.replace(right, wrong), ENVIRON)
    assert seen
    assert MARK not in seen


def test_a_secret_variable_that_is_not_set_is_named_and_nothing_else() -> None:
    seen = refusal(TEXT, {"CLIENT_KEY": "Cl1entEnvS3cretZ"})
    assert "f.yaml:6: providers.openai.api_keys[1]: found ${PROVIDER_KEY}, expected the variable" in seen
    assert MARK not in seen


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_tree_or_a_refusal(text: str) -> None:
    assert refusal(text, {})


def test_a_file_that_is_none_is_a_refusal_too(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"tenants: {caf\xe9: {}}")
    assert config.check(latin, {}).problems == [
        f"{latin}:1: (file): found a byte that is no UTF-8, expected UTF-8 text"
    ]
    absent = tmp_path / "absent.yaml"
    assert config.check(absent, {}).problems == [
        f"{absent}:1: (file): found No such file or directory, expected a readable file"
    ]
    assert config.check(tmp_path, {}).problems == [
        f"{tmp_path}:1: (file): found Is a directory, expected a readable file"
    ]
    with pytest.raises(ConfigError):
        config.load_file(absent, {})
