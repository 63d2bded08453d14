"""What comes after an attempt that failed: one decision, made without a clock or a die of its own.

Targets that were not tried come before one that was. The same target is asked again only after a
delay, and a failure that lies with the request (too long, against a policy) leaves the model's
targets at once, since each of them would say the same. Whether the retry budget has room is the
caller's question, asked for what is decided here.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from llmgw.routing.causes import Cause

# Of the stated wait, at most, on top of it: callers that were told the same moment come back one by one.
STATED_SPREAD = 0.1
# What an attempt needs of the deadline at least; a wait that leaves less is not begun.
LEFT_MIN_S = 0.05
# Doubling ends here; 2**32 base delays are beyond any maximum.
DOUBLINGS_MAX = 32


class StepKind(Enum):
    KEY = "key"  # the same target with another key, at once
    OTHER = "other"  # a target of the model that was not tried, at once
    SAME = "same"  # a target that was tried, after a delay
    FALLBACK = "fallback"  # the model's targets are used up: another model, or the end


class Step(NamedTuple):
    kind: StepKind
    after_s: float = 0.0


def delay_s(attempts: int, base_s: float, max_s: float, random01: float, stated_s: float | None) -> float:
    """Full jitter over base_s * 2^(attempts - 1), at most max_s; never less than what was stated.

    `attempts` were made, the first counts. Only a wait that was itself stated as longer than
    max_s comes out longer.
    """
    jittered = random01 * min(max_s, math.ldexp(base_s, min(max(attempts - 1, 0), DOUBLINGS_MAX)))
    if stated_s is None:
        return jittered
    spread = min(stated_s * (1 + STATED_SPREAD * random01), max(stated_s, max_s))
    return max(jittered, spread)


def next_step(
    cause: Cause,
    *,
    attempts: int,
    max_attempts: int,
    has_key: bool = False,
    has_untried: bool,
    can_repeat: bool,
    stated_s: float | None,
    left_s: float,
    base_s: float,
    max_s: float,
    random01: float,
) -> Step:
    """`has_key`: the target that failed may take another of our keys; `can_repeat`: a target that was tried
    may answer this request yet (it was not silent).

    `stated_s` is what that target said to wait, `left_s` what is left of the request's deadline.
    """
    if cause.is_of_request or attempts >= max_attempts or left_s <= LEFT_MIN_S:
        return Step(StepKind.FALLBACK)
    if has_key:
        return Step(StepKind.KEY)
    if has_untried:
        return Step(StepKind.OTHER)
    after_s = delay_s(attempts, base_s, max_s, random01, stated_s)
    if can_repeat and after_s <= min(max_s, left_s - LEFT_MIN_S):
        return Step(StepKind.SAME, after_s)
    return Step(StepKind.FALLBACK)
