"""Azure OpenAI: a deployment in the path, the version in the query, the key in a header of its own."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from llmgw._wire.call import Call
from llmgw.config import Provider
from llmgw.dialects.base import OpenAIShape, quoted
from llmgw.dialects.routes import CHAT, COMPLETIONS, EMBEDDINGS, OTHER
from llmgw.errors import UnknownRoute

# Routes that Azure serves below a deployment; the others it serves below /openai, model in the body.
DEPLOYED = (CHAT, COMPLETIONS, EMBEDDINGS)
DEPLOYMENTS = "/v1/deployments"
DEPLOYED_PATHS = (
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/images/edits",
)


class Azure(OpenAIShape):
    def __init__(self, provider: Provider) -> None:
        super().__init__(provider, urlsplit(provider.base_url or "").path.rstrip("/") + "/openai")
        self.version = "api-version=" + quote(provider.api_version or "", safe="")

    def credential(self, api_key: str) -> bytes:
        return b"api-key: " + api_key.encode()

    def path(self, call: Call, model: str) -> str:
        if call.endpoint.lower().startswith(DEPLOYMENTS):
            # There a deployment is a path: it would be a model that nobody allowed, priced or counted.
            raise UnknownRoute(f"Unknown request URL: {call.endpoint[:100]}.")
        rest = call.endpoint.removeprefix("/v1")
        if call.route in DEPLOYED or (call.route is OTHER and model and call.endpoint in DEPLOYED_PATHS):
            rest = f"/deployments/{quoted(model)}{rest}"
        return self.prefix + rest + self.query(call.query)

    def query(self, asked: str) -> str:
        """The client's own, without a version: that is the operator's word."""
        pairs = [pair for pair in asked.removeprefix("?").split("&") if pair]
        kept = [pair for pair in pairs if unquote(pair.partition("=")[0]).lower() != "api-version"]
        return "?" + "&".join([*kept, self.version])
