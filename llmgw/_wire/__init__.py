"""Compiled bytes: framing, the JSON skimmer, the SSE scanner, the fast lane, connections to providers."""
