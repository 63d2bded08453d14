"""pydantic's verdict in the words of the file: which keys may stand here, what was expected.

What a mapping may hold is read from the same JSON Schema that ships for editors.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmgw.config.node import OWN_NAME
from llmgw.config.problems import Path, Problems, nearest_first, shown_key, shown_scalar
from llmgw.config.schema import json_schema

# pydantic's error type -> what was expected. `value_error` carries its own text, from the field's parser.
EXPECTED = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}
# Judged last, or following from a mistake that is listed anyway.
FOLLOWS = frozenset({"too_short", "default_factory_not_called"})
DICT_KEY = "[key]"  # pydantic's last step to a key, as against its value


def explain(error: ValidationError, problems: Problems) -> None:
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        if detail["type"] not in FOLLOWS:
            _explain_one(detail, problems)
    for detail in details:
        # pydantic counts the sound entries; a list whose only entry is wrong is not empty.
        if detail["type"] == "too_short" and not problems.any_below(detail["loc"]):
            problems.add(detail["loc"], "at least one entry")


def _explain_one(detail: ErrorDetails, problems: Problems) -> None:
    path: Path = detail["loc"]
    if detail["type"] == "extra_forbidden":
        _unknown_key(path, problems)
    elif detail["type"] == "missing":
        problems.add(path, f"this key: {_described(path)}")
    elif path[-1] in (OWN_NAME, DICT_KEY):  # the name of an entry, not what it holds
        problems.add(path[:-1], _expected(detail), found=shown_scalar((), str(path[-2])), aside=True)
    else:
        problems.add(path, _expected(detail))


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "too_long":
        return f"at most {detail['ctx']['max_length']} entries"
    return EXPECTED.get(detail["type"], detail["msg"])


def _unknown_key(path: Path, problems: Problems) -> None:
    key = str(path[-1])
    allowed = nearest_first(key, _properties(path[:-1]))
    place = problems.places.get(path)
    shown_path = (*path[:-1], shown_key(key, allowed))
    problems.add(shown_path, ", ".join(allowed), found="an unknown key", line=place.line if place else None)
    problems.covered.add(path)  # said under another name: the key may be a credential


def _described(path: Path) -> str:
    field: dict[str, Any] = _properties(path[:-1])[str(path[-1])]
    return str(field["description"])


def _properties(path: Path) -> dict[str, Any]:
    """The keys that the mapping at `path` may hold, with their schemas."""
    root = json_schema()
    node = root
    for step in path:
        node = node["items"] if isinstance(step, int) else _child(node, step)
        node = _resolved(node, root)
    properties: dict[str, Any] = node["properties"]
    return properties


def _child(node: dict[str, Any], step: str) -> dict[str, Any]:
    child: dict[str, Any] = node["properties"][step] if "properties" in node else node["additionalProperties"]
    return child


def _resolved(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follows a reference, also that of an optional value: anyOf [reference, null]."""
    node = node.get("anyOf", [node])[0]
    if "$ref" not in node:
        return node
    definition: dict[str, Any] = root["$defs"][node["$ref"].rpartition("/")[2]]
    return definition
