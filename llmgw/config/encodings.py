"""Which of OpenAI's vocabularies a model has, by its name."""

from __future__ import annotations

import re
from typing import Final

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"
ENCODINGS: Final = (O200K, CL100K)
PATTERNS: Final = (
    (re.compile(r"gpt-(4o|4\.1|4\.5|5|oss|image|audio|realtime)|chatgpt-4o|o\d(-|$)|omni-|codex-"), O200K),
    (re.compile(r"gpt-(4|3\.5|35)(-|$)|text-embedding-(3-|ada-002)"), CL100K),
)


def encoding_of(model: str) -> str:
    """The encoding of a model of OpenAI's by the name it has there or at Azure; "" for any other model.

    A vocabulary of another maker's model would count too few as easily as too many.
    """
    name = model.lower().removeprefix("ft:").rpartition("/")[2]
    return next((encoding for pattern, encoding in PATTERNS if pattern.match(name)), "")
