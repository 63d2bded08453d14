"""multipart/form-data, read whole: small uploads for tests, not a general reader (RFC 7578)."""

from __future__ import annotations

import re
from typing import NamedTuple

from llmgw.mock.answer import Refusal

_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?')
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILENAME = re.compile(rb'[; ]filename="([^"]*)"')
_TYPE = re.compile(rb"(?im)^content-type:[ \t]*([^\r\n]+)")


class Part(NamedTuple):
    data: bytes
    filename: str  # empty for a plain field
    content_type: str


def parse_form(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts by their field name; of a repeated one the last."""
    match = _BOUNDARY.search(content_type)
    if match is None or not content_type.startswith("multipart/form-data"):
        raise Refusal(400, "Expected multipart/form-data.")
    pieces = (b"\r\n" + body).split(b"\r\n--" + match[1].encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Refusal(400, "The form does not end with its boundary.")
    form = {}
    for piece in pieces[1:-1]:
        head, found, data = piece.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not found or name is None:
            raise Refusal(400, "A part of the form has no name.")
        form[name[1].decode()] = Part(data, _first(_FILENAME, head), _first(_TYPE, head))
    return form


def _first(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match[1].decode("utf-8", "replace") if match else ""
