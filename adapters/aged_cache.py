"""What costs a call of a platform: kept for a while, asked for again when it is old, the last known or nothing rather than an error when the platform does not tell."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from core.clock import Clock

V = TypeVar("V")

_CAPACITY = 10_000


class AgedCache(Generic[V]):
    """A bounded cache with an age. ``empty`` stands for what was never told; ``max_age`` and ``retry_after`` (for a look-up that failed) in seconds."""

    def __init__(self, clock: Clock, empty: V, max_age: float = 3600.0, retry_after: float = 60.0) -> None:
        self._clock, self._empty, self._max_age, self._retry_after = clock, empty, max_age, retry_after
        self._values: OrderedDict[Hashable, tuple[V, float]] = OrderedDict()

    async def get(self, key: Hashable, look_up: Callable[[], Awaitable[V]], failures: type[Exception]) -> V:
        """The value of ``key``; the last known one, or ``empty``, when ``look_up`` raises one of ``failures``."""
        known, until = self._values.get(key, (self._empty, float("-inf")))
        if until > self._clock.monotonic():
            return known
        try:
            value, age = await look_up(), self._max_age
        except failures:
            value, age = known, self._retry_after
        self.put(key, value, age)
        return value

    def put(self, key: Hashable, value: V, age: float | None = None) -> None:
        self._values[key] = value, self._clock.monotonic() + (self._max_age if age is None else age)
        self._values.move_to_end(key)
        while len(self._values) > _CAPACITY:
            self._values.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Look it up again at the next use; until that succeeds the old value serves."""
        if key in self._values:
            self._values[key] = self._values[key][0], float("-inf")
