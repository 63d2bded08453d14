"""Who asks, and what they may ask for."""

from llmgw.access.keyring import Keyring
from llmgw.access.principal import Principal

__all__ = ["Keyring", "Principal"]
