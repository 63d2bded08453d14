"""A value that satisfies a simple JSON Schema: what structured output and tool arguments hold."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 16  # a recursive schema ends here

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "mock@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
}


def value_for(schema: dict[str, Any], text: str) -> Any:
    """The smallest value the schema allows; strings carry `text`, so nonces come back."""
    return _value(schema, text, schema, 0)


def _value(schema: dict[str, Any], text: str, root: dict[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return _value(_resolve(schema["$ref"], root), text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _value(schema[choice][0], text, root, depth + 1)
    return _typed(schema, text, root, depth)


def _typed(schema: dict[str, Any], text: str, root: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        members = schema.get("properties", {}).items()
        return {name: _value(member, text, root, depth + 1) for name, member in members}
    if kind == "array":
        item = _value(schema.get("items", {}), text, root, depth + 1)
        return [item] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("maximum", 1))
    if kind == "boolean":
        return True
    return None if kind == "null" else _FORMATS.get(schema.get("format", ""), text)


def _resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    """A local reference such as `#/$defs/Step`; anything else stands for any string."""
    place: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        place = place.get(name) if name and isinstance(place, dict) else place
    return place if isinstance(place, dict) else {}
