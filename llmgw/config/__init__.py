"""The configuration: a YAML file (or the environment alone) in, one frozen tree out.

`load`, `load_file`, `check` and `override` read and judge; `from_environment` serves whoever has
no file; `tree` says what the rest of the program sees; `prices` knows what a token costs.
"""

from llmgw.config.globs import GlobMap, GlobSet, is_glob
from llmgw.config.loader import check, load, load_file, override
from llmgw.config.prices import cost_usd_micro, price_of
from llmgw.config.tree import (
    Admin,
    Config,
    Key,
    Log,
    Model,
    Price,
    Provider,
    Server,
    ServerTimeouts,
    Target,
    Tenant,
    Timeouts,
    Tls,
)
from llmgw.config.zero import from_environment

__all__ = [
    "Admin",
    "Config",
    "GlobMap",
    "GlobSet",
    "Key",
    "Log",
    "Model",
    "Price",
    "Provider",
    "Server",
    "ServerTimeouts",
    "Target",
    "Tenant",
    "Timeouts",
    "Tls",
    "check",
    "cost_usd_micro",
    "from_environment",
    "is_glob",
    "load",
    "load_file",
    "override",
    "price_of",
]
