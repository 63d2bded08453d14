"""Text to tree: read, check everything, complain about everything at once, fill in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from llmgw.config.checks import check_all, collide
from llmgw.config.explain import explain
from llmgw.config.limit_checks import check_limits, note_uncounted, note_unpriced
from llmgw.config.limits import Ledger, Redis
from llmgw.config.problems import Path as Location
from llmgw.config.problems import Place, Problems, quoted
from llmgw.config.proxies import environment_proxy
from llmgw.config.reader import read
from llmgw.config.redis_url import move_ca_file
from llmgw.config.routing_checks import check_routing, note_equal_prices
from llmgw.config.tree import Config, Log, Provider, Server, Tls
from llmgw.errors import ConfigError

# The generally available version of Azure's data plane; `api_version` names another.
AZURE_API_VERSION = "2024-10-21"
OPENAI_BASE_URL = "https://api.openai.com/v1"
ALL_ROUTES = "/v1/*"


class Verdict(NamedTuple):
    """One line each. Without problems the file can be served; a notice is about what may surprise."""

    problems: list[str]
    notices: list[str]


def load(text: str, *, source: str, environ: Mapping[str, str]) -> Config:
    """Raises `ConfigError` with one line for each mistake. `source` is the file's name: it stands in
    those lines, and relative paths in the file are taken from its directory."""
    config, problems = _judge(text, source, environ)
    if problems.found or config is None:
        raise ConfigError(problems.lines())
    return config


def load_file(path: str | Path, environ: Mapping[str, str]) -> Config:
    return load(_text_of(path), source=str(path), environ=environ)


def check(path: str | Path, environ: Mapping[str, str]) -> Verdict:
    """`llmgw check`."""
    try:
        _, problems = _judge(_text_of(path), str(path), environ)
    except ConfigError as error:
        return Verdict(error.problems, [])
    return Verdict(problems.lines(), problems.notices())


def _text_of(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}:1: (file): found {error.strerror}, expected a readable file"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}:1: (file): found a byte that is no UTF-8, expected UTF-8 text"]) from None


def _judge(text: str, source: str, environ: Mapping[str, str]) -> tuple[Config | None, Problems]:
    document = read(text, source=source, environ=environ)
    data, problems, base = document.data, document.problems, Path(source).parent
    if problems.covers(()):  # no data to judge
        return None, problems
    config = _validate(data, problems)
    check_all(data, problems, base)
    check_limits(data, problems)
    check_routing(data, problems)
    if config is None:
        return None, problems
    note_unpriced(config, problems)
    note_uncounted(config, problems)
    note_equal_prices(config, problems)
    return _complete(config, base, environ, problems), problems


def override(
    config: Config, *, host: str | None = None, port: int | None = None, workers: int | str | None = None
) -> Config:
    """The command line's words win over the file's; they are checked just the same."""
    words = {"host": host, "port": port, "workers": workers}
    given = {word: value for word, value in words.items() if value is not None}
    places: dict[Location, Place] = {(word,): Place(1, quoted(str(value))) for word, value in given.items()}
    problems = Problems("command line", places)
    server = config.server
    try:
        valid = Server.model_validate(given)
        server = server.model_copy(update={word: getattr(valid, word) for word in given})
    except ValidationError as error:
        explain(error, problems)
    admin = server.admin
    if collide(server.host, str(server.port), admin.host, str(admin.port)):
        problems.add(("port",), "another port than the admin listener's", found=str(server.port))
    if problems.found:
        raise ConfigError([f"command line: --{text}" for _, text in problems.found])
    return config.model_copy(update={"server": server})


def _validate(data: dict[str, Any], problems: Problems) -> Config | None:
    try:
        return Config.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        explain(error, problems)
        return None


def _complete(config: Config, base: Path, environ: Mapping[str, str], problems: Problems) -> Config:
    """What depends on where and for whom the gateway runs, which no default of a field can know."""
    providers = {
        name: _complete_provider(provider, base, environ, problems)
        for name, provider in config.providers.items()
    }
    routes = config.routes
    if not routes and len(providers) == 1:
        routes = {ALL_ROUTES: next(iter(providers))}
    server = _complete_server(config.server, base, environ)
    update = {
        "providers": providers,
        "routes": routes,
        "server": server,
        "redis": config.redis and _complete_redis(config.redis, base, environ),
        "ledger": _complete_ledger(config.ledger, server, base, environ),
        "log": _complete_log(config.log, base, environ),
    }
    return config.model_copy(update=update)


def _complete_server(server: Server, base: Path, environ: Mapping[str, str]) -> Server:
    state_dir = server.state_dir or str(_state_home(environ) / "llmgw")
    return server.model_copy(update={"state_dir": _absolute(state_dir, base, environ)})


def _complete_redis(redis: Redis, base: Path, environ: Mapping[str, str]) -> Redis:
    url = move_ca_file(redis.url, lambda path: _absolute(path, base, environ))
    return redis.model_copy(update={"url": url})


def _complete_ledger(ledger: Ledger, server: Server, base: Path, environ: Mapping[str, str]) -> Ledger:
    path = ledger.path or str(Path(server.state_dir) / "ledger")
    return ledger.model_copy(update={"path": _absolute(path, base, environ)})


def _complete_log(log: Log, base: Path, environ: Mapping[str, str]) -> Log:
    return log if log.path == "-" else log.model_copy(update={"path": _absolute(log.path, base, environ)})


def _complete_provider(
    provider: Provider, base: Path, environ: Mapping[str, str], problems: Problems
) -> Provider:
    url = provider.base_url or (OPENAI_BASE_URL if provider.dialect == "openai" else None)
    version = provider.api_version or (AZURE_API_VERSION if provider.dialect == "azure" else None)
    proxy = provider.proxy
    if proxy is None and url is not None:
        proxy = environment_proxy(url, environ, problems)
    tls = provider.tls
    if tls.ca_file is not None:
        tls = Tls(ca_file=_absolute(tls.ca_file, base, environ), verify=tls.verify)
    update = {"base_url": url, "api_version": version, "proxy": proxy or None, "tls": tls}
    return provider.model_copy(update=update)


def _absolute(path: str, base: Path, environ: Mapping[str, str]) -> str:
    if path.startswith("~/"):
        return str(_home(environ) / path[2:])
    return str((base / path).absolute())


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _state_home(environ: Mapping[str, str]) -> Path:
    """The XDG base directory specification: a relative XDG_STATE_HOME is to be ignored."""
    named = Path(environ.get("XDG_STATE_HOME", ""))
    return named if named.is_absolute() else _home(environ) / ".local" / "state"
