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
# Several gateways, Redis and their callers on the same few cores: a deadline of 50 ms is missed more than once.
CROWDED = {"proofs", "proofs_fleet"}
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        if room in REAL_TIME:
            item.add_marker(pytest.mark.flaky(reruns=2 if room in CROWDED else 1))
