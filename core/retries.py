"""When questions whose model failed are tried again."""

from __future__ import annotations

import asyncio

from core.clock import Clock

#: Seconds until the first further attempt, and the most that they grow to by doubling: a question that no model can take costs one call in ten minutes.
FIRST_WAIT = 30.0
LONGEST_WAIT = 600.0


class RetrySchedule:
    """Ids with the times at which they are due again.

    A wait that the back end names (it is left alone, or asks for patience) is taken as it is and does not count as an attempt.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._attempts: dict[str, int] = {}
        self._changed = asyncio.Event()

    def failed(self, identity: str, retry_after: float | None) -> None:
        """Try ``identity`` again after ``retry_after`` seconds, or after a wait that doubles from attempt to attempt."""
        attempts = self._attempts.setdefault(identity, 0)
        if retry_after is None:
            self._attempts[identity] = attempts + 1
        wait = min(FIRST_WAIT * 2.0 ** min(attempts, 20), LONGEST_WAIT) if retry_after is None else retry_after
        self._due[identity] = self._clock.monotonic() + wait
        self._changed.set()

    def succeeded(self, identity: str) -> None:
        """Forget ``identity``."""
        self._attempts.pop(identity, None)

    def has_failed(self, identity: str) -> bool:
        """Whether ``identity`` failed before and did not succeed since."""
        return identity in self._attempts

    async def next(self) -> set[str]:
        """Wait until some are due, and take them out of the schedule."""
        while True:
            now = self._clock.monotonic()
            due = {identity for identity, at in self._due.items() if at <= now}
            if due:
                for identity in due:
                    del self._due[identity]
                return due
            self._changed.clear()
            await self._until(min(self._due.values(), default=None))

    async def _until(self, time: float | None) -> None:
        """Return at ``time``, or when a failure was added: it may be due earlier."""
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._changed.wait())]
        if time is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(time - self._clock.monotonic())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
