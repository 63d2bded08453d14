"""OpenAI's own API, and everything that speaks it: vLLM, Ollama, Groq, Together, ..."""

from __future__ import annotations

from urllib.parse import urlsplit

from llmgw.config import Provider
from llmgw.dialects.base import OpenAIShape


class OpenAI(OpenAIShape):
    def __init__(self, provider: Provider) -> None:
        super().__init__(provider, urlsplit(provider.base_url or "").path.rstrip("/"))
