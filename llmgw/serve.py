"""`llmgw serve`: a configuration, the supervisor, and what a newcomer sees."""

from __future__ import annotations

from collections.abc import Mapping

from llmgw.config import Config, from_environment, load_file, override
from llmgw.config.zero import OWN_KEY
from llmgw.errors import ConfigError
from llmgw.oplog import setup_logging
from llmgw.supervisor import Addresses, run
from llmgw.worker import check_writable
from llmgw.worker import main as worker_main

WELCOME = """\
llmgw is ready on {url}, metrics on {admin}/metrics

curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

{imports}from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key={python_key})
print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]))
"""
UNSPOKEN_KEYS = ("ANTHROPIC_API_KEY", "GEMINI_API_KEY")
UNSPOKEN = "{} is not used: this version does not speak to that provider yet.\n"
SHOWN_MODEL = "gpt-4o-mini"  # where any name is passed on


def serve(
    path: str | None,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    workers: str | None = None,
) -> int:
    """Raises ConfigError before anything is started. Without a file, the environment decides."""
    shown_key = ""
    if path is None:
        config, made_key = from_environment(environ)
        shown_key = made_key or ""
        config = override(config, host=host, port=port, workers=workers)
    else:
        config = override(load_file(path, environ), host=host, port=port, workers=workers)
    setup_logging(config.log.level)
    check_log(config)

    def reload() -> Config:
        """Without a file there is nothing to read anew."""
        if path is None:
            return config
        return override(load_file(path, environ), host=host, port=port, workers=workers)

    def on_ready(addresses: Addresses) -> None:
        if path is None:
            print(welcome(config, addresses, shown_key) + unspoken(environ), end="", flush=True)

    return run(config, reload=reload, worker_main=worker_main, on_ready=on_ready)


def check_log(config: Config) -> None:
    """Raises ConfigError where no worker could open it."""
    try:
        check_writable(config.log.path)
    except OSError as error:
        raise ConfigError([f"log.path: {config.log.path}: {error.strerror}"]) from None


def unspoken(environ: Mapping[str, str]) -> str:
    lines = [UNSPOKEN.format(name) for name in UNSPOKEN_KEYS if environ.get(name)]
    return "".join(["\n", *lines]) if lines else ""


def welcome(config: Config, addresses: Addresses, key: str) -> str:
    """`key` "": the user's own, which is not shown."""
    names = [name for name in config.models if "*" not in name]
    return WELCOME.format(
        url=url_of(*addresses.data),
        admin=url_of(*addresses.admin),
        key=key or f"${OWN_KEY}",
        imports="" if key else "import os\n",
        python_key=f'"{key}"' if key else f'os.environ["{OWN_KEY}"]',
        model=names[0] if names else SHOWN_MODEL,
    )


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
