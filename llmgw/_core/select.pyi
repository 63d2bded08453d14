from typing import final

from llmgw._core.health import Board, Health

WEIGHTED: int
ROUND_ROBIN: int
ORDERED: int
LEAST_BUSY: int
LATENCY: int
COST: int
HASH: int
SCORE: int
TIERS_MAX: int

@final
class Tier:
    def __init__(
        self,
        board: Board,
        key: bytes,
        strategy: int,
        healths: tuple[Health, ...],
        *,
        weights: tuple[int, ...],
        prices: tuple[tuple[int, int], ...],
        qualities: tuple[float, ...],
        score: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None: ...
    @property
    def board(self) -> Board: ...
    @property
    def healths(self) -> tuple[Health, ...]: ...
    @property
    def strategy(self) -> int: ...
    @property
    def is_shared(self) -> bool: ...
    def pick(
        self, mask: int, now_us: int, affinity: int = 0, input_tokens: int = 0, output_tokens: int = 0
    ) -> int: ...
    def wait_us(self, mask: int, now_us: int) -> int: ...
    def verdicts(self, mask: int, now_us: int) -> list[int]: ...
    def seed(self, value: int) -> None: ...
