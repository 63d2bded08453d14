"""Small worlds: a configuration, traffic by hand or by a mix, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from llmgw.config import Config, load
from llmgw.simulate.mix import Mix
from llmgw.simulate.run import Scenario
from llmgw.simulate.traffic import Request, of_mix

CONFIG = """
providers: {openai: {dialect: openai, api_keys: ["provider-key"]}}
models: {gpt-4o-mini: {targets: [{provider: openai}], price: {input: "1", output: "4"}}}
REDIS
tenants:
  acme:
    LIMITS
    keys:
      - {name: web, key: "acme-web"}
      - {name: nightly, key: "acme-nightly", priority: batch, max_wait: 30s}
  globex:
    keys: [{name: app, key: "globex-app"}]
"""


def config(limits: str = "limits: {rpm: 60}", *, redis: bool = False) -> Config:
    text = CONFIG.replace("LIMITS", limits).replace(
        "REDIS", 'redis: {url: "redis://localhost"}' if redis else ""
    )
    return load(text, source="simkit.yaml", environ={})


def request(at_s: float, **given: Any) -> Request:
    """One second long, of 10 + 5 tokens, unless it is said otherwise."""
    plain = Request(round(at_s * 1e6), "acme", "web", "gpt-4o-mini", "/v1/chat/completions", 10, 5, draw=0)
    return replace(plain, **({"duration_us": 1_000_000, "prompt_bytes": 40, "max_tokens": 5} | given))


def by_hand(config: Config, requests: Sequence[Request], length_s: float, **given: Any) -> Scenario:
    return Scenario(config, lambda: requests, length_s, **given)


def by_mix(config: Config, streams: Iterable[dict[str, Any]], length_s: float, **given: Any) -> Scenario:
    """Values are text, as a file's are."""
    mix = Mix.model_validate({"streams": list(streams)}, by_alias=True, by_name=False)
    return Scenario(config, lambda: of_mix(mix, length_s, given.get("seed", 0)), length_s, **given)


def stream(**given: Any) -> dict[str, Any]:
    return {"key": "acme/web", "model": "gpt-4o-mini", "rate": "20"} | given
