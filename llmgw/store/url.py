"""Redis URLs, and the client that each makes.

    redis://[user:password@]host[:port][/db]        rediss:// with TLS; valkey:// and valkeys:// mean the same
    unix://[user:password@]/path/to/socket[?db=1]
    redis+sentinel://[user:password@]host:port,host:port/service[/db][?sentinel_password=...]
    redis+cluster://[user:password@]host:port,host:port

With TLS, `?ssl_ca_certs=FILE` names the authorities, and `?ssl_cert_reqs=none` trusts anybody. No message
here holds the URL, which may hold a password.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SINGLE, SENTINEL, CLUSTER = "single", "sentinel", "cluster"
PORTS = {SINGLE: 6379, SENTINEL: 26379, CLUSTER: 6379}
TLS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
OPTIONS = {"db", "ssl_ca_certs", "ssl_cert_reqs", "sentinel_password"}
CONNECTIONS_MAX = 8  # of one worker: two lines of calls, the probe, and those that are being closed

Client = Redis | RedisCluster


@dataclass(frozen=True)
class Place:
    kind: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # of a Unix socket, instead of hosts
    service: str = ""  # SENTINEL only
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    options: dict[str, str] = field(default_factory=dict, repr=False)


def parse(url: str) -> Place:
    """ValueError says what is wrong, in words that may be shown."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} in the Redis URL")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    common: dict[str, Any] = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "options": options,
    }
    if parts.scheme == "unix":
        return Place(SINGLE, path=path_of(parts.path), db=number_of(options.get("db", "0")), **common)
    if scheme not in TLS or kind not in {"", SENTINEL, CLUSTER}:
        raise ValueError(f"unknown scheme {parts.scheme!r} of the Redis URL")
    kind = kind or SINGLE
    service, db = service_and_db(kind, parts.path.strip("/"))
    return Place(
        kind,
        hosts=hosts_of(places, kind),
        service=service,
        db=number_of(options.get("db", db or "0")),
        is_tls=TLS[scheme],
        **common,
    )


def path_of(path: str) -> str:
    if not path:
        raise ValueError("the Redis URL names no socket")
    return unquote(path)


def service_and_db(kind: str, path: str) -> tuple[str, str]:
    if kind == SENTINEL:
        service, _, db = path.partition("/")
        if not service:
            raise ValueError("a Sentinel URL names its service: redis+sentinel://host:port/service")
        return unquote(service), db
    if kind == CLUSTER and path not in {"", "0"}:
        raise ValueError("a cluster has database 0 only")
    return "", path


def hosts_of(places: str, kind: str) -> tuple[tuple[str, int], ...]:
    hosts = tuple(host_of(place, PORTS[kind]) for place in places.split(",")) if places else ()
    if not hosts:
        raise ValueError("the Redis URL names no host")
    if kind == SINGLE and len(hosts) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return hosts


def host_of(place: str, port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]`, `[v6]:port`."""
    parts = urlsplit(f"//{place}")
    try:
        found = parts.port
    except ValueError:
        raise ValueError("a port of the Redis URL is no port") from None
    if not parts.hostname:
        raise ValueError("the Redis URL names no host")
    return parts.hostname, port if found is None else found


def number_of(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("the database of the Redis URL is no number")
    return int(text)


def make_client(place: Place, deadline_s: float) -> Client:
    """A client that never sends anything twice by itself, and waits for nothing longer than the deadline."""
    common: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "socket_timeout": deadline_s,
        "socket_connect_timeout": max(deadline_s, 1.0),  # the probe's, which nobody waits for
        "max_connections": CONNECTIONS_MAX,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # each connection would tell it in two commands
        **tls_options(place),
    }
    if place.kind == CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in place.hosts]
        return RedisCluster(startup_nodes=nodes, ssl=place.is_tls, **common)
    common |= {"db": place.db, "retry_on_error": []}
    if place.kind == SENTINEL:
        return sentinel_client(place, common)
    if place.path:
        return Redis(unix_socket_path=place.path, **common)
    host, port = place.hosts[0]
    return Redis(host=host, port=port, ssl=place.is_tls, **common)


def sentinel_client(place: Place, common: dict[str, Any]) -> Redis:
    timeouts = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout")}
    own = {**timeouts, "password": place.options.get("sentinel_password")}
    watchers: Any = Sentinel(list(place.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    client: Redis = watchers.master_for(place.service, ssl=place.is_tls, **common)
    return client


def tls_options(place: Place) -> dict[str, str | bool]:
    if not place.is_tls:
        return {}
    options: dict[str, str | bool] = {
        name: place.options[name] for name in ("ssl_ca_certs", "ssl_cert_reqs") if name in place.options
    }
    if options.get("ssl_cert_reqs") == "none":
        options["ssl_check_hostname"] = False
    ca_file = options.get("ssl_ca_certs")
    if ca_file is not None and not os.path.isfile(str(ca_file)):
        raise ValueError("ssl_ca_certs of the Redis URL is no file")
    return options


async def close_client(client: Client) -> None:
    """With the connections to the sentinels that led to it."""
    await client.aclose()
    watchers = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for watcher in watchers.sentinels if watchers else ():
        await watcher.aclose()
