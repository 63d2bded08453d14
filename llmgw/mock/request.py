"""A request that was read whole, as the shapes see it."""

from __future__ import annotations

import zlib
from typing import Any
from urllib.parse import parse_qs

import orjson

from llmgw.mock.answer import Refusal
from llmgw.mock.seen import Arrival


class Request:
    """`params` are the named parts of the path. JSON is parsed once, on first need."""

    __slots__ = ("_json", "arrival", "body", "params")

    def __init__(self, arrival: Arrival, body: bytes) -> None:
        self.arrival = arrival
        self.body = body
        self.params: dict[str, str] = {}
        self._json: dict[str, Any] | None = None

    @property
    def json(self) -> dict[str, Any]:
        """The body's object; a refusal with OpenAI's words where it is none."""
        if self._json is None:
            try:
                value = orjson.loads(self.body)
            except orjson.JSONDecodeError:
                raise Refusal(400, "We could not parse the JSON body of your request.") from None
            if not isinstance(value, dict):
                raise Refusal(400, "The JSON body must be an object.")
            self._json = value
        return self._json

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.arrival.query, keep_blank_values=True)

    @property
    def content_type(self) -> str:
        for name, value in self.arrival.raw_headers:
            if name.lower() == b"content-type":
                return value.decode("latin-1")
        return ""

    @property
    def digest(self) -> int:
        """Makes the answer's id a function of the request; the first 4 KB tell requests apart."""
        return zlib.crc32(self.body[:4096])

    def required(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self.json.get(name)
        if value is None:
            raise Refusal(
                400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name
            )
        if not isinstance(value, kind):
            raise Refusal(400, f"Invalid type for '{name}'.", code="invalid_type", param=name)
        return value

    @property
    def model(self) -> str:
        """The body's model, or the deployment in an Azure path."""
        return self.params.get("deployment") or str(self.required("model", str))
