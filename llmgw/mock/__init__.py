"""The mock provider: OpenAI's, Azure's, Anthropic's and Gemini's shapes, with faults on demand.

It serves `llmgw mock`, the gateway's built-in model, the tests and the benchmarks, so that all
of them mean the same thing by "the provider". See docs/mock.md.
"""

from llmgw.mock.fault import PLAIN, Fault, FaultError, Point, parse_fault
from llmgw.mock.seen import Arrival, Seen
from llmgw.mock.server import Mock, Options, start

__all__ = [
    "PLAIN",
    "Arrival",
    "Fault",
    "FaultError",
    "Mock",
    "Options",
    "Point",
    "Seen",
    "parse_fault",
    "start",
]
