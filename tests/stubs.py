"""Runs stubtest over every compiled module: a stub that lies is worse than none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def compiled_modules() -> list[str]:
    sources = sorted(ROOT.glob("llmgw/_*/*.pyx"))
    return [".".join(source.relative_to(ROOT).with_suffix("").parts) for source in sources]


if __name__ == "__main__":
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-missing-stub"]
    sys.exit(subprocess.call([*command, *compiled_modules()], cwd=ROOT))
