"""The configuration: a YAML file (or the environment alone) in, one frozen tree out.

`load`, `load_file`, `check` and `override` read and judge; `from_environment` serves whoever has
no file; `tree` says what the rest of the program sees; `prices` knows what a model costs and
how much it takes.
"""

from llmgw.config.globs import GlobMap, GlobSet, is_glob
from llmgw.config.limits import Alerts, Amount, Budget, Ledger, Limits, Queue, Redis, Tag, Users
from llmgw.config.loader import check, load, load_file, override
from llmgw.config.prices import Bounds, bounds_of, cost_usd_micro, price_of
from llmgw.config.redis_url import RedisAddress, parse_redis_url
from llmgw.config.routing import (
    FALLBACK_CLASSES,
    Breaker,
    Canary,
    Degraded,
    Fallbacks,
    HealthCheck,
    Hedge,
    Mirror,
    Overload,
    Price,
    Retry,
    RetryBudget,
    Score,
    Target,
    Upstream,
)
from llmgw.config.tree import (
    Admin,
    AdminKey,
    Config,
    Key,
    Log,
    Model,
    Provider,
    Server,
    ServerTimeouts,
    Tenant,
    Timeouts,
    Tls,
)
from llmgw.config.zero import from_environment

__all__ = [
    "FALLBACK_CLASSES",
    "Admin",
    "AdminKey",
    "Alerts",
    "Amount",
    "Bounds",
    "Breaker",
    "Budget",
    "Canary",
    "Config",
    "Degraded",
    "Fallbacks",
    "GlobMap",
    "GlobSet",
    "HealthCheck",
    "Hedge",
    "Key",
    "Ledger",
    "Limits",
    "Log",
    "Mirror",
    "Model",
    "Overload",
    "Price",
    "Provider",
    "Queue",
    "Redis",
    "RedisAddress",
    "Retry",
    "RetryBudget",
    "Score",
    "Server",
    "ServerTimeouts",
    "Tag",
    "Target",
    "Tenant",
    "Timeouts",
    "Tls",
    "Upstream",
    "Users",
    "bounds_of",
    "check",
    "cost_usd_micro",
    "from_environment",
    "is_glob",
    "load",
    "load_file",
    "override",
    "parse_redis_url",
    "price_of",
]
