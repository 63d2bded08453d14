"""Where Redis is: one server, a socket, a group behind sentinels, or a cluster, read from a URL.

    redis://[[user]:password@]host[:port][/db]
    unix://[[user]:password@]/path/to/socket[?db=N]
    redis+sentinel://[[user]:password@]host[:port],host[:port].../service[/db]
    redis+cluster://[[user]:password@]host[:port],host[:port]...

`rediss` is TLS; `valkey` and `valkeys` mean the same as `redis` and `rediss`. In a user or password
@ : / ? # are written %40 %3A %2F %3F %23.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote

Kind = Literal["single", "unix", "sentinel", "cluster"]

EXPECTED = (
    "redis://host[:port][/db], unix:///path[?db=N], redis+sentinel://host:port,.../service[/db]"
    " or redis+cluster://host:port,..."
)
URL = re.compile(
    r"(?:(?P<scheme>redis|valkey)(?P<tls>s?)(?:\+(?P<kind>sentinel|cluster))?|unix)://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[A-Za-z0-9._:,\[\]-]*)(?P<rest>(?:[/?][!-~]*)?)",
    re.ASCII,
)
HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([1-9]\d{0,4}))?", re.ASCII)
DB = r"(?P<db>0|[1-9]\d{0,3})"
# What may follow the hosts.
REST = {
    "single": re.compile(rf"/?|/{DB}", re.ASCII),
    "unix": re.compile(rf"(?P<path>/[^?#]+?)(?:\?db={DB})?", re.ASCII),
    "sentinel": re.compile(rf"/(?P<service>[A-Za-z0-9._-]{{1,64}})(?:/{DB})?", re.ASCII),
    "cluster": re.compile(r"/?", re.ASCII),
}
PORT_MAX = 65_535
DEFAULT_PORTS = {"single": 6379, "sentinel": 26_379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()  # none for a socket; of a sentinel URL, the sentinels
    path: str = ""  # of the socket
    service: str = ""  # the name that the sentinels know the group by
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    is_tls: bool = False


def parse_redis_url(url: str) -> RedisAddress:
    """Raises ValueError(expected), which shows nothing of the URL: it may hold a password."""
    match = URL.fullmatch(url)
    if match is None:
        raise ValueError(EXPECTED)
    kind = cast("Kind", match["kind"] or ("single" if match["scheme"] else "unix"))
    rest = REST[kind].fullmatch(match["rest"])
    if rest is None or (kind == "unix") != (match["hosts"] == ""):
        raise ValueError(EXPECTED)
    hosts = tuple(_host(text, kind) for text in match["hosts"].split(",") if kind != "unix")
    if kind == "single" and len(hosts) > 1:
        raise ValueError(f"one host, or redis+sentinel:// or redis+cluster:// for several; {EXPECTED}")
    parts = rest.groupdict()
    return RedisAddress(
        kind=kind,
        hosts=hosts,
        path=unquote(parts.get("path") or ""),
        service=parts.get("service") or "",
        db=int(parts.get("db") or 0),
        user=unquote(match["user"] or ""),
        password=unquote(match["password"] or ""),
        is_tls=bool(match["tls"]),
    )


def _host(text: str, kind: Kind) -> tuple[str, int]:
    match = HOST.fullmatch(text)
    if match is None:
        raise ValueError(EXPECTED)
    port = int(match[2] or DEFAULT_PORTS[kind])
    if port > PORT_MAX:
        raise ValueError(f"ports up to {PORT_MAX}; {EXPECTED}")
    return match[1].strip("[]"), port
