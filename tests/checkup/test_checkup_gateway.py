"""Gateways that ask a provider how it is."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import Any

from farend import FarEnd
from freeport import free_port
from gatewayrig import UPSTREAM_KEY, Config, Gateway, default_config, up, wait_for
from wireclient import chat, exchange, post

EVERY = {"every": "1s", "timeout": "300ms"}
# Opened by the second failure in a row, and due again at once.
BREAKER = {"failures": 2, "open": "100ms", "max_open": "200ms", "successes": 1}
ILL = {"path": "/v1/models", "status": 503, "times": 1000}


def checked(far: FarEnd, *keys: str, **check: Any) -> Config:
    provider = up(far.port, *keys, health_check={**EVERY, **check}, breaker=BREAKER)
    return default_config(far.port, providers={"up": provider})


def checks(gateway: Gateway, outcome: str) -> float:
    return gateway.metrics().total("llm_health_checks_total", provider="up", outcome=outcome)


def states(gateway: Gateway) -> set[str]:
    """Of all targets."""
    return {entry["state"] for entry in json.loads(gateway.fetch(f"{gateway.admin_url}/admin/targets")[1])}


async def test_a_check_is_a_get_with_the_providers_key_and_no_request_of_a_client(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(checked(far))
    await wait_for("two checks", lambda: checks(gateway, "ok") >= 2)
    arrival = far.seen[0]
    assert (arrival.method, arrival.path) == ("GET", "/v1/models")
    assert arrival.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    metrics = gateway.metrics()
    assert metrics.total("llm_requests_total") == metrics.total("llm_upstream_attempts_total") == 0
    assert gateway.all_log_lines() == []
    assert states(gateway) == {"closed"}


async def test_a_provider_that_fails_its_checks_is_left_alone_and_comes_back_without_a_request(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    far.script(ILL)
    gateway = start_gateway(checked(far))
    await wait_for("all its targets are open", lambda: states(gateway) == {"open"})
    assert checks(gateway, "server_error") >= 2
    far.reset()
    await wait_for("all its targets are closed", lambda: states(gateway) == {"closed"})
    assert gateway.metrics().total("llm_requests_total") == 0
    assert (await exchange(gateway.port, post(chat()))).status == 200


async def test_whatever_it_answers_below_500_is_a_sign_of_life(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    statuses = (401, 403, 404, 429)
    far.script(*({"path": f"/v1/{status}", "status": status, "times": 1000} for status in statuses))
    names = {f"up{status}": status for status in statuses}
    providers = {
        name: up(far.port, health_check={**EVERY, "path": f"/{status}"}, breaker=BREAKER)
        for name, status in names.items()
    }
    targets = [{"provider": name} for name in names]
    gateway = start_gateway(
        default_config(far.port, providers=providers, models={"mock": {"targets": targets}})
    )

    def is_checked() -> bool:
        found = gateway.metrics().by("llm_health_checks_total", "outcome")
        return set(found) == {"ok"} and found["ok"] >= 2 * len(names)

    await wait_for("two checks of each", is_checked)
    assert states(gateway) == {"closed"}


async def test_silence_and_a_closed_port_are_failures_and_no_check_begins_beside_another(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    far.script(ILL | {"status": 200, "stall": "before-head"})
    config = checked(far)
    config["providers"]["nobody"] = up(free_port(), health_check=EVERY, breaker=BREAKER)
    config["models"]["mock"]["targets"].append({"provider": "nobody"})
    gateway = start_gateway(config)

    def is_told() -> bool:
        metrics = gateway.metrics()
        found = metrics.by("llm_health_checks_total", "outcome")
        return found.get("timeout", 0) >= 2 and found.get("connect", 0) >= 2

    await wait_for("two failures of each", is_told)
    assert far.requests <= checks(gateway, "timeout") + 1
    assert states(gateway) == {"open"}


async def test_one_worker_of_a_machine_asks_and_its_successor_goes_on(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(checked(far), workers=2)
    await wait_for("a check", lambda: far.requests)
    before, began_s = far.requests, monotonic()
    await wait_for("three further checks", lambda: far.requests >= before + 3)
    assert monotonic() - began_s > 2.4  # of two workers they would come in 1.7 s
    for pid in gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
    before = far.requests
    await wait_for("a check by the successor", lambda: far.requests > before)


async def test_a_reload_ends_the_checks_and_begins_others(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(checked(far))
    await wait_for("a check", lambda: far.requests)
    gateway.configure(checked(far, path="/files"))
    gateway.process.send_signal(signal.SIGHUP)
    await wait_for(
        "the reload is in force",
        lambda: gateway.metrics().total("llm_config_reloads_total", result="applied") == 1,
    )
    far.reset()
    await wait_for("two checks of the new path", lambda: far.requests >= 2)
    assert {arrival.path for arrival in far.seen} == {"/v1/files"}


async def test_several_keys_take_turns(start_gateway: Callable[..., Gateway], far: FarEnd) -> None:
    start_gateway(checked(far, "sk-one", "sk-two"))
    await wait_for("three checks", lambda: far.requests >= 3)
    sent = [arrival.values("authorization") for arrival in far.seen][:3]
    assert sent[0] == sent[2] != sent[1]
