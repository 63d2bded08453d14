"""The load generator. It says what it measured, and nothing when an answer was wrong.

Open or closed loop, every body checked, the same run at random through the gateway and past it.
See docs/benchmarks.md.
"""

from llmgw.bench.job import Job, Target
from llmgw.bench.load import Load, Result, Tree, Way, run
from llmgw.bench.report import to_json, to_text
from llmgw.bench.stats import Samples

__all__ = ["Job", "Load", "Result", "Samples", "Target", "Tree", "Way", "run", "to_json", "to_text"]
