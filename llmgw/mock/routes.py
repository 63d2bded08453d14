"""Which shape answers which path, and who may ask."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from llmgw.mock import anthropic, chat, gemini, media, responses
from llmgw.mock.answer import Answer, Refusal, json_answer
from llmgw.mock.fault import Fault
from llmgw.mock.files import Files
from llmgw.mock.request import Request
from llmgw.mock.seen import Arrival

Handler = Callable[[Request, Fault], Answer]

# The headers that may carry a key, and which of them each provider reads.
_CREDENTIALS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")
_ACCEPTED = {
    "openai": {b"authorization"},
    "azure": {b"api-key", b"authorization"},
    "anthropic": {b"x-api-key", b"authorization"},
    "gemini": {b"x-goog-api-key", b"authorization", b"?key"},
}


class Route(NamedTuple):
    dialect: str
    handler: Handler


class Routes:
    """All routes of one mock; `find` is the only way in."""

    def __init__(self, models: tuple[str, ...], files: Files) -> None:
        self._models = models
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for path, handler in _openai_posts().items():
            self._exact["/v1" + path] = {"POST": Route("openai", handler)}
            self._add("POST", r"/openai/deployments/(?P<deployment>[^/]+)" + path, "azure", handler)
            self._exact["/openai/v1" + path] = {"POST": Route("azure", handler)}
        self._exact["/v1/models"] = {"GET": Route("openai", self._list_models)}
        self._add("GET", "/v1/models/(?P<model>.+)", "openai", self._get_model)
        self._exact["/v1/messages"] = {"POST": Route("anthropic", anthropic.messages)}
        self._exact["/v1/messages/count_tokens"] = {"POST": Route("anthropic", anthropic.count_tokens)}
        for action, handler in (
            ("generateContent", gemini.generate),
            ("streamGenerateContent", gemini.stream),
        ):
            self._add("POST", rf"/v1(?:beta)?/models/(?P<model>[^/:]+):{action}", "gemini", handler)
        self._exact["/v1/files"] = {
            "POST": Route("openai", files.upload),
            "GET": Route("openai", files.listing),
        }
        one_file = r"/v1/files/(?P<file>[^/]+)"
        self._add("GET", one_file, "openai", files.describe)
        self._add("DELETE", one_file, "openai", files.delete)
        self._add("GET", one_file + "/content", "openai", files.content)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the parts of its path; a refusal in OpenAI's words where there is none."""
        methods = self._exact.get(path)
        params: dict[str, str] = {}
        if methods is None:
            methods, params = self._match(path)
        if not methods:
            raise Refusal(404, f"Invalid URL ({method} {path})", code="unknown_url")
        if method not in methods:
            raise Refusal(405, f"Not allowed to {method} on {path}.", code="method_not_supported")
        return methods[method], params

    def _match(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        found: dict[str, Route] = {}
        params: dict[str, str] = {}
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                found.update(methods)
                params = {name: unquote(value) for name, value in match.groupdict().items()}
        return found, params

    def _add(self, method: str, pattern: str, dialect: str, handler: Handler) -> None:
        self._patterns.append((re.compile(pattern), {method: Route(dialect, handler)}))

    def _list_models(self, _request: Request, _fault: Fault) -> Answer:
        return json_answer({"object": "list", "data": [media.model_object(name) for name in self._models]})

    def _get_model(self, request: Request, _fault: Fault) -> Answer:
        name = request.params["model"]
        if name not in self._models:
            raise Refusal(404, f"The model '{name}' does not exist", code="model_not_found", param="model")
        return json_answer(media.model_object(name))


def check_credentials(arrival: Arrival, dialect: str, keys: frozenset[str]) -> None:
    """One credential, in a header this provider reads, and a known one where `keys` are set."""
    given = [
        (lowered, value) for name, value in arrival.raw_headers if (lowered := name.lower()) in _CREDENTIALS
    ]
    if "key=" in arrival.query:
        given += [
            (b"?key", part[4:].encode()) for part in arrival.query.split("&") if part.startswith("key=")
        ]
    if len(given) != 1:
        what = "no" if not given else f"{len(given)} credentials:"
        names = ", ".join(name.decode() for name, _ in given) or "API key"
        raise Refusal(401, f"You sent {what} {names}.", code="invalid_api_key")
    name, value = given[0]
    if name not in _ACCEPTED[dialect]:
        raise Refusal(401, f"This provider does not read {name.decode()}.", code="invalid_api_key")
    key = value.decode("latin-1")
    if name == b"authorization":
        if not key.startswith("Bearer ") or not key[7:]:
            raise Refusal(401, "The Authorization header is not a Bearer credential.", code="invalid_api_key")
        key = key[7:]
    if keys and key not in keys:
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")


def _openai_posts() -> dict[str, Handler]:
    return {
        "/chat/completions": chat.chat,
        "/completions": chat.completions,
        "/embeddings": media.embeddings,
        "/responses": responses.responses,
        "/moderations": media.moderations,
        "/images/generations": media.images,
        "/audio/speech": media.speech,
        "/audio/transcriptions": media.transcriptions,
    }
