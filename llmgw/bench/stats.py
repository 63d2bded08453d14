"""Latencies and their percentiles."""

from __future__ import annotations

import math
from array import array
from statistics import fmean

QUANTILES = (0.5, 0.9, 0.99, 0.999)


class Samples:
    """Every value is kept (8 bytes each): percentiles are exact, not those of a histogram."""

    __slots__ = ("_sorted", "_values", "add")

    def __init__(self) -> None:
        self._values = array("d")
        self._sorted: list[float] | None = None
        self.add = self._values.append  # a bound C method: it is called for every event

    def __len__(self) -> int:
        return len(self._values)

    def quantile(self, q: float) -> float:
        """The smallest value that at least a share `q` of all values does not exceed (nearest rank)."""
        if not self._values:
            return math.nan
        if self._sorted is None or len(self._sorted) != len(self._values):
            self._sorted = sorted(self._values)
        return self._sorted[max(0, math.ceil(q * len(self._sorted)) - 1)]

    def mean(self) -> float:
        return fmean(self._values) if self._values else math.nan

    def summary_us(self) -> dict[str, float]:
        """Count, mean, quantiles and maximum; values are seconds, the summary's are microseconds."""
        if not self._values:
            return {"count": 0}
        summary = {name_of(q): round(self.quantile(q) * 1e6, 1) for q in QUANTILES}
        return {
            "count": len(self),
            "mean": round(self.mean() * 1e6, 1),
            **summary,
            "max": round(self.quantile(1.0) * 1e6, 1),
        }


def name_of(q: float) -> str:
    """p50, p99, p99.9"""
    return f"p{q * 100:.6g}"
