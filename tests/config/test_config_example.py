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
NAMED = {"providers", "models", "tenants", "routes", "tags"}  # mappings whose keys are names


def folded(path: General) -> General:
    """What limits, budgets and prices hold is explained once, wherever it stands; so are limit and mode of a limit."""
    for word in ("limits", "budgets", "price"):
        if word in path[:-1]:
            path = path[path.index(word) :]
    return ("limits", "*", path[-1]) if path[0] == "limits" and len(path) > 2 else path


def keys_of_schema(node: dict[str, Any], path: General = ()) -> set[General]:
    root = schema.json_schema()
    node = node.get("anyOf", [node])[0]
    node = root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    found = set()
    for key, child in node.get("properties", {}).items():
        found |= {folded((*path, key))} | keys_of_schema(child, (*path, key))
    for word in ("items", "additionalProperties"):
        if isinstance(node.get(word), dict):
            found |= keys_of_schema(node[word], (*path, "*"))
    return found


def lines_of_example() -> dict[General, list[int]]:
    document = reader.read(EXAMPLE.read_text(), source="f", environ=VARIABLES)
    found: dict[General, list[int]] = {}
    for path, place in document.places.items():
        before = (None, *path)
        general = tuple("*" if isinstance(s, int) or b in NAMED else s for b, s in zip(before, path))
        found.setdefault(folded(general) if general else general, []).append(place.line)
    # The one key that cannot stand in a file that loads anywhere: it names a file that exists.
    found["providers", "*", "tls", "ca_file"] = [
        n for n, line in enumerate(EXAMPLE.read_text().splitlines(), 1) if "# ca_file: " in line
    ]
    return found


@pytest.mark.parametrize("name", ["gateway.yaml", "minimal.yaml"])
def test_an_example_loads_as_it_is(name: str) -> None:
    assert config.check(EXAMPLE.with_name(name), VARIABLES) == ([], [])


def test_the_example_has_every_key_and_says_why_or_in_which_unit() -> None:
    text = EXAMPLE.read_text().splitlines()
    lines = lines_of_example()
    keys = keys_of_schema(schema.json_schema())
    assert len(keys) > 100
    assert [key for key in sorted(keys) if not lines.get(key)] == []
    assert [key for key in sorted(keys) if not any("#" in text[n - 1] for n in lines[key])] == []


def test_the_example_shows_the_defaults() -> None:
    tree = config.load_file(EXAMPLE, VARIABLES)
    assert tree.server.timeouts == config.ServerTimeouts()
    assert tree.server.model_copy(update={"state_dir": "", "admin": config.Admin()}) == config.Server()
    assert tree.providers["openai"].timeouts == config.Timeouts()
    assert tree.providers["own"].tls == config.Tls()
    assert tree.providers["openai"].breaker == config.Breaker(slow_s=20.0)
    assert tree.providers["openai"].retry_budget == config.RetryBudget()
    assert tree.providers["openai"].pacing == config.Provider(name="o", dialect="openai").pacing
    assert tree.providers["own"].health_check == config.HealthCheck()
    model = tree.models["gpt-4o-mini"]
    assert (model.retry, model.hedge) == (config.Retry(), config.Hedge())
    assert (model.canary.share, model.mirror.share) == (
        config.Canary.model_fields["share"].default,
        config.Mirror.model_fields["share"].default,
    )
    assert tree.models["support"].hash_on == config.Model.model_fields["hash_on"].default
    assert tree.models["long"].targets[1].quality == config.Target(provider="p").quality
    assert tree.log == config.Log()
    assert tree.queue == config.Queue()
    assert tree.ledger.model_copy(update={"path": ""}) == config.Ledger()
    assert tree.redis == config.Redis(url="redis://127.0.0.1:6379/0")
    assert tree.tenants["acme"].users.tracked == config.Users().tracked
    web = tree.tenants["acme"].keys[0].model_copy(update={"limits": config.Limits(), "budgets": ()})
    assert web == config.Key(name="web", sha256=web.sha256)


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


def test_the_page_about_the_configuration_shows_messages_that_are_real(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    shown = re.findall(r"^    gateway\.yaml:\d+: (.+)$", page, re.MULTILINE)
    file = tmp_path / "gateway.yaml"
    file.write_text("""
server: {port: 80x}
providers: {openai: {dialect: mock}, azure: {dialect: mock}}
models: {gpt-4.1: {targets: [{provider: opena}]}}
tenants: {acme: {limits: {rpm: 0}, keys: [{nmae: web, key: sk-demo, name: web}]}}
""")
    problems, notices = config.check(file, {})
    assert [line.split(": ", 1)[1] for line in problems + notices] == shown
