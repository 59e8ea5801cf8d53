"""The Feishu adapter: wires transport, names, lanes and sending behind :class:`core.ports.Adapter`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from adapters.aged_cache import AgedCache
from adapters.checks import Finding
from adapters.feishu import check, sdk
from adapters.feishu.events import PLATFORM, BotIdentity, GroupEvent, Ignored, Joined, Left, NewMessage, Renamed, parse_event
from adapters.feishu.lanes import Lanes, LanesClosed
from adapters.feishu.names import Names
from adapters.feishu.rest import ApiError, Rest
from adapters.feishu.sending import Sender
from adapters.feishu.supervisor import Supervisor
from core.clock import Clock, SystemClock
from core.config import FeishuSection
from core.errors import ConfigError, SendError
from core.messages import ConversationKey, Message, Recall
from core.ports import Capabilities, Health, MessageSink, OutgoingReply

if TYPE_CHECKING:
    from adapters.feishu.webhook import Webhook

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 5.0
ADMINS_AGE_SECONDS = 300.0
IDENTITY_RETRY_SECONDS = 60.0


class _Session:
    """What exists between start and stop."""

    def __init__(self, config: FeishuSection, clock: Clock, sink: MessageSink) -> None:
        self.sink = sink
        self.rest = Rest(config, clock)
        self.names = Names(self.rest, clock, config.names_max_age_seconds)
        self.admins: AgedCache[frozenset[str]] = AgedCache(clock, frozenset(), ADMINS_AGE_SECONDS)
        self.sender = Sender(self.rest, clock)
        self.lanes: Lanes[GroupEvent] = Lanes(self._handle, clock)
        self.transport: Supervisor | Webhook | None = None
        self.identifying: asyncio.Task[None] | None = None

    async def _handle(self, event: GroupEvent) -> None:
        match event:
            case NewMessage(message, names):
                await self.sink.message(await self._named(message, names))
            case Recall():
                await self.sink.recall(event)
            case Joined(conversation, chat_name):
                self.names.learn("chat", conversation.chat_id, chat_name)
                await self.sink.joined(conversation, chat_name)
            case Left(conversation):
                await self.sink.left(conversation)
            case Renamed(conversation, chat_name):
                self.names.learn("chat", conversation.chat_id, chat_name)

    async def _named(self, message: Message, names: Sequence[tuple[str, str]]) -> Message:
        """With the names of group and sender; of members of groups that are not collected nothing is looked up or kept."""
        if not self.sink.collects(message.conversation):
            return replace(message, chat_name=await self.names.chat(message.chat_id))
        for member, name in names:
            self.names.learn("member", member, name)
        chat_name, sender_name = await asyncio.gather(self.names.chat(message.chat_id), self.names.member(message.sender_id))
        return replace(message, chat_name=chat_name, sender_name=sender_name)


class FeishuAdapter:
    """One self-built app of Feishu or Lark. No work is done before :meth:`start`; after :meth:`stop` it may be started again."""

    platform = PLATFORM
    capabilities = Capabilities(reply_quotes=True, recalls=True, idempotent_send=True, mentions=True)

    def __init__(self, config: FeishuSection, clock: Clock | None = None) -> None:
        self._config, self._clock = config, clock or SystemClock()
        self._bot = BotIdentity(config.app_id)
        self._session: _Session | None = None
        self._last_event: float | None = None
        self.received = 0
        """Number of events off the wire."""
        self.ignored: Counter[str] = Counter()
        """Number of events that were acknowledged and went no further, by reason."""

    @property
    def bot_id(self) -> str:
        """open_id of the bot, "" until the platform has told it: what a mention of the bot looks like in ``Message.mentions``."""
        return self._bot.open_id

    @property
    def webhook_port(self) -> int:
        """Port on which webhook mode listens, 0 when it does not."""
        return getattr(self._session.transport, "port", 0) if self._session else 0

    async def start(self, sink: MessageSink) -> None:
        """Connect. Raises ConfigError for missing or refused credentials; a platform that cannot be reached is tried again in the background."""
        if self._session is not None:
            raise RuntimeError("the Feishu adapter is already started")
        require_credentials(self._config)
        session = self._session = _Session(self._config, self._clock, sink)
        try:
            await session.rest.in_thread(sdk.load)
            try:
                await session.rest.check_credentials()
            except ApiError as error:
                log.warning("feishu.not_reachable", problem=str(error))
            await self._open_transport(session)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take no more events, finish what is inside for at most 5 s, close. What was not stored is not acknowledged and comes again."""
        session, self._session = self._session, None
        if session is None:
            return

        async def drain() -> None:
            await session.lanes.close(DRAIN_SECONDS)

        if session.transport is not None:
            await session.transport.stop(drain)
        else:
            await drain()
        if session.identifying is not None:
            session.identifying.cancel()
            await asyncio.gather(session.identifying, return_exceptions=True)
        await session.names.close()
        await session.rest.close()

    async def send(self, reply: OutgoingReply) -> str:
        """Send, quoting ``reply_to``; the platform shows a repeated ``idempotency_key`` once within an hour. Raises SendError."""
        return await self._running().sender.send(reply)

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        """Take back a message of the bot. Raises SendError."""
        await self._running().sender.recall(conversation.chat_id, message_id)

    def health(self) -> Health:
        transport = self._session.transport if self._session else None
        age = None if self._last_event is None else self._clock.monotonic() - self._last_event
        if transport is None:
            return Health(False, "not started", age)
        return Health(transport.connected, getattr(transport, "detail", "listening"), age)

    async def chat_admins(self, conversation: ConversationKey) -> frozenset[str]:
        """See :class:`core.ports.ChatAdmins`: open_ids of the owner and the managers of a group. Needs the scope im:chat:readonly."""
        session = self._session
        if session is None:
            return frozenset()
        return await session.admins.get(conversation.chat_id, lambda: _chat_admins(session.rest, conversation.chat_id), ApiError)

    async def check(self) -> list[Finding]:
        """What works and what is missing, with remedies. Needs no start."""
        return await check.check(self._config, self._clock)

    async def groups(self) -> list[tuple[str, str]]:
        """Ids and names of the groups that the bot is in. Needs no start. Raises ConfigError for bad credentials, ApiError when the platform does not tell."""
        require_credentials(self._config)
        return await check.groups(self._config, self._clock)

    async def _open_transport(self, session: _Session) -> None:
        if self._config.mode == "webhook":
            from adapters.feishu.webhook import Webhook

            webhook = session.transport = Webhook(self._config, self._clock, self._deliver, session.lanes.room)
            await self._identify()
            await webhook.start()
            return
        supervisor = session.transport = Supervisor(self._config.app_id, session.rest, self._clock, self._deliver, session.lanes.room, self._identify)
        await supervisor.start()

    async def _identify(self) -> None:
        """Ask who the bot is, unless it is known: needed to tell its own messages and mentions from others'. What is not told now is asked for again, apart from the connection."""
        session = self._session
        if self._bot.open_id or session is None:
            return
        try:
            self._bot = replace(self._bot, open_id=await _bot_id(session.rest))
        except ApiError as error:
            log.warning("feishu.bot_unknown", problem=str(error), remedy="Enable the bot ability of the app and publish a version.")
            if session.identifying is None and self._session is session:  # it may have been stopped meanwhile
                session.identifying = asyncio.create_task(self._identify_later(session.rest), name="feishu-identity")

    async def _identify_later(self, rest: Rest) -> None:
        while not self._bot.open_id:
            await self._clock.sleep(IDENTITY_RETRY_SECONDS)
            with contextlib.suppress(ApiError):
                self._bot = replace(self._bot, open_id=await _bot_id(rest))

    async def _deliver(self, payload: bytes) -> None:
        """One event off the wire; returns when it is stored. The order of calls is kept: nothing is awaited before the event stands in its lane."""
        session = self._session
        if session is None:
            raise LanesClosed
        self._last_event = self._clock.monotonic()
        self.received += 1
        try:
            decoded = json.loads(payload)
        except (ValueError, RecursionError):
            decoded = None
        event = parse_event(decoded, self._bot, self._clock.now())
        if isinstance(event, Ignored):
            self.ignored[event.value] += 1
            log.debug("feishu.ignored", reason=event.value)
            return
        await session.lanes.submit(event.conversation, event)

    def _running(self) -> _Session:
        if self._session is None:
            raise SendError(PLATFORM, "the adapter is not started")
        return self._session


async def _bot_id(rest: Rest) -> str:
    """The bot's open_id. Raises ApiError."""
    answer = await rest.call("GET", "/open-apis/bot/v3/info")
    return str((answer.get("bot") or {}).get("open_id") or "")


async def _chat_admins(rest: Rest, chat_id: str) -> frozenset[str]:
    """The owner (whom the platform does not tell where it is a bot) and the managers. Raises ApiError."""
    answer = await rest.call("GET", "/open-apis/im/v1/chats/:chat_id", paths={"chat_id": chat_id}, queries=[("user_id_type", "open_id")])
    data = answer.get("data") or {}
    managers = data.get("user_manager_id_list")
    found = [data.get("owner_id"), *(managers if isinstance(managers, list) else [])]
    return frozenset(admin for admin in found if isinstance(admin, str) and admin)


def require_credentials(config: FeishuSection) -> None:
    """Raises ConfigError for what can be seen without asking the platform."""
    where = "Copy it from the app's page 'Credentials & Basic Info' (凭证与基础信息) in the developer console."
    if not config.app_id:
        raise ConfigError("feishu", "app_id", None, "missing", where)
    if not config.app_secret.get_secret_value():
        raise ConfigError("feishu", "app_secret", None, "missing", where)
    parts = urlsplit(config.domain)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme not in ("https", "http") or not parts.hostname or (parts.scheme == "http" and not local) or parts.path.strip("/"):
        raise ConfigError("feishu", "domain", config.domain, "not an https origin", "Use https://open.feishu.cn, or https://open.larksuite.com for Lark.")
