"""What the providers share that call us by HTTP: a server, one call at a time for each group, health by the last call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from adapters.checks import Finding
from adapters.wechat.callbacks import CallbackServer, Respond, RoomLocks
from adapters.wechat.payloads import PLATFORM
from core.clock import Clock, SystemClock
from core.config import WechatSection
from core.messages import ConversationKey
from core.ports import Capabilities, Health, MessageSink, OutgoingReply


class GatewayAdapter(ABC):
    """The Adapter port over call-backs, but for sending. Subclasses answer them."""

    platform = PLATFORM
    capabilities = Capabilities()

    def __init__(self, config: WechatSection, clock: Clock | None = None) -> None:
        self._config, self._clock = config, clock or SystemClock()
        self._server = CallbackServer(config, self._called, self._clock)
        self._locks = RoomLocks()
        self._sink: MessageSink | None = None
        self._groups: dict[str, str] = {}
        self._last_event: float | None = None

    @property
    def bot_id(self) -> str:
        """``[wechat] wcid``: the bot's account, as the provider names senders."""
        return self._config.wcid

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the call-back server, None when not running."""
        return self._server.address

    async def start(self, sink: MessageSink) -> None:
        self._sink = sink
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    @abstractmethod
    async def send(self, reply: OutgoingReply) -> str:
        """See :class:`core.ports.Adapter`."""

    @abstractmethod
    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        """See :class:`core.ports.Adapter`."""

    def health(self) -> Health:
        age = None if self._last_event is None else self._clock.monotonic() - self._last_event
        running = self._server.address is not None
        return Health(running, "" if running else "not listening", age)

    async def groups(self) -> list[tuple[str, str]]:
        """(group id, name) of the groups that were heard of since the start: these providers list none."""
        return list(self._groups.items())

    async def check(self) -> list[Finding]:
        """What works and what is missing, with remedies. Needs no start; a running bot holds its own port."""
        from adapters.wechat.checking import check

        return await check(self._config)

    async def _called(self, value: dict[str, Any], respond: Respond) -> None:
        self._last_event = self._clock.monotonic()
        await self._answer(value, respond)

    @abstractmethod
    async def _answer(self, value: dict[str, Any], respond: Respond) -> None:
        """Take one call-back and ``respond`` when it is taken. Raises BadCallbackError, and what the sink raises."""
