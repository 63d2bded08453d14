"""SIGHUP under load: everything of a good configuration, nothing of a bad one, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from clients import Load, Session, is_good
from farend import FarEnd
from gatewayrig import CLIENT_KEY, OTHER_KEY, Gateway, default_config, wait_for
from wireclient import chat, get, post, post_chunked

pytestmark = pytest.mark.usefixtures("close_sessions")

NEW_KEY = "sk-gateway-new-key-13579bdf"


def config(far: FarEnd, model: str, *keys: str) -> dict[str, Any]:
    """`mock` is served as `model`; the tenant has these keys."""
    named = [{"name": f"key{number}", "key": key} for number, key in enumerate(keys)]
    return default_config(
        far.port,
        models={"mock": {"targets": [{"provider": "up", "model": model}]}},
        tenants={"acme": {"keys": named}},
    )


def said(gateway: Gateway, text: str) -> int:
    return sum(text in line for line in gateway.own_lines)


async def reload(gateway: Gateway, word: str) -> None:
    count = said(gateway, word)
    gateway.process.send_signal(signal.SIGHUP)
    await wait_for(f"it says {word!r}", lambda: said(gateway, word) > count)


async def status_of(gateway: Gateway, key: str, make: Callable[..., bytes] = post) -> int:
    session = await Session(gateway.port).open()
    reply = await session.ask(make(chat(), key=key))
    if session.is_open:
        session.close()
    return reply.status


async def test_reloads_under_load_change_models_and_keys_and_lose_nothing(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(config(far, "first", CLIENT_KEY, OTHER_KEY))
    streaming = await Session(gateway.port).open()
    stream = asyncio.ensure_future(
        streaming.ask(post(chat("long", stream=True, mock={"events": 40, "interval_s": "50ms"})))
    )
    load, over = Load(gateway.port, rate=150.0), asyncio.Event()
    loading = asyncio.ensure_future(load.run(over))
    for number in range(6):
        due = load.ends["good"] + 20
        await wait_for("more is answered", lambda due=due: load.ends["good"] >= due)
        gateway.configure(config(far, "second" if number % 2 == 0 else "first", CLIENT_KEY, NEW_KEY))
        await reload(gateway, "configuration reloaded")
    assert is_good(await stream, stream=True)
    over.set()
    await loading
    print(f"reload: {dict(load.ends)}, lost {len(load.lost)}")
    assert load.lost == []
    assert set(load.ends) == {"good"}
    models = [json.loads(arrival.body or b"{}")["model"] for arrival in far.seen]
    assert set(models) == {"first", "second"}
    for make in (post, post_chunked):
        assert await status_of(gateway, NEW_KEY, make) == 200
        assert await status_of(gateway, OTHER_KEY, make) == 401


async def test_a_connection_that_is_open_gets_the_new_configuration_with_its_next_request(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(config(far, "first", CLIENT_KEY))
    sessions = [await Session(gateway.port).open() for _ in range(8)]
    for number, session in enumerate(sessions):
        assert is_good(await session.ask((post, post_chunked)[number % 2](chat())))
    gateway.configure(config(far, "second", NEW_KEY))
    await reload(gateway, "configuration reloaded")
    far.reset()
    for number, session in enumerate(sessions):
        make = (post, post_chunked)[number % 2]
        assert (await session.ask(make(chat(), key=CLIENT_KEY))).status == 401
        assert is_good(await session.ask(make(chat(), key=NEW_KEY)))
    assert {json.loads(arrival.body or b"{}")["model"] for arrival in far.seen} == {"second"}


async def test_a_bad_configuration_changes_nothing_and_each_mistake_is_told_with_its_place(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(config(far, "first", CLIENT_KEY))
    bad = config(far, "second", NEW_KEY)
    bad["models"]["mock"]["strategi"] = "weighted"
    bad["providers"]["up"]["timeouts"] = {"connect": "5 parsecs"}
    gateway.configure(bad)
    await reload(gateway, "refused")
    told = [json.loads(line)["message"] for line in gateway.own_lines if '"error"' in line]
    lines = (gateway.directory / "gateway.yaml").read_text().splitlines()
    for what in ("strategi", "parsecs"):
        (message,) = [message for message in told if what in message]
        line = next(number for number, text in enumerate(lines, 1) if what in text)
        assert f"gateway.yaml:{line}" in message, message
    assert await status_of(gateway, CLIENT_KEY) == 200
    assert await status_of(gateway, NEW_KEY) == 401
    assert json.loads(far.seen[-1].body or b"{}")["model"] == "first"
    gateway.configure(config(far, "second", NEW_KEY))
    await reload(gateway, "configuration reloaded")
    assert await status_of(gateway, NEW_KEY) == 200


async def test_what_only_a_restart_can_change_is_refused(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    gateway = start_gateway(config(far, "first", CLIENT_KEY))
    gateway.configure(config(far, "second", CLIENT_KEY) | {"server": {"workers": 3}})
    await reload(gateway, "refused")
    assert said(gateway, "server.workers")
    assert len(gateway.worker_pids()) == 2
    assert await status_of(gateway, CLIENT_KEY) == 200
    assert json.loads(far.seen[-1].body or b"{}")["model"] == "first"


async def test_a_worker_that_starts_after_a_reload_starts_with_the_new_configuration(
    start_gateway: Callable[..., Gateway], far: FarEnd
) -> None:
    import os

    gateway = start_gateway(config(far, "first", CLIENT_KEY))
    gateway.configure(config(far, "second", NEW_KEY))
    await reload(gateway, "configuration reloaded")
    before = gateway.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await wait_for("others serve", lambda: len(set(gateway.worker_pids()) - set(before)) == 2)
    for _ in range(10):
        assert await status_of(gateway, NEW_KEY) == 200
        assert await status_of(gateway, CLIENT_KEY) == 401
    session = await Session(gateway.port).open()
    assert (await session.ask(get("/v1/models", key=NEW_KEY))).status == 200
    session.close()
