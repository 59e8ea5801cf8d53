"""Hourly limits on a sliding window, in memory; seeded from a durable log they outlive a restart."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from datetime import datetime, timedelta

HOUR = timedelta(hours=1)


class HourlyLimits:
    """Counts what happened to each key in the last hour."""

    def __init__(self) -> None:
        self._times: dict[Hashable, deque[datetime]] = {}
        self._swept: datetime | None = None

    def note(self, at: datetime, *keys: Hashable) -> None:
        """Something happened at ``at``; times are given in ascending order."""
        for key in keys:
            self._times.setdefault(key, deque()).append(at)

    def take(self, now: datetime, limits: Mapping[Hashable, int]) -> bool:
        """True, and noted for every key, when each key of ``limits`` has room for one more in this hour; else False, and nothing is noted."""
        self._sweep(now)
        if any(self.count(now, key) >= most for key, most in limits.items()):
            return False
        self.note(now, *limits)
        return True

    def give_back(self, at: datetime, *keys: Hashable) -> None:
        """What was taken at ``at`` did not happen."""
        for key in keys:
            times = self._times.get(key)
            if times is not None and at in times:
                times.remove(at)

    def count(self, now: datetime, key: Hashable) -> int:
        """How often ``key`` was noted in the hour before ``now``."""
        times = self._times.get(key)
        if times is None:
            return 0
        while times and times[0] <= now - HOUR:
            times.popleft()
        while times and times[-1] > now + HOUR:  # the clock was wrong, and was set right since
            times.pop()
        return len(times)

    def _sweep(self, now: datetime) -> None:
        """Once an hour forget the keys that are quiet: members come and go."""
        if self._swept is not None and abs(now - self._swept) < HOUR:
            return
        self._swept = now
        for key in list(self._times):
            if self.count(now, key) == 0:
                del self._times[key]

    def __len__(self) -> int:
        """Number of keys that are remembered."""
        return len(self._times)
