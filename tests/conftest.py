"""What holds for every room of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

# These rooms run real processes on real clocks; what shares the machine can take the processor from any of them
# for seconds, and no deadline that is worth a test outlasts that. A failure there counts when it comes twice in a
# row; pytest prints RERUN for each first one, so none is hidden. The rooms of parsers, rules and books never rerun.
REAL_TIME = {
    "attack",
    "bench",
    "checkup",
    "explain",
    "faults",
    "gateway",
    "lifecycle",
    "mock",
    "observe",
    "overload",
    "proofs",
    "proofs_fleet",
    "resilience",
    "store",
    "supervisor",
}
# More work than the few cores can do at a time: a deadline of 50 ms is missed more than once.
CROWDED = {"overload", "proofs", "proofs_fleet"}
TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "llmgw"


def pytest_configure() -> None:
    """An extension that is older than its own source would run in its place. What it was compiled with besides, only
    make knows."""
    for built in PACKAGE.rglob("*.so"):
        module = built.with_name(built.name.partition(".")[0])
        sources = [it for it in map(module.with_suffix, (".pyx", ".pxd", ".py")) if it.exists()]
        if all(it.suffix == ".py" for it in sources):
            pytest.exit(f"{built.relative_to(PACKAGE.parent)} is of no source: remove it", 4)
        if any(it.stat().st_mtime > built.stat().st_mtime for it in sources):
            pytest.exit(f"{built.relative_to(PACKAGE.parent)} is older than its source: make build", 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        if room in REAL_TIME:
            item.add_marker(pytest.mark.flaky(reruns=2 if room in CROWDED else 1))
