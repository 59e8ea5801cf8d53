"""The rooms between an adapter and the pipeline, on a real database with a clock that a test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from core.bus import EventBus
from core.commands import CommandHandler
from core.consent import Consent
from core.delivery import Delivery
from core.events import MessageRecalled, MessageStored
from core.groups import Groups, ReplyMode
from core.ingest import Ingest
from core.messages import ContextLine, ConversationKey, Message, Question, Resolution, Utterance, Verdict
from core.ports import Adapter, Capabilities, Health, MessageSink, OutgoingReply
from storage.announcements import SqlAnnouncements
from storage.engine import Database, open_database
from storage.groups import SqlGroups
from storage.inbox import SqlInbox
from storage.members import SqlMembers
from storage.outbox import SqlOutbox
from storage.questions import SqlQuestionLog
from tests.adapters.manual_clock import ManualClock

GROUP = ConversationKey("feishu", "g1")
NOTICE = "本群已启用豆解"


class RecordingAdapter:
    """An :class:`core.ports.Adapter` that remembers what it was asked to send. ``failures``: raised by the next sends, in order; None lets one pass."""

    def __init__(self, platform: str = "feishu", *, idempotent: bool = True, fetches: bool = False) -> None:
        self.platform, self.bot_id = platform, "bot"
        self.capabilities = Capabilities(idempotent_send=idempotent, fetches=fetches)
        self.sent: list[OutgoingReply] = []
        self.failures: list[Exception | None] = []
        self.state = Health(connected=True)

    async def start(self, sink: MessageSink) -> None: ...

    async def stop(self) -> None: ...

    async def send(self, reply: OutgoingReply) -> str:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.sent.append(reply)
        return f"om_{len(self.sent)}"

    async def recall(self, conversation: ConversationKey, message_id: str) -> None: ...

    def health(self) -> Health:
        return self.state


class Leaders:
    """A :class:`core.ports.ChatAdmins`. ``by_group``: who leads it; ``asked``: the groups that were asked for."""

    def __init__(self, **by_group: frozenset[str]) -> None:
        self.by_group, self.asked = by_group, list[str]()

    async def chat_admins(self, conversation: ConversationKey) -> frozenset[str]:
        self.asked.append(conversation.chat_id)
        return self.by_group.get(conversation.chat_id, frozenset())


@dataclass
class House:
    clock: ManualClock
    database: Database
    bus: EventBus
    inbox: SqlInbox
    members: SqlMembers
    outbox: SqlOutbox
    log: SqlQuestionLog
    store: SqlGroups
    groups: Groups
    consent: Consent
    delivery: Delivery
    commands: CommandHandler
    ingest: Ingest
    adapter: RecordingAdapter
    stored: list[MessageStored] = field(default_factory=list)
    recalled: list[str] = field(default_factory=list)

    def message(self, number: int, text: str = "", *, sender: str = "u1", chat: str = "g1", reply_to: str | None = None) -> Message:
        return Message("feishu", chat, f"m{number}", sender, text or f"消息 {number}", self.clock.now(), "技术群", f"名字{sender}", reply_to=reply_to)

    async def say(self, number: int, text: str = "", *, sender: str = "u1", chat: str = "g1", reply_to: str | None = None) -> str:
        """Deliver a message; returns what the bot answered to it as a command, "" for nothing."""
        message = self.message(number, text, sender=sender, chat=chat, reply_to=reply_to)
        await self.ingest.message(message)
        await self.bus.drain()
        queued = await self.outbox.get(f"command:{message.key}")
        return queued.reply.text if queued else ""

    async def texts(self, chat: str = "g1") -> list[str]:
        return [message.text for message in await self.inbox.recent(ConversationKey("feishu", chat), 1000)]

    async def ask(self, number: int, text: str = "怎么部署？", *, sender: str = "u1", context: tuple[Message, ...] = ()) -> Question:
        """A stored and logged question."""
        asked = self.message(number, text, sender=sender)
        await self.inbox.add([asked])
        question = self.question(asked, context)
        await self.log.record_many([(Utterance((asked,)), question)])
        return question

    def question(self, asked: Message, context: tuple[Message, ...] = ()) -> Question:
        lines = tuple(ContextLine(message.shown_name, message.text, message.message_id) for message in context)
        return Question(asked.key, asked.conversation, asked.shown_name, asked.text, asked.sent_at, lines, (asked.message_id,), asked.sender_id)


def verdict(probability: float) -> Verdict:
    return Verdict(probability, 0.5, "tiny", "v1", latency_ms=40.0)


def resolution(rewrite: str | None) -> Resolution:
    return Resolution(rewrite or "?", rewrite, 0.9, "tiny", "v1", latency_ms=80.0)


@asynccontextmanager
async def open_house(
    path: Path,
    clock: ManualClock | None = None,
    *,
    allowed: tuple[str, ...] = ("g1",),
    reply: ReplyMode = ReplyMode.OFF,
    adapter: RecordingAdapter | None = None,
    leaders: Leaders | None = None,
    notice: str = "",
) -> AsyncIterator[House]:
    clock, adapter = clock or ManualClock(), adapter or RecordingAdapter()
    if not _EMPTY:
        await (await open_database(f"sqlite:///{path}.template")).close()
    _lay(path)
    database = await open_database(f"sqlite:///{path}", now=clock.now)
    bus, inbox, members, outbox, store = EventBus(), SqlInbox(database), SqlMembers(database), SqlOutbox(database), SqlGroups(database)
    groups, consent = Groups(store, allowed, reply), Consent(members, inbox, bus, clock)
    await groups.load()
    await consent.load()
    adapters: dict[str, Adapter] = {adapter.platform: adapter}
    delivery = Delivery(outbox, adapters, timedelta(seconds=300), clock=clock)
    commands = CommandHandler(delivery, groups, consent, store, store, ["boss", "feishu:chief"], chat_admins={adapter.platform: leaders or Leaders()}, clock=clock)
    ingest = Ingest(inbox, bus, groups, consent, commands, delivery, notice, announcements=SqlAnnouncements(database), clock=clock)
    house = House(clock, database, bus, inbox, members, outbox, SqlQuestionLog(database), store, groups, consent, delivery, commands, ingest, adapter)

    async def stored(event: MessageStored) -> None:
        house.stored.append(event)

    async def recalled(event: MessageRecalled) -> None:
        house.recalled.append(event.recall.message_id)

    bus.subscribe(MessageStored, stored)
    bus.subscribe(MessageRecalled, recalled)
    await bus.start()
    try:
        yield house
    finally:
        await delivery.stop()
        await bus.stop()
        await database.close()


_EMPTY: list[bytes] = []  # a migrated database, made once for all tests: migrating takes longer than most of them


def _lay(path: Path) -> None:
    if not _EMPTY:
        _EMPTY.append(Path(f"{path}.template").read_bytes())
    if not path.exists():
        path.write_bytes(_EMPTY[0])
