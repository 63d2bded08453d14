"""The JSON Schema of the file: it ships for editors, and tells `explain` which keys may stand where.

To write the shipped one anew:
    python -c "from llmgw.config import schema; schema.SHIPPED.write_text(schema.as_text())"
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from llmgw.config.tree import Config

SHIPPED = Path(__file__).with_name("schema.json")


@functools.cache
def json_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmgw configuration",
        **_cleaned(Config.model_json_schema(by_alias=True)),
    }


def _cleaned(node: Any) -> Any:
    """Without generated titles, which repeat the key, and without defaults, which are in the program's
    units (10.0) where the file says 10s. A `title` that is a mapping would be a key of that name."""
    if isinstance(node, list):
        return [_cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _cleaned(value)
        for key, value in node.items()
        if not (key == "default" or (key == "title" and isinstance(value, str)))
    }


def as_text() -> str:
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
