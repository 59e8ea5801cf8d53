"""WeChat through wkteam, a commercial gateway: it POSTs call-backs to us and sends by its HTTP API."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import structlog

from adapters.aged_cache import AgedCache
from adapters.checks import Finding
from adapters.wechat.callbacks import BadCallbackError, CallbackServer, Respond, RoomLocks
from adapters.wechat.payloads import MENTION_SEPARATOR, PLATFORM
from adapters.wechat.wkteam_api import WkteamApi, WkteamError
from adapters.wechat.wkteam_payloads import parse_callback
from core.clock import Clock, SystemClock
from core.config import WechatSection
from core.errors import SendError
from core.messages import ConversationKey, Message, Recall
from core.ports import Capabilities, Health, MessageSink, OutgoingReply

log = structlog.get_logger(__name__)

_NAME_AGE_SECONDS = 6 * 3600.0  # each look-up is a call on the member's account: few are better
_NAME_RETRY_SECONDS = 600.0
_NAME_DEADLINE_SECONDS = 3.0
_OFFLINE = "4"  # messageType of the native format: the account was logged out
_REMEMBERED_SENDS = 1000


class WkteamAdapter:
    """The Adapter port over wkteam. Without ``[wechat] endpoint`` it only listens."""

    platform = PLATFORM
    capabilities = Capabilities(recalls=True, mentions=True)

    def __init__(self, config: WechatSection, clock: Clock | None = None) -> None:
        self._config, self._clock = config, clock or SystemClock()
        self._server = CallbackServer(config, self._answer, self._clock)
        self._api, self._lookups = WkteamApi(config), WkteamApi(config, _NAME_DEADLINE_SECONDS)
        self._names = AgedCache(self._clock, "", _NAME_AGE_SECONDS, _NAME_RETRY_SECONDS)
        self._locks = RoomLocks()
        self._sink: MessageSink | None = None
        self._sent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._groups: dict[str, str] = {}
        self._last_event: float | None = None
        self._offline = False

    @property
    def bot_id(self) -> str:
        """``[wechat] wcid``: the bot's account."""
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
        await self._api.close()
        await self._lookups.close()

    async def send(self, reply: OutgoingReply) -> str:
        group, text = reply.conversation.chat_id, reply.text
        if self._server.address is None:
            raise SendError(PLATFORM, "the adapter is not running", retry_after=5.0)
        mentions: tuple[str, ...] = ()
        if reply.mention and (name := await self._member_name(group, reply.mention)):
            text, mentions = f"@{name}{MENTION_SEPARATOR}{text}", (reply.mention,)
        try:
            sent = await self._api.send_text(group, text, mentions)
        except WkteamError as error:
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error
        message_id = str(sent.get("newMsgId") or "")
        if message_id:
            self._sent[message_id] = sent
            if len(self._sent) > _REMEMBERED_SENDS:
                self._sent.popitem(last=False)
        return message_id

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        if (sent := self._sent.get(message_id)) is None:
            raise SendError(PLATFORM, "only messages sent since the start can be recalled", permanent=True)
        try:
            await self._api.recall(conversation.chat_id, sent)
        except WkteamError as error:
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error

    def health(self) -> Health:
        age = None if self._last_event is None else self._clock.monotonic() - self._last_event
        if self._server.address is None:
            return Health(False, "not listening", age)
        return Health(not self._offline, "the WeChat account was logged out at wkteam" if self._offline else "", age)

    async def groups(self) -> list[tuple[str, str]]:
        """(group id, name) of the groups that were heard of since the start."""
        return list(self._groups.items())

    async def check(self) -> list[Finding]:
        """What works and what is missing, with remedies. Needs no start; a running bot holds its own port."""
        from adapters.wechat.checking import check

        return await check(self._config)

    async def _answer(self, value: dict[str, Any], respond: Respond) -> None:
        if "messageType" not in value:
            raise BadCallbackError("messageType is missing")
        self._last_event = self._clock.monotonic()
        self._offline = str(value["messageType"]) == _OFFLINE
        data = value.get("data")
        if isinstance(data, dict) and isinstance(data.get("wId"), str):
            self._api.learn_instance(data["wId"])
            self._lookups.learn_instance(data["wId"])
        event = parse_callback(value, self._config.wcid, received_at=self._clock.now())
        if event is not None:
            await self._locks.run(event.chat_id, lambda: self._pass_on(event))
        await respond("done")

    async def _pass_on(self, event: Message | Recall) -> None:
        assert self._sink is not None
        if isinstance(event, Recall):
            await self._sink.recall(event)
        else:
            await self._sink.message(await self._named(event))

    async def _named(self, message: Message) -> Message:
        chat_name = await self._group_name(message.chat_id)
        self._groups[message.chat_id] = chat_name
        sender_name = message.sender_name or await self._member_name(message.chat_id, message.sender_id)
        return replace(message, chat_name=chat_name, sender_name=sender_name)

    async def _group_name(self, group: str) -> str:
        return await self._names.get(group, lambda: self._lookups.name(group), WkteamError)

    async def _member_name(self, group: str, wcid: str) -> str:
        return await self._names.get((group, wcid), lambda: self._lookups.member_name(group, wcid), WkteamError)
