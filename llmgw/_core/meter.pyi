from typing import final

from llmgw._core.segment import Segment
from llmgw._wire.call import Call

REQUESTS: int
DURATION: int
FIRST_TOKEN: int
OVERHEAD: int
TOKENS: int
COST: int
ATTEMPTS: int
PRICE_UNKNOWN: int
LINES_DROPPED: int
DURATION_BOUNDS_US: tuple[int, ...]
OVERHEAD_BOUNDS_NS: tuple[int, ...]
SHAPES: dict[int, tuple[int, int]]

@final
class Meter:
    def __init__(self, segment: Segment, slot: int) -> None: ...
    @property
    def segment(self) -> Segment: ...
    def started(self) -> None: ...
    def finished(self, call: Call, model_label: str, overhead_s: float, now_s: float = -1.0) -> None: ...
    def attempt(self, provider: str, outcome: str) -> None: ...
    def dropped_lines(self, lines: int) -> None: ...
