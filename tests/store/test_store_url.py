"""Every form of a Redis URL makes the client that it names, and no message shows a password."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from llmgw.store.url import CLUSTER, SENTINEL, SINGLE, make_client, parse


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "db"),
    [
        ("redis://h", SINGLE, (("h", 6379),), 0),
        ("valkey://h:7000/3", SINGLE, (("h", 7000),), 3),
        ("redis://[::1]:7000?db=2", SINGLE, (("::1", 7000),), 2),
        ("redis+sentinel://a:1,b/main/4", SENTINEL, (("a", 1), ("b", 26379)), 4),
        ("valkeys+cluster://a:1,b:2", CLUSTER, (("a", 1), ("b", 2)), 0),
    ],
)
def test_a_url_is_read(url, kind, hosts, db):
    place = parse(url)
    assert (place.kind, place.hosts, place.db) == (kind, hosts, db)


def test_a_login_may_hold_any_character():
    place = parse("rediss://a%40b:p%3Aw@h")
    assert (place.username, place.password, place.is_tls) == ("a@b", "p:w", True)
    socket = parse("unix://u:pw@/run/redis.sock")
    assert (socket.username, socket.password, socket.path) == ("u", "pw", "/run/redis.sock")


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@h",
        "redis://:secret@",
        "redis://:secret@a,b",
        "redis://:secret@h:port",
        "redis://:secret@h/x",
        "redis://:secret@h?nope=1",
        "redis+sentinel://:secret@h",
        "redis+cluster://:secret@h/1",
        "rediss://:secret@h?ssl_ca_certs=/nowhere",
        "unix://",
    ],
)
def test_what_cannot_be_meant_is_refused_without_its_password(url):
    with pytest.raises(ValueError) as caught:
        make_client(parse(url), 0.05)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value)


def test_no_password_is_in_a_places_text():
    assert "secret" not in repr(parse("redis://u:secret@h?sentinel_password=secret"))


async def test_clients_are_of_their_kind_and_never_retry():
    single = make_client(parse("rediss://:pw@h:1/2"), 0.05)
    assert isinstance(single, Redis) and single.connection_pool.connection_class is SSLConnection
    options = single.connection_pool.connection_kwargs
    assert options["retry"]._retries == 0 and options["socket_timeout"] == 0.05 and options["db"] == 2
    unix = make_client(parse("unix:///tmp/redis.sock?db=1"), 0.05)
    assert unix.connection_pool.connection_kwargs["path"] == "/tmp/redis.sock"
    sentinel = make_client(parse("redis+sentinel://h/main"), 0.05)
    pool = sentinel.connection_pool
    assert isinstance(pool, SentinelConnectionPool) and pool.service_name == "main"
    cluster = make_client(parse("redis+cluster://h:1"), 0.05)
    assert isinstance(cluster, RedisCluster)
    for client in (single, unix, sentinel, cluster):
        await client.aclose()
