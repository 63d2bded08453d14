"""The health of every target of a configuration, as all workers of the machine share it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from llmgw._core.health import KEYS_MAX, Board, Health, Policy, Traffic
from llmgw.config import Breaker, Config, Provider

# Shown and shared for a target without a model of its own under a glob: names come from clients there.
ANY_MODEL = "*"


class Healths:
    """A target is a provider and its name for the model; it has one health, whichever models lead to it."""

    def __init__(self, config: Config, board: Board) -> None:
        self._board = board
        self._providers = config.providers
        self._policies = {name: policy_of(provider) for name, provider in config.providers.items()}
        self._found: dict[tuple[str, str], Health] = {}
        self._traffic = {name: board.traffic(key_of("traffic", name)) for name in config.providers}

    def of(self, provider: str, model: str) -> Health:
        health = self._found.get((provider, model))
        if health is None:
            keys = min(max(len(self._providers[provider].api_keys), 1), KEYS_MAX)
            key = key_of("target", provider, model)
            health = self._found[provider, model] = self._board.health(key, self._policies[provider], keys)
        return health

    def traffic(self, provider: str) -> Traffic:
        return self._traffic[provider]

    def known(self) -> Iterator[tuple[str, str, Health]]:
        """(provider, model, health) of each."""
        for (provider, model), health in self._found.items():
            yield provider, model, health


def policy_of(provider: Provider) -> Policy:
    breaker: Breaker = provider.breaker
    return Policy(
        failures=breaker.failures,
        failure_rate=breaker.failure_rate,
        min_requests=breaker.min_requests,
        window_us=to_us(breaker.window_s),
        slow_us=to_us(breaker.slow_s),
        open_us=to_us(breaker.open_s),
        max_open_us=to_us(breaker.max_open_s),
        successes=breaker.successes,
        probe_every_us=to_us(breaker.probe_every_s),
        is_breaking=breaker.enabled,
        is_paced=provider.pacing,
    )


def to_us(seconds: float) -> int:
    return round(seconds * 1e6)


def key_of(*parts: str) -> bytes:
    """Names a row of the segment."""
    named = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(named.encode("utf-8", "surrogatepass")).digest()[:16]
