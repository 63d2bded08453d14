"""Calendar periods: the days and months of a place, as pairs of moments.

A period begins at the first moment at which the clocks of the place show its first day. Each ends
where the next begins, whatever those clocks do: a day has 23, 24 or 25 hours, one that a place left
out (Apia, 30 December 2011) has none, and one whose midnight comes twice begins with the first.

Wall clock times are seconds since the epoch as `time.time` counts them: no leap seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal, Protocol
from zoneinfo import ZoneInfo

__all__ = ["Calendar", "Dated", "Period", "period_at"]

Period = Literal["day", "month"]

MICROSECONDS: Final = 1_000_000
A_DAY: Final = timedelta(days=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def period_at(period: Period, time_zone: str, wall_s: float) -> tuple[int, int]:
    """The period that `wall_s` is in: its first moment, and the next one's, in µs since the epoch.

    Raises zoneinfo.ZoneInfoNotFoundError or ValueError for a name that is no IANA time zone.
    """
    zone = ZoneInfo(time_zone)
    day = _first_day(period, _local(zone, math.floor(wall_s)).date())
    start_s = end_s = _start_s(day, zone)
    while end_s <= wall_s:  # a second time where clocks that went back show the day before once more
        start_s, day = end_s, _next(period, day)
        end_s = _start_s(day, zone)
    return start_s * MICROSECONDS, end_s * MICROSECONDS


def _local(zone: ZoneInfo, wall_s: int) -> datetime:
    """What the clocks of the place show, as a naive datetime."""
    return (EPOCH + timedelta(seconds=wall_s)).astimezone(zone).replace(tzinfo=None)


def _first_day(period: Period, day: date) -> date:
    return day if period == "day" else day.replace(day=1)


def _next(period: Period, first_day: date) -> date:
    if period == "day":
        return first_day + A_DAY
    return (first_day + 31 * A_DAY).replace(day=1)


def _start_s(day: date, zone: ZoneInfo) -> int:
    """The first second at which clocks show midnight of `day` or later."""
    midnight = datetime.combine(day, time.min)
    shown_s = _epoch_s(midnight.replace(tzinfo=zone))  # fold 0: the first, where it comes twice
    if _local(zone, shown_s) == midnight:
        return shown_s
    # Clocks skip midnight. By the offsets of before and after the leap (PEP 495) it would be one of
    # two moments; the leap is between them, and halving finds it.
    before_s, after_s = sorted((shown_s, _epoch_s(midnight.replace(tzinfo=zone, fold=1))))
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _local(zone, middle_s) < midnight:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s


def _epoch_s(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)


class Dated(Protocol):
    """What has a calendar period: a gauge of the limiter."""

    period_start_us: int
    period_end_us: int


class Calendar:
    """Keeps the calendar gauges of one configuration in their periods.

    A period that has begun is never left for an earlier one: when the wall clock is set back over a
    midnight, the gauge waits in its period until the clock has reached that period's end.
    """

    def __init__(self, gauges: Iterable[tuple[Dated, Period, str]]) -> None:
        """Each gauge with its period and IANA time zone. The gauges have no period before `refresh`."""
        self._groups: dict[tuple[Period, str], list[Dated]] = {}
        for gauge, period, time_zone in gauges:
            self._groups.setdefault((period, time_zone), []).append(gauge)

    def refresh(self, wall_s: float) -> float:
        """Moves the gauges whose period is over; returns the wall clock time of the next end.

        That is `inf` without gauges. Whoever sleeps until then looks at the wall clock once a minute:
        it can be set forward.
        """
        return min((self._refresh(*group, wall_s) for group in self._groups.items()), default=math.inf)

    def _refresh(self, calendar: tuple[Period, str], gauges: list[Dated], wall_s: float) -> float:
        end_us = gauges[0].period_end_us  # all of a group are in the same period
        if wall_s * MICROSECONDS >= end_us:
            start_us, end_us = period_at(*calendar, wall_s)
            for gauge in gauges:
                gauge.period_start_us, gauge.period_end_us = start_us, end_us
        return end_us / MICROSECONDS
