"""Where Redis is: one server, a socket, a group behind sentinels, or a cluster, read from a URL.

    redis://[[user]:password@]host[:port][/db]
    unix://[[user]:password@]/path/to/socket[?db=N]
    redis+sentinel://[[user]:password@]host[:port],host[:port].../service[/db][?sentinel_password=...]
    redis+cluster://[[user]:password@]host[:port],host[:port]...

`rediss` is TLS; `valkey` and `valkeys` mean the same as `redis` and `rediss`. With TLS, `?ssl_ca_certs=FILE`
names the authorities, and `?ssl_cert_reqs=none` trusts anybody. In a user or password @ : / ? # are
written %40 %3A %2F %3F %23, in an option & and # are %26 %23.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import quote, unquote

Kind = Literal["single", "unix", "sentinel", "cluster"]

EXPECTED = (
    "redis://host[:port][/db], unix:///path[?db=N], redis+sentinel://host:port,.../service[/db]"
    " or redis+cluster://host:port,..."
)
URL = re.compile(
    r"(?:(?P<scheme>redis|valkey)(?P<tls>s?)(?:\+(?P<kind>sentinel|cluster))?|unix)://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[A-Za-z0-9._:,\[\]-]*)(?P<rest>(?:/[!->@-~]*)?)(?:\?(?P<options>[!-~]+))?",
    re.ASCII,
)
HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([1-9]\d{0,4}))?", re.ASCII)
NUMBER = r"0|[1-9]\d{0,3}"
DB = rf"(?P<db>{NUMBER})"
# What may follow the hosts.
REST = {
    "single": re.compile(rf"/?|/{DB}", re.ASCII),
    "unix": re.compile(r"(?P<path>/[^#]+)", re.ASCII),
    "sentinel": re.compile(rf"/(?P<service>[A-Za-z0-9._-]{{1,64}})(?:/{DB})?", re.ASCII),
    "cluster": re.compile(r"/?", re.ASCII),
}
# What each option may say.
OPTIONS = {
    "db": re.compile(NUMBER, re.ASCII),
    "ssl_ca_certs": re.compile(r"[^#]+"),
    "ssl_cert_reqs": re.compile(r"none|optional|required"),
    "sentinel_password": re.compile(r"[^#]+"),
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
    ssl_ca_certs: str = ""  # a file; the system's authorities without one
    ssl_cert_reqs: str = ""  # as redis-py has it: none, optional, required (its default)
    sentinel_password: str = field(default="", repr=False)


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
    options = _options(match["options"], kind, is_tls=bool(match["tls"]))
    return RedisAddress(
        kind=kind,
        hosts=hosts,
        path=unquote(parts.get("path") or ""),
        service=parts.get("service") or "",
        db=int(options.pop("db", parts.get("db") or 0)),
        user=unquote(match["user"] or ""),
        password=unquote(match["password"] or ""),
        is_tls=bool(match["tls"]),
        **options,
    )


def move_ca_file(url: str, move: Callable[[str], str]) -> str:
    """The same URL, its `ssl_ca_certs` as `move` has it."""
    before, mark, options = url.partition("?")
    parts = [part.partition("=") for part in options.split("&")]
    moved = [
        f"{name}={quote(move(unquote(value)))}" if name == "ssl_ca_certs" else name + equals + value
        for name, equals, value in parts
    ]
    return before + mark + "&".join(moved)


def _options(text: str | None, kind: Kind, *, is_tls: bool) -> dict[str, str]:
    """By name. Each stands once, and only where it means something."""
    means = {
        "db": kind == "unix",
        "ssl_ca_certs": is_tls,
        "ssl_cert_reqs": is_tls,
        "sentinel_password": kind == "sentinel",
    }
    options: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, _, value = part.partition("=")
        if name in options or not means.get(name) or not OPTIONS[name].fullmatch(value):
            raise ValueError(f"options that this kind of address has, each once; {EXPECTED}")
        options[name] = unquote(value)
    return options


def _host(text: str, kind: Kind) -> tuple[str, int]:
    match = HOST.fullmatch(text)
    if match is None:
        raise ValueError(EXPECTED)
    port = int(match[2] or DEFAULT_PORTS[kind])
    if port > PORT_MAX:
        raise ValueError(f"ports up to {PORT_MAX}; {EXPECTED}")
    return match[1].strip("[]"), port
