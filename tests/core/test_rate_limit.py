from __future__ import annotations

from datetime import UTC, datetime, timedelta

from core.rate_limit import HourlyLimits

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_the_window_slides() -> None:
    limits = HourlyLimits()
    taken = [limits.take(at(minute), {"g": 2}) for minute in (0, 30, 45, 59.9, 60, 61, 90)]
    assert taken == [True, True, False, False, True, False, True]


def test_all_keys_need_room_and_none_is_charged_for_a_refusal() -> None:
    limits = HourlyLimits()
    assert limits.take(at(0), {"g": 5, "a": 1})
    assert not limits.take(at(1), {"g": 5, "a": 1})
    assert limits.count(at(1), "g") == 1
    assert limits.take(at(1), {"g": 5, "b": 1})


def test_zero_is_none_and_what_is_given_back_is_free() -> None:
    limits = HourlyLimits()
    assert not limits.take(at(0), {"g": 0})
    assert limits.take(at(0), {"h": 1})
    limits.give_back(at(0), "h", "never-taken")
    assert limits.take(at(1), {"h": 1})


def test_quiet_keys_are_forgotten() -> None:
    limits = HourlyLimits()
    for number in range(1000):
        limits.take(at(0), {number: 1})
    limits.take(at(120), {"g": 1})
    assert [limits.count(at(120), number) for number in range(3)] == [0, 0, 0]
    assert len(limits) == 1


def test_a_clock_that_was_a_day_ahead_silences_nobody_when_it_is_set_right() -> None:
    limits = HourlyLimits()
    assert limits.take(at(24 * 60), {"g": 1})
    assert limits.take(at(0), {"g": 1})
    assert not limits.take(at(1), {"g": 1})
    assert limits.take(at(60), {"g": 1})


def test_a_clock_that_is_set_back_a_little_gives_no_second_reply_and_silences_for_two_hours_at_most() -> None:
    limits = HourlyLimits()
    assert limits.take(at(30), {"g": 1})
    assert [limits.take(at(minute), {"g": 1}) for minute in (0, 30, 90)] == [False, False, True]
