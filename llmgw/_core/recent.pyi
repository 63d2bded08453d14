from typing import Final, final

from llmgw._core.segment import Segment

RECORDS: Final[int]
RECORD_BYTES: Final[int]

@final
class Recent:
    def __init__(self, segment: Segment, slot: int) -> None: ...
    def keep(self, request_id: str, line: bytes, route: str, limits: bytes) -> None: ...

def find(segment: Segment, request_id: str) -> tuple[bytes, bytes, bytes] | None: ...
def latest(segment: Segment, slot: int, count: int) -> list[tuple[bytes, bytes, bytes]]: ...
