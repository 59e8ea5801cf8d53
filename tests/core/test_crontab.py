from __future__ import annotations

from datetime import UTC, datetime

import pytest
from apscheduler.triggers.cron import CronTrigger

from core.crontab import parse_crontab

FRIDAY = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "next_run"),
    [
        ("30 3 * * *", "2026-11-21 03:30"),
        ("*/20 * * * *", "2026-11-20 12:00"),
        ("5-10/5 0,13 * * *", "2026-11-20 13:05"),
        ("0 4 * * 0", "2026-11-22 04:00"),
        ("0 4 * * 7", "2026-11-22 04:00"),
        ("0 4 * * sun", "2026-11-22 04:00"),
        ("0 4 * * 1-5", "2026-11-23 04:00"),
        ("0 4 * * MON-FRI", "2026-11-23 04:00"),
        ("0 4 1 jan *", "2027-01-01 04:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("０ ４ ＊ ＊ ＊", "2026-11-21 04:00"),
    ],
)
def test_as_cron_reads_it(text: str, next_run: str) -> None:
    moment = CronTrigger(timezone=UTC, **parse_crontab(text).keywords).get_next_fire_time(None, FRIDAY)
    assert moment is not None
    assert moment.strftime("%Y-%m-%d %H:%M") == next_run


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("every night", "five fields"),
        ("30 3 * *", "five fields"),
        ("", "five fields"),
        ("60 3 * * *", "minute '60' is not in 0-59"),
        ("0 24 * * *", "hour '24'"),
        ("0 3 0 * *", "day '0'"),
        ("0 3 * 13 *", "month '13' is not in 1-12 or jan"),
        ("0 3 * * 8", "weekday '8'"),
        ("0 3 * * dienstag", "weekday 'dienstag'"),
        ("*/0 * * * *", "names nothing"),
        ("10-5 * * * *", "names nothing"),
        ("*-5 * * * *", "cannot be read"),
        ("1;2 * * * *", "cannot be read"),
        ("0 0 31 feb,apr *", "never comes"),
        ("0 0 1 * mon", "both set"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("*", r"\*")):
        parse_crontab(text)
