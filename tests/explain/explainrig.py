"""Gateways that are asked to explain, and what stands in their segment."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

from gatewayrig import CLIENT_KEY, DEADLINE_S, OTHER_KEY, UPSTREAM_KEY, Config, Gateway, up
from wireclient import Answer, exchange, post

from llmgw._core import statefile

# What a request that was made changes, and one that was not must not. Times and counters of scrapes are elsewhere.
LASTING = ("rows", "holds", "targets", "tiers", "recent", "estimates")
PRICE = {"input": "1.00", "output": "2.00"}
ADMIN_KEY = "sk-admin-of-the-tests-77"


def config_of(ports: dict[str, int]) -> Config:
    """Providers a and b, models of both; limits that the tests reach by themselves."""
    ordered = {"strategy": "ordered", "price": PRICE, "retry": {"max_attempts": 2, "base_delay": "10ms"}}
    both = [{"provider": "a"}, {"provider": "b", "model": "other-name"}]
    once = {"retry": {"max_attempts": 1, "base_delay": "10ms"}, "price": PRICE}
    return {
        "providers": {
            **{name: up(port, f"{UPSTREAM_KEY}-{name}") for name, port in ports.items()},
            "broken": up(1, breaker={"failures": 1, "open": "30s"}),
            "also-broken": up(1, breaker={"failures": 1, "open": "30s"}),
            "small": up(ports["a"], limits={"rpm": 1}),
        },
        "models": {
            "pair": ordered | {"targets": both},
            "turns": {"targets": [both[0] | {"weight": 3}, both[1]], "price": PRICE},
            "behind": ordered | {"targets": [{"provider": "broken"}, {"provider": "b", "priority": 2}]},
            "gone": once | {"targets": [{"provider": "also-broken"}]},
            "gone-but": once
            | {"targets": [{"provider": "also-broken", "model": "gone"}], "fallbacks": ["pair"]},
            "small": once | {"targets": [{"provider": "small"}]},
            "unpriced-too": {
                "targets": [
                    {"provider": "a", "model": "nobody-knows-the-price"},
                    {"provider": "b", "model": "gpt-4o"},
                ]
            },
            "bird": {
                "targets": [both[0]],
                "canary": {"target": {"provider": "b"}, "share": 0.5},
                "price": PRICE,
            },
            "mock": once | {"targets": [{"provider": "a"}]},
        },
        "tenants": {
            "acme": {
                "limits": {"tpm": 100_000},
                "users": {"limits": {"rpm": 50}},
                "keys": [
                    {"name": "web", "key": CLIENT_KEY},
                    {"name": "patient", "key": "sk-patient-one", "max_wait": "2m"},
                ],
            },
            "narrow": {
                "models": ["mock", "unpriced-too"],
                "budgets": [{"amount": "1.00", "period": "1d"}],
                "limits": {"rpm": 2},
                "keys": [{"name": "one", "key": OTHER_KEY}],
            },
        },
        "routes": {"/v1/*": "a"},
    }


def ask_admin(
    gateway: Gateway, path: str = "", question: Any = None, key: str | None = None
) -> tuple[int, Any]:
    """(status, JSON) of `/admin/explain`; a question is sent as JSON, bytes as they are."""
    body = question if question is None or isinstance(question, bytes) else json.dumps(question).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{gateway.admin_url}/admin/explain{path}", data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=DEADLINE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
            is_json = error.headers.get_content_type() == "application/json"
            return error.code, json.loads(text) if is_json else text.decode()


async def explained(gateway: Gateway, answer: Answer) -> Any:
    """What is remembered of the request that got this answer: its caller may have that before it is remembered."""
    path = f"/{answer.header('x-request-id')}"
    until_s = time.monotonic() + DEADLINE_S
    while True:
        status, told = await asyncio.to_thread(ask_admin, gateway, path)
        if status == 200 or time.monotonic() > until_s:
            assert status == 200, told
            return told


async def supposed(gateway: Gateway, **question: Any) -> Any:
    question = {"tenant": "acme", "key": "web"} | question
    status, told = await asyncio.to_thread(ask_admin, gateway, "", question)
    assert status == 200, told
    return told


async def send(gateway: Gateway, body: bytes, *headers: str, key: str = CLIENT_KEY) -> Answer:
    return await exchange(gateway.port, post(body, "/v1/chat/completions", *headers, key=key))


def lasting(gateway: Gateway) -> dict[str, bytes]:
    """Region by region, as it stands in the segment's file."""
    (path,) = (file for file in (gateway.directory / "state").rglob("segment-*") if file.suffix != ".lock")
    with open(path, "rb") as file:
        found = {}
        for region in statefile._read_table(file.fileno()):
            if region.name in LASTING:
                file.seek(region.offset)
                found[region.name] = file.read(region.units * region.unit_bytes)
    assert set(found) == set(LASTING)
    return found
