"""What every node of the tree is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

# The alias of `name`: under it an entry of a mapping is told its own name. No key of a file can
# spell it, because the reader refuses empty keys.
OWN_NAME = ""


class Node(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_alias=True, validate_by_name=True, hide_input_in_errors=True
    )


def name_entries(table: Any) -> Any:
    """{name: entry} -> the same, each entry told its name."""
    if not isinstance(table, dict):
        return table
    return {
        name: {**entry, OWN_NAME: name} if isinstance(entry, dict) else entry for name, entry in table.items()
    }
