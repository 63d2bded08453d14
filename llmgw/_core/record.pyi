from typing import Final

from llmgw._wire.call import Call

TAGS_MAX: Final[int]
RECORD_MAX_BYTES: Final[int]

def call_to_record(
    call: Call,
    attempt_id: str,
    outcome: str,
    charged: bool,
    recovered: bool = False,
    tags: tuple[str, ...] = (),
    model_label: str = "",
    status: int = 0,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cached_tokens: int = 0,
    usage_source: str | None = None,
    cost_usd_micro: int = -1,
    at_s: float = -1.0,
) -> bytes: ...
