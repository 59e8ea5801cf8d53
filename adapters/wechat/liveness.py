"""Whether a connection to a puppet service is alive: a black hole keeps TCP open for minutes, and takes what is sent into it."""

from __future__ import annotations

import uuid

import structlog

from adapters.wechat.puppet import PuppetClient, PuppetError
from core.clock import Clock

log = structlog.get_logger(__name__)


class Liveness:
    """Signs of life of one connection after another. One that was silent for ``probe_after`` seconds is asked for a sign, and given ``probe_grace`` seconds."""

    def __init__(self, clock: Clock, probe_after: float, probe_grace: float) -> None:
        self._clock, self._probe_after, self._probe_grace = clock, probe_after, probe_grace
        self._last_sign, self._answers_ding = 0.0, False
        #: A reply was not answered, and no sign of life came since: another one would be in doubt too.
        self.in_doubt = False

    def sign(self, *, dong: bool = False) -> None:
        """The connection is new, or gave a sign of life; ``dong``: the answer to a ding."""
        self._last_sign, self.in_doubt = self._clock.monotonic(), False
        self._answers_ding = self._answers_ding or dong

    async def watch(self, client: PuppetClient) -> None:
        """Return never; raise PuppetError when the connection gives no sign of life."""
        await _ding(client)  # at once: whether this service answers by a dong has to be known before its stream falls silent
        while True:
            sign = self._last_sign
            left = self._probe_after - (self._clock.monotonic() - sign)
            if left > 0:
                await self._clock.sleep(left)
                continue
            await _ding(client)
            await self._clock.sleep(self._probe_grace)
            if self._last_sign == sign:
                # A service that never answered a ding by a dong is alive when it takes the call.
                if self._answers_ding:
                    raise PuppetError(f"no sign of life for {self._clock.monotonic() - sign:.0f} s")
                self.sign()


async def _ding(client: PuppetClient) -> None:
    try:
        await client.ding(uuid.uuid4().hex)
    except PuppetError as error:
        if not error.permanent:
            raise
        log.debug("wechat.ding_refused", reason=error.problem)  # a refusal is an answer: the line is alive
