"""WeChat through HuixiangDou's Android accessibility app: it POSTs what it reads on the screen, and fetches by ``poll`` what it shall type. Until then replies stay in the outbox.

The app knows no message ids and no times. Its ``query_id`` is the name of the group in the released app and a random word in other clients, so it identifies a message only
together with what was said.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.wechat.callbacks import BadCallbackError, Respond
from adapters.wechat.gateway import GatewayAdapter
from adapters.wechat.payloads import PLATFORM, shown_text, without_mention
from adapters.wechat.recent import Recent
from core.clock import Clock
from core.config import WechatSection
from core.errors import SendError
from core.messages import ConversationKey, Message, MessageKind
from core.ports import Capabilities, OutgoingReply
from core.text import clean_text

_REPEAT_SECONDS = 60.0  # the same words of one member within this time are one message that was pushed twice
_TELLING_LENGTH = 8  # shorter replies ("好的") a member may say as well
_MEMBER_COUNT = re.compile(r"\s*\(\d+\)$")  # WeChat shows "name(128)"; the number changes, the group does not


@dataclass(frozen=True, slots=True)
class Query:
    """One POST of the app. ``kind``: ``text``, ``image`` or ``poll``; ``raw`` is the object itself, which answers repeat."""

    query_id: str
    group: str
    user: str
    kind: str
    content: str
    raw: dict[str, Any]

    @property
    def said(self) -> tuple[str, str, str, str, str]:
        """All that the app tells of a message."""
        return self.query_id, self.group, self.user, self.kind, self.content

    def digest(self, *more: str) -> str:
        """A message id made of what was said, and of ``more``."""
        return hashlib.sha256("\x1f".join((*self.said, *more)).encode()).hexdigest()[:32]


class AndroidAdapter(GatewayAdapter):
    """The Adapter port over the app's call-backs. The chat id is the name of the group, the sender id the name of the member: the screen shows nothing else."""

    capabilities = Capabilities(fetches=True)

    def __init__(self, config: WechatSection, clock: Clock | None = None) -> None:
        super().__init__(config, clock)
        self._requests: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._latest: dict[str, dict[str, Any]] = {}
        self._pushed: OrderedDict[tuple[str, ...], tuple[str, datetime, float]] = OrderedDict()
        self._typed = Recent(200)

    async def send(self, reply: OutgoingReply) -> str:
        raise SendError(PLATFORM, "the phone fetches replies, nothing can be sent to it", permanent=True)

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        raise SendError(PLATFORM, "the Android app cannot recall messages", permanent=True)

    async def _answer(self, value: dict[str, Any], respond: Respond) -> None:
        query = parse_query(value)
        if query.kind == "poll":
            await self._hand_out(query.group, respond)
            return
        await self._locks.run(query.group, lambda: self._take(query))
        await respond({"msg": "ok", "msgCode": "10000", "data": []})

    async def _hand_out(self, group: str, respond: Respond) -> None:
        """What the phone shall type into ``group`` ("": into any), each once. It types into the chat that is open, so replies for other groups stay."""
        assert self._sink is not None
        async with self._sink.fetch(PLATFORM, group or None) as replies:
            for reply in replies:  # known before the phone has them: the screen may be faster than the end of the response
                self._typed.add((reply.conversation.chat_id, reply.text.strip()))
            data = [{"req": self._request_of(reply), "rsp": {"code": 0, "state": "success", "text": reply.text, "references": []}} for reply in replies]
            await respond({"msg": "ok", "msgCode": "10000", "data": data})

    async def _take(self, query: Query) -> None:
        assert self._sink is not None
        if self._is_own(query):
            return
        message = self._message(query)
        self._remember(message, query.raw)
        await self._sink.message(message)

    def _is_own(self, query: Query) -> bool:
        """The bot's own lines come back when the screen changes: by its name, or as what a poll gave out (the app types the question, a line of dashes and the reply)."""
        if self._config.wcid and query.user == self._config.wcid:
            return True
        return any(query.content == text or f"---\n{text}" in query.content for text in self._typed_texts(query.group))

    def _message(self, query: Query) -> Message:
        message_id, first_seen = self._identify(query)
        kind = MessageKind.IMAGE if query.kind == "image" else MessageKind.TEXT
        content = without_mention(query.content, [self._config.wcid], mentioned=True)  # no more is told of a mention than its text
        return Message(
            platform=PLATFORM,
            chat_id=query.group,
            message_id=message_id,
            sender_id=query.user,
            text=shown_text(kind, content).strip(),
            sent_at=first_seen,
            chat_name=query.group,
            sender_name=query.user,
            kind=kind,
        )

    def _identify(self, query: Query) -> tuple[str, datetime]:
        """Id and time of a message. The same push again gives both again: for a telling ``query_id`` always, otherwise within a minute."""
        said = query.said
        now = self._clock.monotonic()
        telling = query.query_id not in ("", _text(query.raw, "groupname"), query.group)
        if (known := self._pushed.get(said)) is not None and (telling or now - known[2] <= _REPEAT_SECONDS):
            return known[:2]
        first_seen = self._clock.now()
        message_id = query.digest() if telling else query.digest(first_seen.isoformat())
        self._pushed[said] = message_id, first_seen, now
        if len(self._pushed) > 5000:
            self._pushed.popitem(last=False)
        return message_id, first_seen

    def _remember(self, message: Message, request: dict[str, Any]) -> None:
        self._groups[message.chat_id] = message.chat_name
        self._latest[message.chat_id] = request
        self._requests[message.chat_id, message.message_id] = request
        if len(self._requests) > 5000:
            self._requests.popitem(last=False)

    def _request_of(self, reply: OutgoingReply) -> dict[str, Any]:
        """The request that a reply answers: the quoted one; after a restart, one that names group and member; for what answers nobody, the last of the group."""
        room = reply.conversation.chat_id
        named = {"query_id": room, "groupname": room, "username": reply.mention or "", "query": {"type": "text", "content": ""}}
        quoted = self._requests.get((room, reply.reply_to or ""))
        return quoted or (named if reply.mention else self._latest.get(room, named))

    def _typed_texts(self, group: str) -> list[str]:
        return [text for room, text in self._typed.items() if room == group and len(text) >= _TELLING_LENGTH]


def parse_query(value: dict[str, Any]) -> Query:
    """One POST of the app. Raises BadCallbackError."""
    query = value.get("query")
    if not isinstance(query, dict) or query.get("type") not in ("text", "image", "poll"):
        raise BadCallbackError("query.type is not text, image or poll")
    group, user = _text(value, "groupname"), _text(value, "username")
    if query["type"] != "poll" and (not group or not user):
        raise BadCallbackError("groupname or username is missing")
    if query["type"] == "text" and not _text(query, "content"):
        raise BadCallbackError("query.content is empty")
    return Query(_text(value, "query_id"), _MEMBER_COUNT.sub("", group), user, query["type"], _text(query, "content"), value)


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    return clean_text(found).strip() if isinstance(found, str) else ""
