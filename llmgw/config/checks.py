"""What no single field can know: whether the parts of a file fit together.

The checks walk the file's own data, not the tree, because the tree does not exist while any
field is wrong, and every mistake is to be reported at once. So each takes what it finds in the
expected form, and leaves the rest to the fields' own complaints.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

from llmgw.config import fields
from llmgw.config.problems import Path, Problems, nearest_first
from llmgw.config.redis_url import parse_redis_url
from llmgw.config.tree import Admin, Server, digest_of

OPENAI_HOST = "api.openai.com"
# Without a base_url the mock answers in process: nothing is connected to, so these would do nothing.
ONLY_WITH_URL = ("api_keys", "proxy", "tls", "connection_age", "health_check")
WILDCARDS = frozenset({"0.0.0.0", "::", ""})


def check_all(data: dict[str, Any], problems: Problems, base: FilePath) -> None:
    for name, provider in entries(data, "providers"):
        _check_provider(("providers", name), provider, problems, base)
    _check_references(data, problems)
    _check_keys(data, problems)
    _check_admin(data, problems)
    _check_redis(data, problems, base)
    _check_empty((), data, problems)


def _check_empty(path: Path, value: Any, problems: Problems) -> None:
    """`rpm:` without a value would be read as no limit, and `redis:` as no Redis."""
    if value is None:
        problems.add(path, "a value, or no such key")
    elif isinstance(value, dict | list):
        for step, child in value.items() if isinstance(value, dict) else enumerate(value):
            _check_empty((*path, step), child, problems)


def entries(data: dict[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a section that are mappings, as they should be."""
    for name, entry in mapping(data, section).items():
        if isinstance(entry, dict):
            yield name, entry


def mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def list_in(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _check_provider(path: Path, provider: dict[str, Any], problems: Problems, base: FilePath) -> None:
    dialect, url = provider.get("dialect"), provider.get("base_url")
    if dialect == "azure" and "base_url" not in provider:
        problems.add(
            (*path, "base_url"), "this key: the resource's URL, such as https://NAME.openai.azure.com"
        )
    if "api_keys" not in provider and _needs_key(dialect, url):
        problems.add((*path, "api_keys"), f"this key: a list of at least one, for {dialect}")
    if provider.get("api_keys") == []:
        problems.add((*path, "api_keys"), "at least one entry, or no such key at all")
    if "api_version" in provider and dialect in ("openai", "mock"):
        problems.add((*path, "api_version"), "no such key: it is for the dialect azure", found="api_version")
    if dialect == "mock" and "base_url" not in provider:
        for key in filter(provider.__contains__, ONLY_WITH_URL):
            problems.add(
                (*path, key), "a base_url beside it: the mock in process connects to nothing", found=key
            )
    _check_tls(path, provider, problems, base)


def _needs_key(dialect: Any, url: Any) -> bool:
    """An own server that speaks OpenAI's dialect may ask for no key; OpenAI and Azure always do."""
    if dialect == "openai":
        return not isinstance(url, str) or _host_of(url) == OPENAI_HOST
    return bool(dialect == "azure")


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # half an IPv6 address; the field complains
        return None


def _check_tls(path: Path, provider: dict[str, Any], problems: Problems, base: FilePath) -> None:
    tls, url = provider.get("tls"), provider.get("base_url")
    if not isinstance(tls, dict):
        return
    if isinstance(url, str) and url.lower().startswith("http://"):
        problems.add((*path, "tls"), "an https:// base_url beside it", found="tls")
    ca_file = tls.get("ca_file")
    if not isinstance(ca_file, str) or not ca_file:
        return
    if tls.get("verify") == "false":
        problems.add((*path, "tls", "ca_file"), "verify: true beside it", found="ca_file")
    elif not _is_ca_file(base / ca_file):
        problems.add((*path, "tls", "ca_file"), "a readable PEM file with at least one certificate")


def _is_ca_file(path: FilePath) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError; a NUL in the path is a ValueError
        return False
    return True


def _check_redis(data: dict[str, Any], problems: Problems, base: FilePath) -> None:
    try:
        address = parse_redis_url(mapping(data, "redis")["url"])
    except (KeyError, TypeError, ValueError):  # the field complains
        return
    if address.ssl_ca_certs and not _is_ca_file(base / address.ssl_ca_certs):
        problems.add(("redis", "url"), "in ssl_ca_certs a readable PEM file with at least one certificate")


def _check_references(data: dict[str, Any], problems: Problems) -> None:
    known = mapping(data, "providers")
    if not known:
        return
    for name, model in entries(data, "models"):
        for path, target in _targets_of(("models", name), model):
            _check_reference((*path, "provider"), target.get("provider"), known, problems)
    for glob, provider in mapping(data, "routes").items():
        _check_reference(("routes", glob), provider, known, problems)


def _targets_of(path: Path, model: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Whoever may be asked in the model's name, each with its path."""
    for index, target in enumerate(list_in(model, "targets")):
        if isinstance(target, dict):
            yield (*path, "targets", index), target
    for side in ("canary", "mirror"):
        target = mapping(mapping(model, side), "target")
        if target:
            yield (*path, side, "target"), target


def _check_reference(path: Path, name: Any, known: dict[str, Any], problems: Problems) -> None:
    if isinstance(name, str) and name not in known:
        problems.add(path, f"a name from providers: {', '.join(nearest_first(name, known))}")


def _check_keys(data: dict[str, Any], problems: Problems) -> None:
    """One key is one tenant's, under one name: the same key twice would make the log lie."""
    lists: list[tuple[Path, dict[str, Any]]] = [
        (("server", "admin"), mapping(mapping(data, "server"), "admin"))
    ]
    lists += [(("tenants", name), tenant) for name, tenant in entries(data, "tenants")]
    first_of: dict[str, Path] = {}
    for owner, holder in lists:
        names: set[str] = set()
        for index, key in enumerate(list_in(holder, "keys")):
            if isinstance(key, dict):
                path: Path = (*owner, "keys", index)
                _check_key(path, key, first_of, problems)
                _check_key_name(path, key.get("name"), names, problems)


def _check_key(path: Path, key: dict[str, Any], first_of: dict[str, Path], problems: Problems) -> None:
    clear, digest = key.get("key"), key.get("key_sha256")
    if "key" in key and "key_sha256" in key:
        problems.add(path, "one of the two", found="key and key_sha256", aside=True)
    elif "key" in key and not (isinstance(clear, str) and re.fullmatch(fields.CREDENTIAL, clear)):
        problems.add((*path, "key"), fields.CREDENTIAL_EXPECTED)
    digest = digest_of(clear) if isinstance(clear, str) else digest
    if not isinstance(digest, str):
        return
    first = first_of.setdefault(digest.lower(), path)
    if first != path:
        line = problems.places[first].line
        problems.add(path, "each key once", found=f"the same key as on line {line}", aside=True)


def _check_key_name(path: Path, name: Any, names: set[str], problems: Problems) -> None:
    if isinstance(name, str) and name in names:
        problems.add((*path, "name"), "a name of its own for each key of the list", found="a name twice")
    elif isinstance(name, str):
        names.add(name)


def _check_admin(data: dict[str, Any], problems: Problems) -> None:
    server = mapping(data, "server")
    admin = mapping(server, "admin")
    host = admin.get("host", Admin.model_fields["host"].default)
    if isinstance(host, str) and not is_loopback(host) and not list_in(admin, "keys"):
        problems.add(("server", "admin", "keys"), "at least one key: the listener is not on loopback")
    data_end, admin_end = _end(server, Server), _end(admin, Admin)
    if data_end and admin_end and collide(*data_end, *admin_end):
        problems.add(
            ("server", "admin", "port"), "another port than server.port", found=f"{admin_end[1]} twice"
        )


def _end(listener: dict[str, Any], model: type[Server | Admin]) -> tuple[str, str] | None:
    """Host and port in the file's words, or their defaults; None if they are no words."""
    host = listener.get("host", model.model_fields["host"].default)
    port = listener.get("port", str(model.model_fields["port"].default))
    return (host, port) if isinstance(host, str) and isinstance(port, str) else None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def collide(host: str, port: str, admin_host: str, admin_port: str) -> bool:
    """Would the second listener find its port taken? Port 0 never collides."""
    same_host = host == admin_host or not WILDCARDS.isdisjoint((host, admin_host))
    return port == admin_port != "0" and same_host
