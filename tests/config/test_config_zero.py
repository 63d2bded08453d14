"""Without a file: the environment is the configuration. With a command line: it wins."""

import hashlib

import pytest

from llmgw import config
from llmgw.errors import ConfigError


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_without_any_provider_key_the_mock_answers_sk_demo() -> None:
    tree, key = config.from_environment({"LLMGW_API_KEY": "ignored"})
    assert key == "sk-demo"
    assert list(tree.models) == list(tree.providers) == ["mock"]
    assert tree.providers["mock"].dialect == "mock"
    assert tree.tenants["demo"].keys[0].sha256 == sha256("sk-demo")
    assert (tree.server.host, tree.server.port) == ("127.0.0.1", 8080)
    assert (tree.server.admin.host, tree.server.admin.port) == ("127.0.0.1", 9090)
    assert config.price_of(tree.models["mock"], None, "mock") is not None


@pytest.mark.parametrize("azure", [{}, {"AZURE_OPENAI_API_KEY": "k2"}])
def test_an_openai_key_serves_every_model_under_a_fresh_gateway_key(azure: dict[str, str]) -> None:
    tree, key = config.from_environment({"OPENAI_API_KEY": "k1", **azure}, make_key=lambda: "sk-fresh")
    assert key == "sk-fresh"
    assert tree.providers["openai"].api_keys == ("k1",)
    assert [(m.name, m.targets[0].provider, m.targets[0].model) for m in tree.models.values()] == [
        ("*", "openai", None)
    ]
    assert [k.sha256 for t in tree.tenants.values() for k in t.keys] == [sha256("sk-fresh")]


def test_fresh_keys_differ_and_are_long() -> None:
    keys = {config.from_environment({"OPENAI_API_KEY": "k"})[1] for _ in range(5)}
    assert len(keys) == 5
    assert min(len(key or "") for key in keys) >= 32


def test_a_gateway_key_of_ones_own_is_used_and_not_printed() -> None:
    tree, key = config.from_environment({"OPENAI_API_KEY": "k", "LLMGW_API_KEY": "mine"})
    assert key is None
    assert tree.tenants["default"].keys[0].sha256 == sha256("mine")


def test_azure_alone_serves_every_deployment() -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com/"}
    tree, _ = config.from_environment(environ)
    azure = tree.providers["azure"]
    assert (azure.dialect, azure.base_url, azure.api_keys) == ("azure", "https://x.openai.azure.com", ("k",))
    assert azure.api_version == "2024-10-21"
    assert tree.models["*"].targets[0].provider == "azure"
    tree, _ = config.from_environment({**environ, "AZURE_OPENAI_API_VERSION": "2025-04-01-preview"})
    assert tree.providers["azure"].api_version == "2025-04-01-preview"


def test_half_of_azure_is_an_error_that_names_the_other_half() -> None:
    with pytest.raises(
        ConfigError, match="AZURE_OPENAI_ENDPOINT: found nothing, expected it beside AZURE_OPENAI_API_KEY"
    ):
        config.from_environment({"AZURE_OPENAI_API_KEY": "k"})
    with pytest.raises(
        ConfigError, match="AZURE_OPENAI_API_KEY: found nothing, expected it beside AZURE_OPENAI_ENDPOINT"
    ):
        config.from_environment({"AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com"})


def test_a_broken_key_in_the_environment_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as refusal:
        config.from_environment({"OPENAI_API_KEY": "secret\r\nx-evil: 1"})
    assert "credential" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_value_cannot_become_structure() -> None:
    tree, _ = config.from_environment(
        {"OPENAI_API_KEY": '"],base_url:"http://evil.example"', "LLMGW_API_KEY": "k"}
    )
    assert tree.providers["openai"].base_url == "https://api.openai.com/v1"
    assert tree.providers["openai"].api_keys == ('"],base_url:"http://evil.example"',)


def test_the_command_line_wins_over_the_file() -> None:
    tree, _ = config.from_environment({})
    changed = config.override(tree, host="0.0.0.0", port=0, workers=3)
    assert (changed.server.host, changed.server.port, changed.server.workers) == ("0.0.0.0", 0, 3)
    assert changed.server.admin == tree.server.admin
    assert config.override(tree).server == tree.server
    assert config.override(changed, workers="auto").server.workers == tree.server.workers


def test_the_command_line_is_checked_like_the_file() -> None:
    tree, _ = config.from_environment({})
    with pytest.raises(ConfigError) as refusal:
        config.override(tree, host="http://x", port=65536, workers=0)
    assert [line.split(", ")[0] for line in refusal.value.problems] == [
        'command line: --host: found "http://x"',
        'command line: --port: found "65536"',
        'command line: --workers: found "0"',
    ]
    with pytest.raises(ConfigError, match="expected another port than the admin listener's"):
        config.override(tree, port=9090)


def test_the_tree_cannot_be_changed() -> None:
    tree, _ = config.from_environment({})
    with pytest.raises(ValueError, match="frozen"):
        tree.server.port = 1  # type: ignore[misc]


def test_parts_of_the_tree_can_be_made_in_code_with_plain_numbers() -> None:
    assert config.Timeouts(connect=0.1).connect == 0.1
    assert config.Price(input_pusd=5, output_pusd=7).cached_input_pusd == 5
    assert config.Target(provider="p", weight=2).weight == 2
    assert config.Key(name="k", sha256="0" * 64).sha256 == "0" * 64
    with pytest.raises(ValueError, match="weight") as refusal:
        config.Target(provider="p", weight=0)
    assert "input_value" not in str(refusal.value)
