"""Dates, durations and periods: strict forms, whole UTC days, the calendar's months."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from policy_enforcer.moments import duration, end_instant, first_instant, later, moment, period_start

CHINA = timezone(timedelta(hours=8))


@pytest.mark.parametrize("text", ["2026-12-31", "2026-12-31T00:00:00Z", "2026-12-31T23:59:59+08:00"])
def test_moments(text):
    assert moment(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026",
        "2026-1-1",
        "20260101",
        "2026-02-30",
        "2026-W01-1",
        "٢٠٢٦-01-01",
        "2026-12-31T00:00:00",
        "2026-12-31 00:00:00Z",
        "2026-12-31T24:00:01Z",
        "2026-12-31T00:00Z",
        "2026-12-31T00:00:00+99:00",
    ],
)
def test_other_moments_are_refused(text):
    with pytest.raises(ValueError):
        moment(text)


def test_a_date_is_a_whole_utc_day():
    assert first_instant("2026-12-31") == datetime(2026, 12, 31, tzinfo=UTC)
    assert end_instant("2026-12-31") == datetime(2027, 1, 1, tzinfo=UTC)
    assert end_instant("9999-12-31") == datetime.max.replace(tzinfo=UTC)


def test_an_instant_is_itself():
    assert first_instant("2026-12-31T08:00:00+08:00") == datetime(2026, 12, 31, tzinfo=UTC)
    assert end_instant("2026-12-31T00:00:00Z") == datetime(2026, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P30D", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        ("P1M", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("P1Y1M", datetime(2027, 2, 28, 10, tzinfo=UTC)),
        ("P11M", datetime(2026, 12, 31, 10, tzinfo=UTC)),
        ("P12M", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ("P2W1D", datetime(2026, 2, 15, 10, tzinfo=UTC)),
        ("PT14H30M", datetime(2026, 2, 1, 0, 30, tzinfo=UTC)),
        ("P1DT1M", datetime(2026, 2, 1, 10, 1, tzinfo=UTC)),
    ],
)
def test_durations_follow_the_calendar(text, expected):
    assert later(datetime(2026, 1, 31, 10, tzinfo=UTC), duration(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P0D", "PT0H", "P1.5D", "-P1D", "P1000D", "1D", "P1H", "PT1S", "P1D "]
)
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError):
        duration(text)


@pytest.mark.parametrize(
    ("per", "start"),
    [
        ("hour", datetime(2026, 3, 1, 18, tzinfo=UTC)),
        ("day", datetime(2026, 3, 1, tzinfo=UTC)),
        ("week", datetime(2026, 2, 23, tzinfo=UTC)),
        ("month", datetime(2026, 3, 1, tzinfo=UTC)),
        ("year", datetime(2026, 1, 1, tzinfo=UTC)),
        ("agreement", None),
    ],
)
def test_periods_are_those_of_the_utc_calendar(per, start):
    assert period_start(per, datetime(2026, 3, 2, 2, 45, 1, tzinfo=CHINA)) == start


@pytest.mark.parametrize(
    ("per", "start"),
    [
        ("hour", datetime(2026, 7, 16, 13, tzinfo=UTC)),
        ("day", datetime(2026, 7, 16, tzinfo=UTC)),
        ("week", datetime(2026, 7, 13, tzinfo=UTC)),
        ("month", datetime(2026, 7, 1, tzinfo=UTC)),
        ("year", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_periods_in_the_middle_begin_on_the_dot(per, start):
    assert period_start(per, datetime(2026, 7, 16, 13, 45, 59, 999_999, tzinfo=UTC)) == start
