"""What members type to the bot: ``/dj help`` and its like, in English and Chinese. Pure parsing here is apart from the effects in :class:`CommandHandler`.

What a member typed is compared with known words and goes nowhere else: no part of it comes back in a reply or reaches the database.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import structlog

from core.antecedents import split_quote
from core.clock import Clock, SystemClock
from core.command_texts import TEXTS
from core.config import as_entry
from core.consent import Consent
from core.delivery import ReplyQueue
from core.groups import Complaints, Groups, ReplyMode, Statistics
from core.messages import ConversationKey, Message
from core.ports import ChatAdmins, OutgoingReply
from core.rate_limit import HourlyLimits

log = structlog.get_logger(__name__)

COMMAND_PREFIX = "command:"
"""Idempotency keys of answers to commands: this and the key of the message."""
COMMANDS_PER_HOUR = 10
COMMANDS_REMEMBERED = 1000


class Action(StrEnum):
    """What a command asks for. ``UNKNOWN``: addressed to the bot, but not understood."""

    HELP = "help"
    STATUS = "status"
    ON = "on"
    OFF = "off"
    REPLY = "reply"
    STATS = "stats"
    FORGET = "forget"
    OPT_OUT = "opt_out"
    OPT_IN = "opt_in"
    WRONG = "wrong"
    UNKNOWN = "unknown"


HELPS_ADMINS = frozenset({Action.HELP})
"""Actions for everybody whose answer is another one for admins."""
ERASING = frozenset({Action.FORGET, Action.OPT_OUT})
"""Heard in every group: what is stored of a member is from when the group was allowed, or from another one."""
FOR_EVERYBODY = frozenset({Action.HELP, Action.FORGET, Action.OPT_OUT, Action.OPT_IN, Action.WRONG, Action.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed command. ``reply`` is the argument of :attr:`Action.REPLY`."""

    action: Action
    reply: ReplyMode | None = None


_PREFIX = re.compile(r"^(?:@\S+\s+)*/\s?(?:dj|豆解)(?P<rest>(?![a-z0-9_]).*)", re.DOTALL)
_ACTIONS = {
    word: action
    for action, words in {
        Action.HELP: ("", "help", "?", "帮助", "菜单"),
        Action.STATUS: ("status", "状态"),
        Action.ON: ("on", "start", "开", "开启", "打开"),
        Action.OFF: ("off", "stop", "关", "关闭"),
        Action.STATS: ("stats", "统计"),
        Action.FORGET: ("forget me", "forgetme", "forget", "忘记我", "忘掉我", "删除我"),
        Action.OPT_OUT: ("opt out", "optout", "opt-out", "退出"),
        Action.OPT_IN: ("opt in", "optin", "opt-in", "加入"),
        Action.WRONG: ("wrong", "错了", "错", "不对"),
    }.items()
    for word in words
}
_MODES = {
    word: mode
    for mode, words in {ReplyMode.OFF: ("off", "关", "关闭"), ReplyMode.REWRITE: ("rewrite", "改写"), ReplyMode.ANSWER: ("answer", "回答", "答")}.items()
    for word in words
}
_REPLY = re.compile(r"^(?:reply|回复)\s*(?P<mode>\S+)$")


def parse_command(text: str) -> Command | None:
    """The command of a message, or None when it does not begin with ``/dj`` or ``/豆解`` (mentions may stand before it).

    Full-width forms, letter case and white space do not matter; a quotation in front that came as text is no part of it.
    """
    if text.startswith("「"):
        text = split_quote(text)[2]
    start = text.lstrip()[:1]
    if start not in ("/", "@", "／", "＠"):  # nearly every message ends here
        return None
    match = _PREFIX.match(unicodedata.normalize("NFKC", text).strip().casefold())
    if match is None:
        return None
    words = " ".join(match["rest"].split())
    if words in _ACTIONS:
        return Command(_ACTIONS[words])
    reply = _REPLY.match(words)
    if reply is not None and reply["mode"] in _MODES:
        return Command(Action.REPLY, _MODES[reply["mode"]])
    return Command(Action.UNKNOWN)


class CommandHandler:
    """Carries out commands and answers them through the outbox. A command that is delivered again has no second effect."""

    def __init__(
        self,
        replies: ReplyQueue,
        groups: Groups,
        consent: Consent,
        statistics: Statistics,
        complaints: Complaints,
        admins: Collection[str] = (),
        *,
        chat_admins: Mapping[str, ChatAdmins] | None = None,
        can_answer: bool = True,
        language: Literal["zh", "en"] = "zh",
        clock: Clock | None = None,
    ) -> None:
        """
        :param admins: sender ids, or ``platform:id``. Shown names count for nothing: a member may take on any.
        :param chat_admins: by platform, who tells the owner and the managers of a group: they may command the bot in their group.
        :param can_answer: there is a service that answers questions.
        """
        self._replies, self._groups, self._consent, self._statistics, self._complaints = replies, groups, consent, statistics, complaints
        self._admins, self._texts, self._clock = frozenset(admins), TEXTS[language], clock or SystemClock()
        self._chat_admins, self._can_answer = chat_admins or {}, can_answer
        self._limits = HourlyLimits()
        self._under_way: set[str] = set()
        self._heard: deque[Message] = deque(maxlen=COMMANDS_REMEMBERED)

    async def handle(self, message: Message, command: Command, *, allowed: bool) -> None:
        """Raises StorageError: the platform is to deliver the command again."""
        key = f"{COMMAND_PREFIX}{message.key}"
        if key in self._under_way or self._is_copy(message):
            return
        self._under_way.add(key)
        self._heard.append(message)
        try:
            # In a group that the bot does not work in, an owner's wish does not make it speak.
            admin = self._is_named(message) or (allowed and await self._leads_the_group(message, command))
            if (allowed or admin or command.action in ERASING) and not await self._replies.known(key):
                await self._carry_out(message, command, key, admin=admin, allowed=allowed)
        except Exception:  # whatever failed: the command comes again, perhaps under another id
            self._heard.remove(message)
            raise
        finally:
            self._under_way.discard(key)

    def _is_copy(self, message: Message) -> bool:
        """The member's last command here was the same, a moment ago: platforms were seen to deliver one message under two ids."""
        last = next((heard for heard in reversed(self._heard) if heard.conversation == message.conversation and heard.sender_id == message.sender_id), None)
        return last is not None and message.repeats(last)

    def _is_named(self, message: Message) -> bool:
        """The sender is an admin of the config."""
        return not self._admins.isdisjoint({message.sender_id, f"{message.platform}:{message.sender_id}"})

    async def _leads_the_group(self, message: Message, command: Command) -> bool:
        """The sender is the owner or a manager of the group; only asked where it matters."""
        asker = self._chat_admins.get(message.platform)
        if asker is None or command.action in FOR_EVERYBODY - HELPS_ADMINS:
            return False
        return message.sender_id in await asker.chat_admins(message.conversation)

    async def _carry_out(self, message: Message, command: Command, key: str, *, admin: bool, allowed: bool) -> None:
        if not admin and not self._within_limit(message, command):
            log.info("command_ignored", platform=message.platform, group=message.chat_id, action=command.action, reason="too many commands of one member")
            return
        text = await self._answer(message, command, admin) if allowed or command.action in ERASING else self._texts["not_allowed"].format(group=as_entry(message.chat_id))
        await self._replies.enqueue(OutgoingReply(message.conversation, text, key, reply_to=message.message_id))
        log.info("command", platform=message.platform, group=message.chat_id, sender_id=message.sender_id, action=command.action, admin=admin)

    def _within_limit(self, message: Message, command: Command) -> bool:
        """A member can neither make the bot flood a group nor keep the database busy with erasing; the wish to opt out is always heard."""
        if command.action is Action.OPT_OUT and not self._consent.opted_out(message.platform, message.sender_id):
            return True
        return self._limits.take(self._clock.now(), {(message.platform, message.sender_id): COMMANDS_PER_HOUR})

    async def _answer(self, message: Message, command: Command, admin: bool) -> str:
        """Carry out and return what is said to it."""
        texts, conversation = self._texts, message.conversation
        if not admin and command.action not in FOR_EVERYBODY:
            return texts["admins_only"]
        match command.action:
            case Action.HELP:
                return texts["help_admin"] if admin else texts["help"]
            case Action.STATUS:
                return texts["status"].format(state=texts["is_on" if self._groups.enabled(conversation) else "is_off"], mode=self._mode(conversation), group=conversation.chat_id)
            case Action.ON | Action.OFF:
                await self._groups.switch(conversation, command.action is Action.ON)
                if command.action is Action.OFF:
                    await self._replies.withdraw(conversation)
                return texts[command.action]
            case Action.REPLY:
                assert command.reply is not None
                if command.reply is ReplyMode.ANSWER and not self._can_answer:
                    return texts["no_answers"]
                await self._groups.set_reply(conversation, command.reply)
                if command.reply is ReplyMode.OFF:
                    await self._replies.withdraw(conversation)
                return texts["reply"].format(mode=self._mode(conversation))
            case Action.STATS:
                return await self._stats(conversation)
            case Action.FORGET:
                return texts["forgotten"].format(count=await self._consent.forget(message.platform, message.sender_id))
            case Action.OPT_OUT:
                self._consent.heard(message)
                return texts["opted_out"].format(count=await self._consent.opt_out(message.platform, message.sender_id))
            case Action.OPT_IN:
                await self._consent.opt_in(message.platform, message.sender_id)
                return texts["opted_in"]
            case Action.WRONG:
                return texts["wrong"] if await self._complaints.wrong(conversation, message.reply_to) else texts["nothing_wrong"]
            case Action.UNKNOWN:
                return texts["unknown"]

    def _mode(self, conversation: ConversationKey) -> str:
        return self._texts[f"mode_{self._groups.reply_mode(conversation)}"]

    async def _stats(self, conversation: ConversationKey) -> str:
        found = await self._statistics.of_group(conversation)
        return self._texts["stats"].format(messages=found.messages, questions=found.questions, judged=found.judged, resolved=found.resolved, replies=found.replies)
