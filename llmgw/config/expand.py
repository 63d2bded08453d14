"""`${NAME}` and `${NAME:-default}`, after the YAML was parsed: a value can never become structure."""

from __future__ import annotations

import re
from collections.abc import Mapping

# In order of trial: the escape, a well-formed reference, and a "${" that is neither.
REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class Unexpandable(ValueError):
    """`found` and `expected` complete the sentence; the text around the reference is in neither."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found = found
        self.expected = expected


def expand(text: str, environ: Mapping[str, str]) -> str:
    """As the shell does: `:-` stands in for a variable that is unset or empty.

    `$${` gives `${`. What a variable holds is not looked at again, so it cannot refer to another.
    """
    return REFERENCE.sub(lambda match: _value(match, environ), text) if "${" in text else text


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    name, default = match[1], match[2]
    if match[0] == "$${":
        return "${"
    if name is None:
        raise Unexpandable("a loose ${", "${NAME} or ${NAME:-default}; a literal ${ is written $${")
    if default is not None:
        return environ.get(name) or default
    if name not in environ:
        shown = (
            name if name.isupper() else "NAME"
        )  # what is no usual name may be a credential in the wrong place
        raise Unexpandable(
            f"${{{shown}}}", f"the variable {shown} to be set, or a default: ${{{shown}:-...}}"
        )
    return environ[name]
