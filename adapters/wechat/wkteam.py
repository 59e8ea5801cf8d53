"""WeChat through wkteam, a commercial gateway: it POSTs call-backs to us and sends by its HTTP API."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import structlog

from adapters.aged_cache import AgedCache
from adapters.wechat.callbacks import BadCallbackError, Respond
from adapters.wechat.gateway import GatewayAdapter
from adapters.wechat.payloads import MENTION_SEPARATOR, PLATFORM
from adapters.wechat.recent import Recent
from adapters.wechat.wkteam_api import WkteamApi, WkteamError
from adapters.wechat.wkteam_payloads import parse_callback
from core.clock import Clock
from core.config import WechatSection
from core.errors import SendError
from core.messages import ConversationKey, Message, Recall
from core.ports import Capabilities, Health, OutgoingReply

log = structlog.get_logger(__name__)

_NAME_AGE_SECONDS = 6 * 3600.0  # each look-up is a call on the member's account: few are better
_NAME_RETRY_SECONDS = 600.0
_NAME_DEADLINE_SECONDS = 3.0
_OFFLINE = "4"  # messageType of the native format: the account was logged out
_REMEMBERED_SENDS = 1000


class WkteamAdapter(GatewayAdapter):
    """The Adapter port over wkteam. Without ``[wechat] endpoint`` it only listens."""

    capabilities = Capabilities(recalls=True, mentions=True)

    def __init__(self, config: WechatSection, clock: Clock | None = None) -> None:
        super().__init__(config, clock)
        self._api, self._lookups = WkteamApi(config), WkteamApi(config, _NAME_DEADLINE_SECONDS)
        self._names = AgedCache(self._clock, "", _NAME_AGE_SECONDS, _NAME_RETRY_SECONDS)
        self._sent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._others = Recent(100)
        self._offline = False

    async def stop(self) -> None:
        await super().stop()
        await self._api.close()
        await self._lookups.close()

    async def send(self, reply: OutgoingReply) -> str:
        group, text = reply.conversation.chat_id, reply.text
        self._require_running()
        mentions: tuple[str, ...] = ()
        if reply.mention and (name := await self._member_name(group, reply.mention)):
            text, mentions = f"@{name}{MENTION_SEPARATOR}{text}", (reply.mention,)
        self._require_running()  # asked again: the adapter may have stopped during the look-up
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

    def _require_running(self) -> None:
        if self._server.address is None:
            raise SendError(PLATFORM, "the adapter is not running", retry_after=5.0)

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        if (sent := self._sent.get(message_id)) is None:
            raise SendError(PLATFORM, "only messages sent since the start can be recalled", permanent=True)
        try:
            await self._api.recall(conversation.chat_id, sent)
        except WkteamError as error:
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error

    def health(self) -> Health:
        state = super().health()
        return replace(state, connected=False, detail="the WeChat account was logged out at wkteam") if state.connected and self._offline else state

    async def _answer(self, value: dict[str, Any], respond: Respond) -> None:
        if "messageType" not in value:
            raise BadCallbackError("messageType is missing")
        if self._is_anothers(value):
            await respond("done")
            return
        self._offline = str(value["messageType"]) == _OFFLINE
        data = value.get("data")
        if isinstance(data, dict) and isinstance(data.get("wId"), str):
            self._api.learn_instance(data["wId"])
            self._lookups.learn_instance(data["wId"])
        event = parse_callback(value, self._config.wcid, received_at=self._clock.now())
        if event is not None:
            await self._locks.run(event.chat_id, lambda: self._pass_on(event))
        await respond("done")

    def _is_anothers(self, value: dict[str, Any]) -> bool:
        """All WeChat accounts that are logged in at wkteam share one call-back URL: the groups of the others are none of ours, and their login must not send for us."""
        account = value.get("wcId")
        if not self._config.wcid or not isinstance(account, str) or account in ("", self._config.wcid):
            return False
        if account not in self._others:
            self._others.add(account)
            log.warning("wechat.other_account", account=account, remedy="its call-backs are dropped; if it is the bot's own, set [wechat] wcid to it")
        return True

    async def _pass_on(self, event: Message | Recall) -> None:
        assert self._sink is not None
        if isinstance(event, Recall):
            await self._sink.recall(event)
        else:
            await self._sink.message(await self._named(event))

    async def _named(self, message: Message) -> Message:
        chat_name = await self._group_name(message.chat_id)
        self._groups[message.chat_id] = chat_name
        sender_name = message.sender_name
        if not sender_name and self._sink is not None and self._sink.collects(message.conversation):
            sender_name = await self._member_name(message.chat_id, message.sender_id)
        return replace(message, chat_name=chat_name, sender_name=sender_name)

    async def _group_name(self, group: str) -> str:
        return await self._names.get(group, lambda: self._lookups.name(group), WkteamError)

    async def _member_name(self, group: str, wcid: str) -> str:
        return await self._names.get((group, wcid), lambda: self._lookups.member_name(group, wcid), WkteamError)
