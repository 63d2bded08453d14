"""The way out: connections to providers, and the exchanges on them."""

from llmgw.upstream.provider import Upstream
from llmgw.upstream.reply import Reply

__all__ = ["Reply", "Upstream"]
