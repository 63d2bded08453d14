"""Each kind of address makes the client that it names."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from llmgw.config import parse_redis_url
from llmgw.errors import ConfigError
from llmgw.store.client import Client, make_client


def client_of(url: str) -> Client:
    return make_client(parse_redis_url(url), 0.05)


async def test_clients_are_of_their_kind_and_never_retry():
    single = client_of("rediss://:pw@h:1/2")
    assert isinstance(single, Redis) and single.connection_pool.connection_class is SSLConnection
    options = single.connection_pool.connection_kwargs
    assert options["retry"]._retries == 0 and options["socket_timeout"] == 0.05
    assert (options["host"], options["port"], options["db"], options["password"]) == ("h", 1, 2, "pw")
    unix = client_of("unix:///tmp/redis.sock?db=1")
    assert unix.connection_pool.connection_kwargs["path"] == "/tmp/redis.sock"
    sentinel = client_of("redis+sentinel://h/main")
    pool = sentinel.connection_pool
    assert isinstance(pool, SentinelConnectionPool) and pool.service_name == "main"
    cluster = client_of("redis+cluster://h:1")
    assert isinstance(cluster, RedisCluster)
    for client in (single, unix, sentinel, cluster):
        await client.aclose()


async def test_sentinels_have_a_password_of_their_own():
    client = client_of("redis+sentinel://me:data@h:7/main?sentinel_password=watch")
    pool = client.connection_pool
    (watcher,) = pool.sentinel_manager.sentinels
    assert watcher.connection_pool.connection_kwargs["password"] == "watch"
    assert pool.connection_kwargs["password"] == "data" and pool.connection_kwargs["username"] == "me"
    await client.aclose()


async def test_tls_trusts_whom_the_url_says(tmp_path):
    authorities = tmp_path / "ca.pem"
    authorities.write_text("")
    for url, wanted in {
        f"rediss://h?ssl_ca_certs={authorities}": ("required", str(authorities)),
        "rediss://h?ssl_cert_reqs=none": ("none", None),
    }.items():
        client = client_of(url)
        options = client.connection_pool.connection_kwargs
        found = (options.get("ssl_cert_reqs", "required"), options.get("ssl_ca_certs"))
        assert found == wanted
        assert options.get("ssl_check_hostname", True) is (wanted[0] == "required")
        await client.aclose()


def test_a_missing_file_of_authorities_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigError, match="ssl_ca_certs is no file") as caught:
        client_of("rediss://:secret@h?ssl_ca_certs=/nowhere")
    assert "secret" not in str(caught.value)
