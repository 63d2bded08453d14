"""From a credential to a Principal, and from a Principal to yes or no.

Keys are looked up by their SHA-256. That is why no comparison here needs to be constant in time:
what a timing could tell is how a digest compares with the stored ones, and nobody can choose the
digest of a guess without having searched for it, so being close to a stored one says nothing about
the key. A dict of digests compares whole hashes first, besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from llmgw.access.principal import Principal
from llmgw.config import Config, GlobSet, Tenant, is_glob
from llmgw.errors import Forbidden, Unauthenticated

# Endpoints whose request names the model, so that the model's allow-list governs them, and the list of
# models, which is cut to it. A tenant that is held to certain models gets these and no others unless
# `routes` says so: on any other path it could reach a model that nobody checked.
NAMES_A_MODEL = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/*",
)
ANY = "*"
# Longer names are cut in messages; the client knows what it sent.
SHOWN_MAX = 100

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using "
    "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
WRONG_KEY = "Incorrect API key provided."


class Keyring:
    """All keys of a configuration. Replaced as a whole when the configuration is."""

    __slots__ = ("_principals",)

    def __init__(self, config: Config) -> None:
        globs: dict[tuple[str, ...], GlobSet] = {}
        self._principals: dict[bytes, Principal] = {}
        for tenant in config.tenants.values():
            # Tenants with equal lists share a set, and with it the bound on what it remembers.
            models = globs.setdefault(tenant.models, GlobSet(tenant.models))
            allowed = routes_of(tenant)
            routes = globs.setdefault(allowed, GlobSet(allowed))
            may_pass_on = tenant.routes is not None or ANY in tenant.models
            for key in tenant.keys:
                principal = Principal(tenant.name, key.name, models, routes, may_pass_on)
                self._principals[bytes.fromhex(key.sha256)] = principal

    def everyone(self) -> Iterable[Principal]:
        """By name, not by credential: for operators and simulations."""
        return self._principals.values()

    def identify(self, credential: bytes | None) -> Principal:
        """Raises `Unauthenticated`. The message never holds any part of the credential."""
        if not credential:
            raise Unauthenticated(NO_KEY)
        principal = self._principals.get(sha256(credential).digest())
        if principal is None:
            raise Unauthenticated(WRONG_KEY)
        return principal

    def permit_model(self, principal: Principal, model: str) -> None:
        """Raises `Forbidden`; whether the model exists is for the routing to say, and only then."""
        if model not in principal.models:
            raise Forbidden(
                f"This API key does not have access to model `{model[:SHOWN_MAX]}`.", param="model"
            )

    def permit_route(self, principal: Principal, endpoint: str) -> None:
        """`endpoint` is the path that was matched, without its query. Raises `Forbidden`."""
        if endpoint not in principal.routes:
            raise Forbidden(f"This API key does not have access to {endpoint[:SHOWN_MAX]}.")

    def visible_models(self, principal: Principal, names: Iterable[str]) -> list[str]:
        """The names that this key may ask for, in their order; a glob is no name to ask for."""
        return [name for name in names if not is_glob(name) and name in principal.models]


def routes_of(tenant: Tenant) -> tuple[str, ...]:
    if tenant.routes is not None:
        return tenant.routes
    return (ANY,) if ANY in tenant.models else NAMES_A_MODEL
