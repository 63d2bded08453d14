"""The configuration of whoever has no file: made from the provider keys in the environment.

It is written in the words of a file and goes through the same loader, so it obeys the same rules
and no variable's value can become structure.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from llmgw.config.loader import load
from llmgw.config.tree import Config
from llmgw.errors import ConfigError

SOURCE = "(environment)"
DEMO_KEY = "sk-demo"
OWN_KEY = "LLMGW_API_KEY"
AZURE = ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT")

MOCK_YAML = f"""
providers:
  mock: {{dialect: mock}}
models:
  mock:
    targets: [{{provider: mock}}]
    price: {{input: "1.00", output: "2.00", cached_input: "0.50"}}  # made up, so that a cost is seen
tenants:
  demo: {{keys: [{{name: demo, key: {DEMO_KEY}}}]}}
"""
OPENAI_YAML = """
providers:
  openai: {dialect: openai, api_keys: ["${OPENAI_API_KEY}"]}
models:
  "*": {targets: [{provider: openai}]}
"""
AZURE_YAML = """
providers:
  azure:
    dialect: azure
    base_url: "${AZURE_OPENAI_ENDPOINT}"
    api_keys: ["${AZURE_OPENAI_API_KEY}"]
"""
AZURE_VERSION_YAML = """
    api_version: "${AZURE_OPENAI_API_VERSION}"
"""
AZURE_MODELS_YAML = """
models:
  "*": {targets: [{provider: azure}]}
"""
TENANT_YAML = """
tenants:
  default: {keys: [{name: default, key: "${LLMGW_API_KEY}"}]}
"""


def new_key() -> str:
    return f"sk-{secrets.token_urlsafe(24)}"


def from_environment(
    environ: Mapping[str, str], *, make_key: Callable[[], str] = new_key
) -> tuple[Config, str | None]:
    """The tree, and the gateway key to show to the user; None if it is the user's own LLMGW_API_KEY.

    OpenAI wins where both keys are set: which of the two would serve a model takes a file to say.
    """
    providers = _provider_yaml(environ)
    if providers is None:
        return load(MOCK_YAML, source=SOURCE, environ=environ), DEMO_KEY
    own = environ.get(OWN_KEY)
    key = own or make_key()
    config = load(providers + TENANT_YAML, source=SOURCE, environ={**environ, OWN_KEY: key})
    return config, None if own else key


def _provider_yaml(environ: Mapping[str, str]) -> str | None:
    if environ.get("OPENAI_API_KEY"):
        return OPENAI_YAML
    if not any(map(environ.get, AZURE)):
        return None
    missing = [name for name in AZURE if not environ.get(name)]
    if missing:
        problems = [
            f"{SOURCE}:1: {name}: found nothing, expected it beside {AZURE[1 - AZURE.index(name)]}"
            for name in missing
        ]
        raise ConfigError(problems)
    version = AZURE_VERSION_YAML if environ.get("AZURE_OPENAI_API_VERSION") else ""
    return AZURE_YAML + version + AZURE_MODELS_YAML
