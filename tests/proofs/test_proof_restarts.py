"""What was used outlives processes, files and configurations."""

import asyncio
import os
import signal
import time
from decimal import Decimal

import pytest
from freeport import free_port
from gatewayrig import CLIENT_KEY, OTHER_KEY, Gateway, wait_for
from proofkit import (
    CENT_USD_MICRO,
    chat,
    mock_tokens,
    one_tenant,
    records,
    tokens_chat,
    usage,
    with_callers,
)

from llmgw.ledger.names import stamp_of

TEN_CENTS = {"budgets": [{"amount": "0.10", "period": "1h"}]}
LIMITED = {
    "money": TEN_CENTS,
    "day": {"budgets": [{"amount": "0.10", "period": "month"}]},
    "requests": {"limits": {"rpm": 10}},
    "tokens": {"limits": {"tpm": 100}},
}


def key_of(name: str) -> str:
    return f"sk-gateway-{name}-4711deadbeef"


async def statuses_of(gateway: Gateway, count: int, body: bytes = chat(), key: str = CLIENT_KEY) -> list[int]:
    """Of so many calls, one after the other."""

    async def ask(caller):
        return [(await caller.ask(body)).status for _ in range(count)]

    return (await with_callers([gateway], 1, ask, key))[0]


@pytest.fixture
def port() -> int:
    """Of a gateway that is started twice: its segment is named after it."""
    return free_port()


def start_again(gateway: Gateway) -> None:
    gateway._is_ready.clear()
    gateway.own_lines.clear()
    gateway.start()


@pytest.mark.parametrize("is_segment_lost", [False, True], ids=["kept", "rebuilt"])
async def test_limits_hold_over_a_kill_of_everything(far, start_gateway, port, is_segment_lost):
    config = one_tenant(far, {}, server={"port": port})
    for name, limits in LIMITED.items():
        config["tenants"][name] = {"keys": [{"name": "web", "key": key_of(name)}], **limits}
    gateway = start_gateway(config)
    ten_tokens = tokens_chat(6)
    before = {name: await statuses_of(gateway, 6, ten_tokens, key_of(name)) for name in LIMITED}
    gateway.kill()
    if is_segment_lost:
        (gateway.directory / "state" / "llmgw" / f"segment-127.0.0.1-{port}").unlink()
    start_again(gateway)
    assert any("restored them" in line for line in gateway.own_lines) == is_segment_lost
    for name, statuses in before.items():
        statuses += await statuses_of(gateway, 10, ten_tokens, key_of(name))
        # A reservation of tokens is larger than what they come to: the last ones do not fit.
        assert statuses.count(200) <= 10 if name == "tokens" else statuses.count(200) == 10, name
        assert statuses[-6:] == [429] * 6, name
    found = [record["tenant_id"] for record in records(gateway)]
    assert {name: found.count(name) for name in before} == {
        name: statuses.count(200) for name, statuses in before.items()
    }
    assert len(found) == far.requests


async def test_limits_hold_when_the_supervisor_alone_is_killed(far, start_gateway, port):
    gateway = start_gateway(one_tenant(far, TEN_CENTS, server={"port": port}), workers=2)
    assert await statuses_of(gateway, 6) == [200] * 6
    workers = gateway.worker_pids()
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait()
    await wait_for("the workers end with their supervisor", lambda: not any(is_alive(pid) for pid in workers))
    gateway.kill()
    start_again(gateway)
    assert await statuses_of(gateway, 6) == [200] * 4 + [429] * 2
    assert sum(record["cost_usd_micro"] for record in records(gateway)) == 10 * CENT_USD_MICRO


async def test_what_was_under_way_when_everything_was_killed_is_settled_at_the_next_start(
    far, start_gateway, port
):
    tenant = {"limits": {"concurrent": 3}, **TEN_CENTS}
    config = one_tenant(far, tenant, server={"port": port})
    config["models"]["mock"]["targets"] = [{"provider": "up", "model": "the-providers-own"}]
    gateway = start_gateway(config, workers=2)
    body = chat(stream=True, mock={"events": 20, "interval_s": "100ms"})

    async def ask(caller):
        return await caller.try_ask(body)

    running = asyncio.ensure_future(with_callers([gateway], 3, ask))
    await far.wait(lambda mock: mock.seen.requests == 3)
    gateway.kill()
    killed = stamp_of(time.time())
    assert all(answer is None or not answer.is_whole for answer in await running)
    start_again(gateway)
    assert [record["cost_usd_micro"] for record in records(gateway)] == [CENT_USD_MICRO] * 3
    for record in records(gateway):
        assert record["recovered"] and record["ts"] < killed
        assert (record["model_requested"], record["model_used"]) == ("mock", "the-providers-own")
    short = chat(stream=True, mock={"events": 2, "interval_s": "200ms"})
    answers = await with_callers([gateway], 3, lambda caller: caller.ask(short))
    assert [answer.status for answer in answers] == [200] * 3
    assert (await statuses_of(gateway, 6)).count(200) == 4


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_reload_with_another_limit_keeps_what_was_used(far, start_gateway):
    gateway = start_gateway(one_tenant(far, {"limits": {"rpm": 4}}), workers=2)
    assert (await statuses_of(gateway, 6)).count(200) == 4
    for number, (limit, admitted) in enumerate([(7, 3), (5, 0), (9, 2)], 1):
        gateway.configure(one_tenant(far, {"limits": {"rpm": limit}}))
        gateway.process.send_signal(signal.SIGHUP)
        await wait_for("the reload", lambda: sum("reloaded" in line for line in gateway.own_lines) == number)
        assert await statuses_of(gateway, 6) == [200] * admitted + [429] * (6 - admitted)
    assert far.requests == 9


async def test_usage_by_tenant_is_what_the_far_end_saw(far, start_gateway):
    config = one_tenant(far, {})
    config["models"]["mock"]["price"] = {"input": "2.50", "output": "10.00"}
    config["tenants"]["other"] = {"keys": [{"name": "one", "key": OTHER_KEY}]}
    gateway = start_gateway(config, workers=2)
    keys = {"acme": CLIENT_KEY, "other": OTHER_KEY}

    async def ask(caller):
        for number in range(20):
            body = tokens_chat(5 + number % 3, stream=number % 2 == 0, user=caller.key)
            assert (await caller.ask(body)).status == 200

    for key in keys.values():
        await with_callers([gateway], 4, ask, key)
    rows = {row["tenant"]: row for row in usage(gateway, "--by", "tenant")}
    for tenant, key in keys.items():
        seen = [arrival for arrival in far.seen if key.encode() in arrival.body]
        inputs, outputs = 4 * len(seen), sum(mock_tokens(arrival) - 4 for arrival in seen)
        assert rows[tenant]["requests"] == len(seen) == 80
        assert (rows[tenant]["input_tokens"], rows[tenant]["output_tokens"]) == (inputs, outputs)
        assert Decimal(rows[tenant]["cost_usd"]) * 10**6 == inputs * Decimal("2.50") + outputs * 10
