"""How each kind of provider is talked to."""

from __future__ import annotations

from collections.abc import Callable

from llmgw._wire.usage import Usage, estimated_usage, reported_usage
from llmgw.config import Provider
from llmgw.dialects.azure import Azure
from llmgw.dialects.base import Dialect, Pieces
from llmgw.dialects.mock import Mock
from llmgw.dialects.openai import OpenAI
from llmgw.dialects.routes import INFERENCE, MESSAGES, OTHER, RESPONSES, Route

DIALECTS: dict[str, Callable[[Provider], Dialect]] = {"openai": OpenAI, "azure": Azure, "mock": Mock}


def dialect_of(provider: Provider) -> Dialect:
    return DIALECTS[provider.dialect](provider)


__all__ = [
    "INFERENCE",
    "MESSAGES",
    "OTHER",
    "RESPONSES",
    "Dialect",
    "Pieces",
    "Route",
    "Usage",
    "dialect_of",
    "estimated_usage",
    "reported_usage",
]
