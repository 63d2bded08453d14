"""The egress proxy that the environment asks for: HTTPS_PROXY and HTTP_PROXY, less NO_PROXY."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from llmgw.config.checks import is_loopback
from llmgw.config.fields import proxy_url
from llmgw.config.problems import HIDDEN, Problems


def environment_proxy(url: str, environ: Mapping[str, str], problems: Problems) -> str | None:
    """As curl reads these variables (small letters win, a scheme may be missing), save that a provider
    on this machine's loopback is always reached directly: no proxy could reach it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = f"{parts.scheme.lower()}_proxy"
    found = _variable(environ, name)
    if not found or is_loopback(host) or _is_excluded(host, parts.port, environ):
        return None
    try:
        return proxy_url(found if "://" in found else f"http://{found}") or None
    except ValueError as error:
        problems.add((name.upper(),), f"{error}, in the environment", found=HIDDEN)
        return None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper(), "")


def _is_excluded(host: str, port: int | None, environ: Mapping[str, str]) -> bool:
    end = host if port is None else f"{host}:{port}"
    return bool(proxy_bypass_environment(end, {"no": _variable(environ, "no_proxy")}))
