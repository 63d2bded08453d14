"""Calendar periods: the days and months of a place, over everything that its clocks do."""

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgw.limits.period import Calendar, period_at

HOUR = timedelta(hours=1)
# Places whose clocks leap over midnight, show it twice, leave days out, or move by half hours.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/New_York",
    "America/Havana",
    "America/St_Johns",
    "America/Toronto",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Africa/Cairo",
    "America/Asuncion",
    "Antarctica/Troll",
    "Asia/Manila",
]


def utc(text):
    """Seconds since the epoch of an ISO moment, UTC where it has no offset."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def period(kind, zone, text):
    """(start, end) as seconds, for the moment `text`."""
    start_us, end_us = period_at(kind, zone, utc(text))
    assert start_us % 1_000_000 == end_us % 1_000_000 == 0
    return start_us // 1_000_000, end_us // 1_000_000


@pytest.mark.parametrize(
    ("kind", "zone", "at", "start", "end"),
    [
        ("day", "UTC", "2026-07-01T12:00", "2026-07-01T00:00", "2026-07-02T00:00"),
        (
            "day",
            "UTC",
            "2016-12-31T23:59:59",
            "2016-12-31T00:00",
            "2017-01-01T00:00",
        ),  # a leap second followed
        # Berlin: 23 hours when summer time begins, 25 when it ends.
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        # São Paulo leapt from midnight to one o'clock: the day begins at 01:00.
        ("day", "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        ("day", "America/Sao_Paulo", "2018-11-03T12:00", "2018-11-03T00:00-03:00", "2018-11-04T00:00-03:00"),
        # … and back from midnight to 23:00: that day has 25 hours.
        ("day", "America/Sao_Paulo", "2019-02-17T02:30", "2019-02-16T00:00-02:00", "2019-02-17T00:00-03:00"),
        # Havana's clocks went back from one o'clock to midnight, which came twice: the first counts.
        ("day", "America/Havana", "2025-11-02T05:30", "2025-11-02T00:00-04:00", "2025-11-03T00:00-05:00"),
        # St. John's went back from 00:01 to 23:01: the day has begun, and is not left again.
        ("day", "America/St_Johns", "2010-11-07T03:00", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # Toronto leapt from 23:30 to 00:30: no moment shows midnight.
        ("day", "America/Toronto", "1919-03-31T12:00", "1919-03-30T23:30-05:00", "1919-04-01T00:00-04:00"),
        # Apia had no 30 December 2011.
        ("day", "Pacific/Apia", "2011-12-30T09:59:59", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("day", "Pacific/Apia", "2011-12-30T10:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
        ("month", "UTC", "2024-02-29T23:59:59", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("month", "UTC", "2026-02-28T23:59:59", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("month", "UTC", "2026-12-31T12:00", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "UTC", "2026-01-31T12:00", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("month", "Europe/Berlin", "2026-10-31T22:59:59", "2026-10-01T00:00+02:00", "2026-11-01T00:00+01:00"),
        ("month", "Europe/Berlin", "2026-10-31T23:00", "2026-11-01T00:00+01:00", "2026-12-01T00:00+01:00"),
        ("month", "Pacific/Apia", "2011-12-31T00:00", "2011-12-01T00:00-10:00", "2012-01-01T00:00+14:00"),
    ],
)
def test_a_period_begins_when_the_clocks_show_its_first_day(kind, zone, at, start, end):
    assert period(kind, zone, at) == (utc(start), utc(end))


MOMENTS = st.integers(int(utc("1900-01-02")), int(utc("2200-01-01")))


@given(st.sampled_from(["day", "month"]), st.sampled_from(ZONES), MOMENTS)
@example("day", "America/St_Johns", int(utc("2010-11-07T02:40")))
@example("day", "Asia/Manila", int(utc("1978-09-21T16:30")))
def test_every_moment_is_in_its_period_and_the_next_begins_where_it_ends(kind, zone, wall_s):
    start_us, end_us = period_at(kind, zone, wall_s)
    assert start_us <= wall_s * 1_000_000 < end_us
    assert period_at(kind, zone, start_us / 1e6) == (start_us, end_us)
    assert period_at(kind, zone, end_us / 1e6 - 1) == (start_us, end_us)
    assert period_at(kind, zone, end_us / 1e6)[0] == end_us


@given(st.sampled_from(["day", "month"]), st.sampled_from(ZONES), MOMENTS)
def test_a_period_begins_as_the_date_changes_and_never_before(kind, zone, wall_s):
    start_s = period_at(kind, zone, wall_s)[0] // 1_000_000
    first, before = (datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in (start_s, start_s - 1))
    assert first > before
    assert kind == "day" or (first.year, first.month) != (before.year, before.month)


def test_part_of_a_second_belongs_to_its_second():
    assert period_at("day", "UTC", 86399.999999) == (0, 86_400_000_000)
    assert period_at("day", "UTC", -0.5) == (-86_400_000_000, 0)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../../etc/passwd", ""])
def test_a_name_that_is_no_zone_is_refused(name):
    with pytest.raises((ZoneInfoNotFoundError, ValueError, OSError)):
        period_at("day", name, 0.0)


def gauge():
    return SimpleNamespace(period_start_us=0, period_end_us=0)


def test_a_refresh_puts_every_gauge_into_its_own_period_and_tells_the_next_end():
    day, same_day, month, berlin = gauge(), gauge(), gauge(), gauge()
    calendar = Calendar(
        [
            (day, "day", "UTC"),
            (same_day, "day", "UTC"),
            (month, "month", "UTC"),
            (berlin, "day", "Europe/Berlin"),
        ]
    )
    due_s = calendar.refresh(utc("2026-07-15T12:00"))
    assert due_s == utc("2026-07-15T22:00")  # midnight in Berlin
    for kind, zone, of in (
        ("day", "UTC", day),
        ("day", "UTC", same_day),
        ("month", "UTC", month),
        ("day", "Europe/Berlin", berlin),
    ):
        assert (of.period_start_us, of.period_end_us) == period_at(kind, zone, utc("2026-07-15T12:00"))


def test_without_gauges_nothing_is_ever_due():
    assert Calendar([]).refresh(0.0) == math.inf


def test_a_period_changes_at_its_end_and_not_a_moment_earlier():
    day = gauge()
    calendar = Calendar([(day, "day", "UTC")])
    due_s = calendar.refresh(utc("2026-07-15T12:00"))
    assert calendar.refresh(due_s - 0.001) == due_s
    assert day.period_end_us == due_s * 1_000_000
    assert calendar.refresh(due_s) == due_s + 86400
    assert day.period_start_us == due_s * 1_000_000


def test_a_clock_set_back_over_midnight_leaves_the_gauge_in_its_period():
    day = gauge()
    calendar = Calendar([(day, "day", "UTC")])
    due_s = calendar.refresh(utc("2026-07-15T00:00:01"))
    assert calendar.refresh(utc("2026-07-14T23:59:59")) == due_s
    assert day.period_start_us == utc("2026-07-15T00:00") * 1_000_000


LATER = st.integers(0, int(utc("2200-01-01")))


@given(st.lists(LATER, min_size=1, max_size=20), st.sampled_from(ZONES), st.sampled_from(["day", "month"]))
def test_whatever_the_clock_does_a_gauge_is_in_the_latest_period_that_was_seen(walls, zone, kind):
    dated = gauge()
    calendar = Calendar([(dated, kind, zone)])
    seen = []
    for wall_s in walls:
        seen.append(
            period_at(kind, zone, wall_s) if not seen or wall_s * 1_000_000 >= seen[-1][1] else seen[-1]
        )
        calendar.refresh(wall_s)
        assert (dated.period_start_us, dated.period_end_us) == seen[-1]
