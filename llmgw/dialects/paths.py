"""How a path must be spelled, so that it means the same to every reader; and what of a query may go on."""

from __future__ import annotations

import re
from urllib.parse import unquote

from llmgw._core.ask import FREE
from llmgw.dialects.routes import INFERENCE, OTHER, Route
from llmgw.errors import BadRequest, UnknownRoute

SHOWN_MAX = 100
PATH_MAX = 2048
# RFC 3986 path characters without ";". Nothing that needs no encoding may come encoded (letters, digits,
# "-._~"), nor may "/", "\\" and NUL, nor dot segments.
PATH = re.compile(r"/|(?:/(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)+/?")
HIDDEN = re.compile(r"%(?:2[dDeEfF]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[cCfF]|7[eE]|00)|/\.{1,2}(?:/|$)")
QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%\[\]-]*")
# Names of models may hold a slash, and who fetches one by its name is answered here.
MODEL = "/v1/models/"
SLASH = re.compile(r"%2f", re.IGNORECASE)
# Names under which providers read a credential. Ours goes in a header, and nobody else's goes at all.
CREDENTIALS = frozenset(
    {
        "key",
        "api_key",
        "apikey",
        "x_api_key",
        "access_token",
        "token",
        "subscription_key",
        "authorization",
        "sig",
        "signature",
    }
)


def check_url(method: str, path: str, query: str) -> None:
    """Raises BadRequest for a spelling that could be read in two ways."""
    spelled = SLASH.sub("/", path) if method == "GET" and path.startswith(MODEL) else path
    if (
        len(path) > PATH_MAX
        or not PATH.fullmatch(path)
        or HIDDEN.search(spelled)
        or not QUERY.fullmatch(query)
    ):
        raise BadRequest("The request's URL is not valid.")


def check_route(method: str, path: str) -> None:
    """Raises UnknownRoute for what is not below /v1, or almost a route that we read ourselves.

    A lenient provider would serve that one, unread and unpaid.
    """
    is_respelled = path.endswith("/") or (path not in INFERENCE and path.lower() in INFERENCE)
    if not path.startswith("/v1/") or is_respelled:
        raise UnknownRoute(f"Unknown request URL: {method} {path[:SHOWN_MAX]}.")


def route_of(method: str, path: str) -> Route:
    return INFERENCE.get(path, OTHER) if method not in FREE else OTHER


def without_credentials(query: str) -> str:
    """The query, but what a provider might take for a credential. Some readers part it at ";", too."""
    kept = [pair for pair in query.split("&") if not any(map(is_credential, pair.split(";")))]
    return "&".join(kept)


def is_credential(pair: str) -> bool:
    name = unquote(pair.partition("=")[0]).partition("[")[0]
    return name.strip().lower().replace("-", "_") in CREDENTIALS
