"""Places at which a test can end the process, as a power cut would.

LLMGW_FAILPOINT=name:nth in the environment kills the process at the nth passing of that place; without it
`failpoint` is None, and a place is `if failpoint: failpoint(name)`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

NAME, _, NTH = os.environ.get("LLMGW_FAILPOINT", "").partition(":")


class _Countdown:
    def __init__(self, name: str, nth: int) -> None:
        self.name = name
        self.left = nth

    def __call__(self, place: str) -> None:
        if place == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


failpoint: Callable[[str], None] | None = _Countdown(NAME, int(NTH or 1)) if NAME else None
