"""Names that cost a call: kept for a while, refreshed when they are old, empty rather than an error when the platform does not give them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from core.clock import Clock

_CAPACITY = 10_000


class NameCache:
    """A bounded cache with an age. ``max_age`` and ``retry_after`` (for a look-up that failed) in seconds."""

    def __init__(self, clock: Clock, max_age: float = 3600.0, retry_after: float = 60.0) -> None:
        self._clock, self._max_age, self._retry_after = clock, max_age, retry_after
        self._names: OrderedDict[Hashable, tuple[str, float]] = OrderedDict()

    async def get(self, key: Hashable, look_up: Callable[[], Awaitable[str]], failures: type[Exception]) -> str:
        """The name of ``key``; the last known one, or "", when ``look_up`` raises one of ``failures``."""
        known, until = self._names.get(key, ("", float("-inf")))
        if until > self._clock.monotonic():
            return known
        try:
            name, age = await look_up(), self._max_age
        except failures:
            name, age = known, self._retry_after
        self.put(key, name, age)
        return name

    def put(self, key: Hashable, name: str, age: float | None = None) -> None:
        self._names[key] = name, self._clock.monotonic() + (self._max_age if age is None else age)
        self._names.move_to_end(key)
        while len(self._names) > _CAPACITY:
            self._names.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Look it up again at the next use; until that succeeds the old name serves."""
        if key in self._names:
            self._names[key] = self._names[key][0], float("-inf")
