"""What every node of the tree is made of."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

# The alias of `name`: under it an entry of a mapping is told its own name. No key of a file can
# spell it, because the reader refuses empty keys.
OWN_NAME = ""


class Node(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_alias=True, validate_by_name=True, hide_input_in_errors=True
    )


AnyNode = TypeVar("AnyNode", bound=Node)


def maybe_node(model: type[AnyNode], words: Any) -> AnyNode | None:
    """None for what its own fields complain about."""
    try:
        return model.model_validate(words, by_alias=True, by_name=False)
    except ValidationError:
        return None


def name_entries(table: Any) -> Any:
    """{name: entry} -> the same, each entry told its name."""
    if not isinstance(table, dict):
        return table
    return {
        name: {**entry, OWN_NAME: name} if isinstance(entry, dict) else entry for name, entry in table.items()
    }
