"""Crontab text, as in ``30 3 * * *``: five fields, minute, hour, day of the month, month, day of the week.

As in cron, Sunday is 0 or 7 (the scheduler's own reading counts from Monday), and names of three letters stand for months and weekdays. Parsed here, so that a config is checked
without importing a scheduler.
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from dataclasses import dataclass

_MONTHS = tuple(name.lower() for name in calendar.month_abbr[1:])
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]+))?")
_LONGEST_MONTH = {month: calendar.monthrange(2024, month)[1] for month in range(1, 13)}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def parse(self, text: str) -> tuple[int, ...]:
        found: set[int] = set()
        for item in text.split(","):
            match = _ITEM.fullmatch(item)
            if match is None or (match[1] == "*" and match[2]):
                raise ValueError(f"{self.name} {item!r} cannot be read")
            first, last, step = match.groups()
            low = self.low if first == "*" else self._number(first)
            high = self._number(last) if last else (self.high if first == "*" or step else low)
            if low > high or (step and int(step) == 0):
                raise ValueError(f"{self.name} {item!r} names nothing")
            found.update(range(low, high + 1, int(step or 1)))
        return tuple(sorted(found))

    def _number(self, text: str) -> int:
        value = self.low + self.names.index(text) if text in self.names else int(text) if text.isdigit() else -1
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} {text!r} is not in {self.low}-{self.high}" + (f" or {', '.join(self.names)}" if self.names else ""))
        return value


_FIELDS = (_Field("minute", 0, 59), _Field("hour", 0, 23), _Field("day", 1, 31), _Field("month", 1, 12, _MONTHS), _Field("weekday", 0, 7, _WEEKDAYS))


@dataclass(frozen=True, slots=True)
class Crontab:
    """The moments that a crontab text names, as sorted numbers; ``weekdays``: 0 is Sunday."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    @property
    def keywords(self) -> dict[str, str]:
        """As keyword arguments of APScheduler's ``CronTrigger``."""
        numbers = {"minute": self.minutes, "hour": self.hours, "day": self.days, "month": self.months}
        return {**{name: ",".join(map(str, values)) for name, values in numbers.items()}, "day_of_week": ",".join(_WEEKDAYS[day] for day in self.weekdays)}


def parse_crontab(text: str) -> Crontab:
    """Raises ValueError with a text for people."""
    fields = unicodedata.normalize("NFKC", text).lower().split()  # a Chinese keyboard gives "＊"
    if len(fields) != len(_FIELDS):
        raise ValueError("expected five fields, minute hour day month weekday, such as 30 3 * * * for half past three each night")
    minutes, hours, days, months, weekdays = (field.parse(value) for field, value in zip(_FIELDS, fields, strict=True))
    if fields[2] != "*" and fields[4] != "*":
        raise ValueError("day and weekday are both set; set one of them and the other to *")
    if all(days[0] > _LONGEST_MONTH[month] for month in months):
        raise ValueError("such a day never comes")
    return Crontab(minutes, hours, days, months, tuple(sorted({day % 7 for day in weekdays})))
