"""The redis-py client of each kind of address."""

from __future__ import annotations

import os
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from llmgw.config import RedisAddress
from llmgw.errors import ConfigError

CONNECTIONS_MAX = 8  # of one worker: two lines of calls, the probe, and those that are being closed
CONNECT_MIN_S = 1.0  # with TLS; who waits has a deadline of its own

Client = Redis | RedisCluster


def make_client(address: RedisAddress, deadline_s: float) -> Client:
    """A client that never sends anything twice by itself, and waits for nothing longer than the deadline.

    Raises ConfigError where the file of authorities is missing.
    """
    common: dict[str, Any] = {
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": deadline_s,
        "socket_connect_timeout": max(deadline_s, CONNECT_MIN_S),
        "max_connections": CONNECTIONS_MAX,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # each connection would tell it in two commands
        **tls_options(address),
    }
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, ssl=address.is_tls, **common)
    common |= {"db": address.db, "retry_on_error": []}
    if address.kind == "sentinel":
        return sentinel_client(address, common)
    if address.kind == "unix":
        return Redis(unix_socket_path=address.path, **common)
    host, port = address.hosts[0]
    return Redis(host=host, port=port, ssl=address.is_tls, **common)


def sentinel_client(address: RedisAddress, common: dict[str, Any]) -> Redis:
    timeouts = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout")}
    own = {**timeouts, "password": address.sentinel_password or None}
    watchers: Any = Sentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    client: Redis = watchers.master_for(address.service, ssl=address.is_tls, **common)
    return client


def tls_options(address: RedisAddress) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    if address.ssl_cert_reqs:
        options["ssl_cert_reqs"] = address.ssl_cert_reqs
        options["ssl_check_hostname"] = address.ssl_cert_reqs != "none"
    if address.ssl_ca_certs:
        if not os.path.isfile(address.ssl_ca_certs):
            raise ConfigError(["redis.url: ssl_ca_certs is no file"])
        options["ssl_ca_certs"] = address.ssl_ca_certs
    return options


async def close_client(client: Client) -> None:
    """With the connections to the sentinels that led to it."""
    await client.aclose()
    watchers = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for watcher in watchers.sentinels if watchers else ():
        await watcher.aclose()
