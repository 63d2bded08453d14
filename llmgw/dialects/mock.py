"""The mock provider. It speaks every shape; we talk OpenAI's to it."""

from __future__ import annotations

from llmgw.dialects.openai import OpenAI


class Mock(OpenAI):
    def credential(self, api_key: str) -> bytes:
        return super().credential(api_key or "mock")
