"""The adapter answers in time or says that Redis is away, whatever Redis is and whatever it does."""

from __future__ import annotations

import asyncio
import time

import pytest
from fleetrig import Hold, Machine, gauge, until
from redis import exceptions
from redisrig import Lossy, Server, binary

from llmgw.config import parse_redis_url
from llmgw.limits.fleet import Ask, Beat, Lease, Row
from llmgw.store.adapter import Counters, Store, StoreAway, kind_of
from llmgw.store.client import make_client

ROW = Row("a" * 32, 0, 60_000_000, 1000)


def store_at(url: str, deadline_s: float = 1.0) -> Store:
    return Store(make_client(parse_redis_url(url), deadline_s), "t", deadline_s, Counters())


def lease(number: int, amount: int = 1, tag: str = "x") -> Lease:
    return Lease(tag, "m", number, (Ask(ROW, amount, amount, 1, 1),))


async def test_many_calls_are_one_round_trip_in_their_order(redis):
    store = store_at(redis.url)
    replies = await store.exchange([lease(1, 2, "x"), Beat("m"), lease(1, 3, "y"), lease(2, 4, "x")])
    assert [reply.number for reply in replies] == [1, 0, 1, 2]
    assert [reply.answers[0].used for reply in replies if reply.answers] == [2, 3, 6]
    await store.close()


async def test_a_deadline_holds_for_connecting_too(own_redis):
    own_redis.freeze()
    store = store_at(own_redis.url, 0.05)
    began_s = time.monotonic()
    with pytest.raises(StoreAway) as caught:
        await store.exchange([lease(1)])
    assert time.monotonic() - began_s < 0.25 and caught.value.kind == "timeout"
    own_redis.thaw()
    await store.close()


async def test_once_away_it_answers_at_once_until_a_probe_succeeds(own_redis):
    store = store_at(own_redis.url, 0.2)
    own_redis.freeze()
    with pytest.raises(StoreAway):
        await store.exchange([lease(1)])
    began_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreAway):
            await store.exchange([lease(1)])
    assert time.monotonic() - began_s < 0.04
    own_redis.thaw()
    assert await store.probe("m") is not None
    assert (await store.exchange([lease(1)]))[0].answers[0].granted == 1
    assert store.counters.outages == 1 and store.away_us > 0
    told = {word: count for word, count in store.counters.results().items() if count}
    assert told == {"ok": 5, "timeout": 1}  # four beats of the probe, one lease
    await store.close()


async def test_a_call_whose_reply_is_lost_goes_out_again_and_counts_once(redis):
    losses = iter([True, True, False])
    async with Lossy(redis.port, lambda: next(losses, False)) as lossy:
        store = store_at(f"redis://127.0.0.1:{lossy.port}", 1.0)
        [warm] = await store.exchange([lease(1, 5)])
        assert warm.answers[0].used == 5 and not store.is_away
        assert store.counters.results()["ok"] == 1 and store.counters.results()["sent_again"] == 2
        await store.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.AuthenticationError(), "auth"),
        (exceptions.NoPermissionError(), "auth"),
        (exceptions.BusyLoadingError(), "loading"),
        (exceptions.ReadOnlyError(), "read_only"),
        (exceptions.OutOfMemoryError(), "out_of_memory"),
        (exceptions.MovedError("1 h:1"), "moved"),
        (exceptions.ClusterDownError("down"), "cluster"),
        (exceptions.MaxConnectionsError(), "connection"),
        (exceptions.TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (exceptions.ResponseError("BUSY"), "refused"),
        (exceptions.RedisError(), "other"),
    ],
)
def test_every_failure_has_its_word(error, kind):
    assert kind_of(error) == kind and kind in Counters().errors


async def test_a_wrong_password_is_away(own_redis):
    own_redis.command("CONFIG", "SET", "requirepass", "right")
    store = store_at(own_redis.url.replace("//", "//:wrong@"))
    with pytest.raises(StoreAway) as caught:
        await store.exchange([lease(1)])
    assert caught.value.kind == "auth"
    await store.close()


async def test_a_cluster_shares_limits_too(tmp_path):
    server = Server(tmp_path, "--cluster-enabled", "yes").start()
    try:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(10):
            while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)
        url = f"redis+cluster://127.0.0.1:{server.port}"
        limit = gauge(limit=50)
        async with Machine(url, 0.5) as one, Machine(url, 0.5) as two:
            admitted = 0
            async with asyncio.timeout(8):
                while admitted < 50:
                    admitted += len(await one.flood(10, limit)) + len(await two.flood(10, limit))
                    await asyncio.sleep(0.05)
            admitted += len(await one.flood(10, limit)) + len(await two.flood(10, limit))
            assert admitted == 50 and one.counters.outages == 0
            server.command("SCRIPT", "FLUSH")
            assert not isinstance(await one.ask(limit), Hold)
        store = store_at(url, 0.5)
        replies = await store.exchange([lease(1, 1, tag) for tag in "abcdef"])
        assert [reply.answers[0].granted for reply in replies] == [1] * 6
        await store.close()
    finally:
        server.kill()


async def test_a_sentinel_leads_to_the_master(own_redis, tmp_path):
    import subprocess

    home = tmp_path / "sentinel"
    home.mkdir()
    watcher = Server(home)
    file = home / "sentinel.conf"
    file.write_text(
        f"port {watcher.port}\nbind 127.0.0.1\ndir {home}\nsentinel monitor main 127.0.0.1 {own_redis.port} 1\n"
    )
    watcher.process = subprocess.Popen(
        [binary(), str(file), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await until(lambda: b"PONG" in watcher.command("PING"))
        async with Machine(f"redis+sentinel://127.0.0.1:{watcher.port}/main", 0.5) as machine:
            limit = gauge(limit=5)
            assert len(await machine.flood(9, limit)) == 5
            assert machine.counters.outages == 0
    finally:
        watcher.kill()
