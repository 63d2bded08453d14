"""Who asks: one key of one tenant, with that tenant's allow-lists."""

from __future__ import annotations

from dataclasses import dataclass

from llmgw.config import GlobSet


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """Made once for each key when the configuration is loaded, so identifying allocates nothing."""

    tenant: str
    key_name: str
    models: GlobSet
    routes: GlobSet
    may_pass_on: bool  # requests that name no model, to routes that we do not read
