"""Dates, durations and periods as policies write them: strict forms, UTC calendar, no clock.

Refuses every form but `2026-12-31`, `2026-12-31T08:00:00+08:00` (or `Z`) and ISO 8601 durations in whole
units such as `P6M`, `P30D`, `PT12H`.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

Period = Literal["hour", "day", "week", "month", "year", "agreement"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2})", re.ASCII)
_DURATION = re.compile(
    r"P(?=.)(?:(\d{1,3})Y)?(?:(\d{1,3})M)?(?:(\d{1,3})W)?(?:(\d{1,3})D)?(?:T(?=.)(?:(\d{1,3})H)?(?:(\d{1,3})M)?)?",
    re.ASCII,
)


def moment(text: str) -> str:
    """Return `text` if it is a date or a timestamp with an offset; `ValueError` otherwise."""
    if _DATE.fullmatch(text):
        date.fromisoformat(text)
    elif _STAMP.fullmatch(text):
        datetime.fromisoformat(text)
    else:
        raise ValueError("write a date (2026-12-31) or a time with its offset (2026-12-31T08:00:00+08:00)")
    return text


def first_instant(text: str) -> datetime:
    """When `from: text` begins: a date stands for its whole UTC day."""
    if _DATE.fullmatch(text):
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    return datetime.fromisoformat(text)


def end_instant(text: str) -> datetime:
    """The first instant that `until: text` no longer covers; a date includes its whole UTC day."""
    if not _DATE.fullmatch(text):
        return datetime.fromisoformat(text)
    day = date.fromisoformat(text)
    if day == date.max:
        return datetime.max.replace(tzinfo=UTC)
    return first_instant(text) + timedelta(days=1)


def duration(text: str) -> str:
    """Return `text` if it is a duration longer than nothing; `ValueError` otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(int(part or 0) for part in match.groups()):
        raise ValueError("write an ISO 8601 duration in whole units, for example P30D, P6M or PT12H")
    return text


def later(start: datetime, text: str) -> datetime:
    """`start` plus a duration; months keep the day or fall back to the month's last one."""
    match = _DURATION.fullmatch(duration(text))
    assert match is not None
    years, months, weeks, days, hours, minutes = (int(part or 0) for part in match.groups())
    count = start.year * 12 + start.month - 1 + years * 12 + months
    year, month = divmod(count, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    moved = start.replace(year=year, month=month + 1, day=day)
    return moved + timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes)


def period_start(per: Period, at: datetime) -> datetime | None:
    """When the counting period that holds `at` began, in UTC; None when the whole agreement counts."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "hour": at.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
        "year": day.replace(month=1, day=1),
    }
    return starts.get(per)
