"""WeChat through a puppet service: a supervisor around :class:`adapters.wechat.puppet.PuppetClient` that keeps one live connection and turns its events into core messages."""

from __future__ import annotations

import asyncio
import functools
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import structlog

from adapters.aged_cache import AgedCache
from adapters.checks import Finding
from adapters.wechat.delivery import Intake, RoomQueues, cancel, first_of
from adapters.wechat.liveness import Liveness
from adapters.wechat.payloads import MENTION_SEPARATOR, PLATFORM, RECALLED, RawMessage, kind_of, quote_in, recalled_id, sent_at, shown_text, without_mention
from adapters.wechat.puppet import Deadlines, EventKind, PuppetClient, PuppetError, PuppetEvent, endpoint_of
from adapters.wechat.puppet_names import PuppetNames
from adapters.wechat.qr import show_qr_code
from adapters.wechat.recent import Recent
from core.clock import Clock, SystemClock
from core.config import WechatSection
from core.errors import ConfigError, SendError, StorageError
from core.messages import ConversationKey, Message, MessageKind, Recall
from core.ports import Capabilities, Health, MessageSink, OutgoingReply

log = structlog.get_logger(__name__)

_ADMINS_AGE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A connection silent for ``probe_after`` is asked for a sign of life and given ``probe_grace``; messages wait at most ``login_wait`` for the bot's own id."""

    probe_after: float = 30.0
    probe_grace: float = 15.0
    login_wait: float = 10.0
    first_retry: float = 1.0
    longest_retry: float = 60.0
    settled_after: float = 60.0
    drain: float = 5.0


class WechatyAdapter:
    """The Adapter port over a puppet service. ``terminal`` shows the login QR code."""

    platform = PLATFORM
    capabilities = Capabilities(recalls=True, mentions=True)

    def __init__(
        self, config: WechatSection, clock: Clock | None = None, *, timing: Timing | None = None, deadlines: Deadlines | None = None, terminal: TextIO | None = None
    ) -> None:
        self._config, self._clock = config, clock or SystemClock()
        self._timing, self._deadlines, self._terminal = timing or Timing(), deadlines or Deadlines(), terminal
        self._names = PuppetNames(self._clock, self._connected)
        self._admins: AgedCache[frozenset[str]] = AgedCache(self._clock, frozenset(), _ADMINS_AGE_SECONDS)
        self._rooms = RoomQueues(self._clock)
        self._intake: Intake[RawMessage] = Intake(self._note, self._fetch, self._hand, self._clock)
        self._sent, self._seen = Recent(1000), Recent(5000)
        self._sink: MessageSink | None = None
        self._client: PuppetClient | None = None
        self._line = Liveness(self._clock, self._timing.probe_after, self._timing.probe_grace)
        self._supervisor: asyncio.Task[None] | None = None
        self._identity: asyncio.Task[None] | None = None
        self._attempted, self._logged_in = asyncio.Event(), asyncio.Event()
        self._self_id = config.wcid
        self._first_error: PuppetError | None = None
        self._last_event: float | None = None
        self._stopping = False
        self._shown_code = ""
        self._detail = "not started"

    @property
    def bot_id(self) -> str:
        """The account's contact id: ``[wechat] wcid``, or what the login event told."""
        return self._self_id

    async def start(self, sink: MessageSink) -> None:
        endpoint_of(self._config)
        self._sink, self._stopping, self._first_error = sink, False, None
        self._attempted.clear()
        if self._self_id:
            self._logged_in.set()
        self._intake.start()
        self._supervisor = asyncio.create_task(self._supervise(), name="wechaty-supervisor")
        await self._attempted.wait()
        if self._refused():
            await self.stop()
            raise ConfigError("wechat", "token", None, "the puppet service does not accept it", "Get a valid token from the provider of the puppet service.")

    def _refused(self) -> bool:
        return self._first_error is not None and self._first_error.unauthenticated

    async def stop(self) -> None:
        if self._supervisor is None:
            return
        self._stopping = True
        await self._intake.drain(self._timing.drain)
        await self._rooms.drain(self._timing.drain)
        supervisor, self._supervisor = self._supervisor, None
        await cancel(supervisor, *([self._identity] if self._identity else []))
        self._identity, self._detail = None, "stopped"

    async def send(self, reply: OutgoingReply) -> str:
        room_id = reply.conversation.chat_id
        self._live_client()
        text = reply.text
        mention_ids: tuple[str, ...] = ()
        if reply.mention:
            name = await self._names.member(room_id, reply.mention)
            text, mention_ids = (f"@{name}{MENTION_SEPARATOR}{text}", (reply.mention,)) if name else (text, ())
        client = self._live_client()  # asked again: the connection may have ended during the look-up, and a closed one would silently open another
        # Remembered before it is sent: the echo may be faster than the answer to the call.
        self._sent.add((room_id, text))
        try:
            message_id = await client.send_text(room_id, text, mention_ids)
        except PuppetError as error:
            if error.late and client is self._client:
                self._line.in_doubt = True
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error
        self._sent.add(message_id)
        return message_id

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        try:
            recalled = await self._live_client().recall(message_id)
        except PuppetError as error:
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error
        if not recalled:
            raise SendError(PLATFORM, "WeChat did not recall the message (only the first two minutes allow it)", permanent=True)

    def health(self) -> Health:
        age = None if self._last_event is None else self._clock.monotonic() - self._last_event
        dropped = {"payload_missing": self._intake.dropped, "not_stored": self._rooms.dropped}
        return Health(self._client is not None and not self._detail, self._detail, age, self._intake.waiting + self._rooms.waiting, dropped)

    async def groups(self) -> list[tuple[str, str]]:
        """(room id, topic) of each room of the account. Needs no start. Raises ConfigError for a bad endpoint, SendError when the service does not tell."""
        try:
            async with self._any_client() as client:
                return [(room_id, await self._names.topic(room_id, client)) for room_id in await client.room_ids()]
        except PuppetError as error:
            raise SendError(PLATFORM, error.problem, permanent=error.permanent, retry_after=error.retry_after) from error

    async def chat_admins(self, conversation: ConversationKey) -> frozenset[str]:
        """See :class:`core.ports.ChatAdmins`: the owner of the room, and its admins where the service tells them."""
        return await self._admins.get(conversation.chat_id, lambda: self._connected().room_admins(conversation.chat_id), PuppetError)

    async def check(self) -> list[Finding]:
        """What works and what is missing, with remedies. Needs no start and does not disturb a running bot."""
        from adapters.wechat.checking import check

        return await check(self._config)

    def _live_client(self) -> PuppetClient:
        if self._client is None or self._stopping:
            raise SendError(PLATFORM, f"no connection to the puppet service ({self._detail})", retry_after=self._timing.first_retry)
        if self._line.in_doubt:  # a second reply into a dead line would be in doubt a second time, and given up
            raise SendError(PLATFORM, "no sign of life since a reply was not answered", retry_after=self._timing.first_retry)
        return self._client

    @asynccontextmanager
    async def _any_client(self) -> AsyncIterator[PuppetClient]:
        if self._client is not None:
            yield self._client
            return
        client = PuppetClient(*endpoint_of(self._config), self._config.token.get_secret_value(), self._deadlines)
        try:
            await client.connect(start=False)
            yield client
        finally:
            await client.close()

    # -- the connection

    async def _supervise(self) -> None:
        failures = 0
        while True:
            begun = self._clock.monotonic()
            try:
                await self._session()
                self._detail = "the puppet service ended the event stream"
            except PuppetError as error:
                self._detail = error.problem
                if not self._attempted.is_set():
                    self._first_error = error
            except Exception as error:  # wechaty and its stubs may raise anything; a dead supervisor would be a silent bot
                self._detail = f"unexpected {type(error).__name__} of the wechaty client"
                log.error("wechat.session_failed", error=type(error).__name__)
                log.debug("wechat.session_failed", exc_info=True)
            self._attempted.set()
            failures = 1 if self._clock.monotonic() - begun > self._timing.settled_after else failures + 1
            # Jitter: after an outage of the service not all its clients come back in the same second.
            pause = min(self._timing.longest_retry, self._timing.first_retry * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)
            log.warning("wechat.disconnected", reason=self._detail, retry_in=round(pause, 1))
            await self._clock.sleep(pause)

    async def _session(self) -> None:
        """One connection from connect to end. Raises PuppetError when it broke; returns when the service ended it."""
        client = PuppetClient(*endpoint_of(self._config), self._config.token.get_secret_value(), self._deadlines)
        try:
            await client.connect()
            self._client, self._detail = client, ""
            self._line.sign()
            self._attempted.set()
            log.info("wechat.connected")
            await self._take_up()
            works = [asyncio.create_task(self._listen(client), name="wechaty-events"), asyncio.create_task(self._line.watch(client), name="wechaty-liveness")]
            try:
                done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel(*works)
            for work in done:
                work.result()
        finally:
            self._client = None
            await client.close(stop=self._stopping)

    async def _listen(self, client: PuppetClient) -> None:
        async for event in client.events():
            self._last_event = self._clock.monotonic()
            self._line.sign(dong=event.kind == EventKind.DONG)
            try:
                await self._on_event(event)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("wechat.bad_event", kind=event.kind, error=type(error).__name__)
            if event.kind == EventKind.RESET:
                return

    async def _on_event(self, event: PuppetEvent) -> None:
        match event.kind:
            case EventKind.MESSAGE if self._stopping:
                await self._note(_required(event, "messageId"))  # for the next start: the service does not name it again
            case _ if self._stopping:
                return
            case EventKind.MESSAGE:
                self._intake.submit(_required(event, "messageId"))
            case EventKind.LOGIN:
                self._on_login(_required(event, "contactId"))
            case EventKind.LOGOUT:
                self._detail = "logged out of WeChat"
                log.warning("wechat.logged_out")
            case EventKind.SCAN:
                self._on_scan(event.data)
            case EventKind.ROOM_TOPIC:
                self._names.renamed(_required(event, "roomId"), event.data.get("newTopic"))
            case EventKind.ROOM_JOIN | EventKind.ROOM_LEAVE:
                self._on_members(event)
            case EventKind.DIRTY:
                self._names.renamed(str(event.data.get("payloadId")), None)
                self._admins.forget(str(event.data.get("payloadId")))

    def _on_login(self, contact_id: str) -> None:
        self._self_id, self._detail, self._shown_code = contact_id, "", ""
        self._logged_in.set()
        log.info("wechat.logged_in")

    def _on_scan(self, data: dict[str, Any]) -> None:
        code = str(data.get("qrcode") or "")
        if code and code != self._shown_code:
            self._shown_code, self._detail = code, "waiting for the QR code to be scanned"
            show_qr_code(code, self._terminal or sys.stdout)

    def _on_members(self, event: PuppetEvent) -> None:
        room_id = _required(event, "roomId")
        joined = event.kind == EventKind.ROOM_JOIN
        members = event.data.get("inviteeIdList" if joined else "removeeIdList") or []
        self._rooms.submit(room_id, functools.partial(self._deliver_membership, room_id, tuple(members), joined))

    # -- messages

    async def _note(self, message_id: str) -> None:
        """Remember a message that has only been named: neither a crash nor a restart loses it before it is delivered."""
        assert self._sink is not None
        try:
            await self._sink.announcements.add(PLATFORM, message_id)
        except StorageError as error:  # it may be fetched and stored in time all the same
            log.warning("wechat.message_not_noted", problem=error.problem)

    async def _take_up(self) -> None:
        """Fetch what was named before this connection and has not been delivered."""
        assert self._sink is not None
        try:
            for message_id in await self._sink.announcements.unsettled(PLATFORM):
                self._intake.submit(message_id)
        except StorageError as error:
            log.warning("wechat.messages_not_taken_up", problem=error.problem)

    async def _fetch(self, message_id: str) -> RawMessage:
        if self._client is None:
            raise PuppetError("not connected")
        return await self._client.message(message_id)

    def _hand(self, message_id: str, raw: RawMessage) -> None:
        self._rooms.submit(raw.room_id, functools.partial(self._deliver, message_id, raw))

    async def _deliver(self, message_id: str, raw: RawMessage) -> None:
        """Pass one message on; raises what the sink raises, to be called again."""
        assert self._sink is not None
        if raw.room_id:
            await self._pass_on(raw)
        await self._sink.announcements.settle(PLATFORM, message_id)

    async def _pass_on(self, raw: RawMessage) -> None:
        assert self._sink is not None
        await self._know_self()
        own = raw.from_id == self._self_id if self._self_id else (raw.room_id, raw.text) in self._sent
        if own or raw.id in self._sent or raw.id in self._seen or not raw.from_id:
            return
        if raw.type == RECALLED:
            if (target := recalled_id(raw.text)) is not None:
                await self._sink.recall(Recall(PLATFORM, raw.room_id, target, sent_at(raw.timestamp, self._clock.now())))
        else:
            await self._sink.message(await self._message(raw, self._sink))
        self._seen.add(raw.id)

    async def _message(self, raw: RawMessage, sink: MessageSink) -> Message:
        collected = sink.collects(ConversationKey(PLATFORM, raw.room_id))
        kind, content, reply_to = kind_of(raw.type), raw.text, None
        # What a member has typed may speak of a quotation without being one.
        if (kind is not MessageKind.TEXT or "<appmsg" in content) and (quote := quote_in(content)) is not None:
            kind, content, reply_to = MessageKind.TEXT, quote.text, quote.quoted_id
        if kind is MessageKind.TEXT:
            mentioned = self._self_id in raw.mention_ids
            asked = self._self_id and (mentioned or "@" in content)
            names = await self._names.all_of(raw.room_id, self._self_id) if asked else ()
            content = without_mention(content, names, mentioned=mentioned)
        return Message(
            platform=PLATFORM,
            chat_id=raw.room_id,
            message_id=raw.id,
            sender_id=raw.from_id,
            text=shown_text(kind, content),
            sent_at=sent_at(raw.timestamp, self._clock.now()),
            chat_name=await self._names.topic(raw.room_id),
            sender_name=await self._names.member(raw.room_id, raw.from_id) if collected else "",
            kind=kind,
            mentions=raw.mention_ids,
            reply_to=reply_to,
        )

    async def _deliver_membership(self, room_id: str, members: tuple[str, ...], joined: bool) -> None:
        assert self._sink is not None
        await self._know_self()
        if not self._self_id or self._self_id not in members:
            return
        conversation = ConversationKey(PLATFORM, room_id)
        if joined:
            await self._sink.joined(conversation, await self._names.topic(room_id))
        else:
            await self._sink.left(conversation)

    async def _know_self(self) -> None:
        """Wait for the login event, which tells the bot's own id; once waited in vain, go on without."""
        if self._logged_in.is_set():
            return
        if self._identity is None:
            self._identity = asyncio.create_task(first_of(self._logged_in.wait(), self._clock.sleep(self._timing.login_wait)), name="wechaty-login")
        await asyncio.shield(self._identity)

    def _connected(self) -> PuppetClient:
        if self._client is None:
            raise PuppetError("not connected")
        return self._client


def _required(event: PuppetEvent, key: str) -> str:
    value = event.data[key]
    if not isinstance(value, str) or not value:
        raise ValueError(key)
    return value
