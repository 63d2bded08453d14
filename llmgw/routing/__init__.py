"""Which target gets a request, and which comes after it."""

from llmgw.routing.catalog import Catalog, Plan, no_such_model

__all__ = ["Catalog", "Plan", "no_such_model"]
