"""The seam: what differs between providers. One file for each dialect, one instance for each provider."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote

from llmgw._wire.call import Call
from llmgw._wire.skim import Skim, splice
from llmgw._wire.sse import EventScanner
from llmgw.config import Provider
from llmgw.dialects.routes import OTHER, Route

# An image in an event, in base64.
EVENT_MAX_BYTES = 16 << 20

Pieces = list[bytes | memoryview]


class Dialect(Protocol):
    """Turns a Call into a provider's request, and says how its answer is to be read."""

    def speaks(self, route: Route) -> bool:
        """Whether such a request can be put to this provider at all."""

    def path(self, call: Call, model: str) -> str:
        """Path and query of the request, from the host's root."""

    def credential(self, api_key: str) -> bytes:
        """The header line that carries our key, without its end."""

    def body(self, call: Call, facts: Skim | None, model: str | None) -> Pieces:
        """The request's body in pieces; `model` replaces the one asked for, None leaves it."""

    def scanner(self, call: Call, facts: Skim | None) -> EventScanner:
        """Reads the answer's events and passes on those that the client is to see."""


class OpenAIShape:
    """What speaks OpenAI's shape passes through as bytes; subclasses say where and with which key."""

    def __init__(self, provider: Provider, prefix: str) -> None:
        self.provider = provider
        self.prefix = prefix

    def speaks(self, route: Route) -> bool:
        return True

    def credential(self, api_key: str) -> bytes:
        return b"authorization: Bearer " + api_key.encode()

    def path(self, call: Call, model: str) -> str:
        return self.prefix + call.endpoint.removeprefix("/v1") + call.query

    def body(self, call: Call, facts: Skim | None, model: str | None) -> Pieces:
        if facts is None:
            return [call.body]
        return splice(call.body, facts, model, self.forces_usage(call, facts))

    def scanner(self, call: Call, facts: Skim | None) -> EventScanner:
        strips = facts is not None and self.forces_usage(call, facts)
        return EventScanner(call.route.terminal, strips, EVENT_MAX_BYTES)

    def forces_usage(self, call: Call, facts: Skim) -> bool:
        """A stream's usage is always asked for, since it is what we charge by."""
        return facts.stream and call.route.has_usage_option and not facts.include_usage


def quoted(segment: str) -> str:
    """As one segment of a path: nothing in it can start another one."""
    return quote(segment, safe="")


__all__ = ["OTHER", "Dialect", "OpenAIShape", "Pieces", "quoted"]
