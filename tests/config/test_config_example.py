"""The files that ship: examples that load, a schema that is current, a page that names every key."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmgw import config
from llmgw.config import reader, schema

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "gateway.yaml"
VARIABLES = {
    name: f"sk-{name.lower()}"
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "LLMGW_ADMIN_KEY", "LLMGW_API_KEY", "ACME_WEB_KEY")
}

General = tuple[str, ...]  # a path in which "*" stands for an entry's name or index


def keys_of_schema(node: dict[str, Any], path: General = ()) -> set[General]:
    root = schema.json_schema()
    node = node.get("anyOf", [node])[0]
    node = root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    found = set()
    for key, child in node.get("properties", {}).items():
        found |= {(*path, key)} | keys_of_schema(child, (*path, key))
    for word in ("items", "additionalProperties"):
        if isinstance(node.get(word), dict):
            found |= keys_of_schema(node[word], (*path, "*"))
    return found


def lines_of_example() -> dict[General, list[int]]:
    document = reader.read(EXAMPLE.read_text(), source="f", environ=VARIABLES)
    tables = {("providers",), ("models",), ("tenants",), ("routes",)}
    found: dict[General, list[int]] = {}
    for path, place in document.places.items():
        general = tuple("*" if isinstance(s, int) or path[:i] in tables else s for i, s in enumerate(path))
        found.setdefault(general, []).append(place.line)
    # The one key that cannot stand in a file that loads anywhere: it names a file that exists.
    found["providers", "*", "tls", "ca_file"] = [
        n for n, line in enumerate(EXAMPLE.read_text().splitlines(), 1) if "# ca_file: " in line
    ]
    return found


@pytest.mark.parametrize("name", ["gateway.yaml", "minimal.yaml"])
def test_an_example_loads_as_it_is(name: str) -> None:
    assert config.check(EXAMPLE.with_name(name), VARIABLES) == []


def test_the_example_has_every_key_and_says_why_or_in_which_unit() -> None:
    text = EXAMPLE.read_text().splitlines()
    lines = lines_of_example()
    keys = keys_of_schema(schema.json_schema())
    assert len(keys) > 50
    assert [key for key in sorted(keys) if not lines.get(key)] == []
    assert [key for key in sorted(keys) if not any("#" in text[n - 1] for n in lines[key])] == []


def test_the_example_shows_the_defaults() -> None:
    tree = config.load_file(EXAMPLE, VARIABLES)
    assert tree.server.timeouts == config.ServerTimeouts()
    assert tree.server.model_copy(update={"state_dir": "", "admin": config.Admin()}) == config.Server()
    assert tree.providers["openai"].timeouts == config.Timeouts()
    assert tree.providers["own"].tls == config.Tls()
    assert tree.log == config.Log()


def test_the_schema_that_ships_is_the_current_one() -> None:
    assert schema.SHIPPED.read_text() == schema.as_text(), (
        "write it anew: see the docstring of llmgw.config.schema"
    )


def test_every_key_of_the_schema_tells_an_editor_what_it_is() -> None:
    mute = []

    def visit(node: Any, path: str) -> None:
        if isinstance(node, dict):
            mute.extend(
                f"{path}.{k}" for k, v in node.get("properties", {}).items() if not v.get("description")
            )
            for key, value in node.items():
                visit(value, f"{path}.{key}")

    visit(json.loads(schema.SHIPPED.read_text()), "")
    assert mute == []


def test_the_page_about_the_configuration_shows_messages_that_are_real() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    shown = re.findall(r"^    gateway\.yaml:\d+: (.+)$", page, re.MULTILINE)
    text = """
server: {port: 80x}
providers: {openai: {dialect: mock}, azure: {dialect: mock}}
models: {gpt-4.1: {targets: [{provider: opena}]}}
tenants: {acme: {keys: [{nmae: web, key: sk-demo, name: web}]}}
"""
    with pytest.raises(config.loader.ConfigError) as refusal:
        config.load(text, source="f", environ={})
    assert [line.split(": ", 1)[1] for line in refusal.value.problems] == shown
