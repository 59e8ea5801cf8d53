"""What the bot says in a group once a question is through: nothing, its resolved form, or an answer to it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import partial
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog

from core.answering import AnswerService
from core.bus import EventBus
from core.clock import Clock, SystemClock
from core.config import BotSection
from core.delivery import REPLY_PREFIX, ReplyQueue
from core.errors import BackendError, StorageError
from core.events import MessageRecalled, QuestionResolved
from core.groups import Groups, ReplyHistory, ReplyMode
from core.messages import ConversationKey, Question
from core.ports import OutgoingReply, ResolvedQuestion
from core.rate_limit import HOUR, HourlyLimits
from core.timings import Observe, unobserved

log = structlog.get_logger(__name__)

ANSWERED_AT_ONCE = 4
MOST_WAITING = 64
QUOTED_CHARS = 60
RECALLS_REMEMBERED = 2000
PAUSES = (5.0, 20.0, 60.0)
"""Seconds before each further attempt at a reply whose service or database failed, unless the service names a time."""


class Result(StrEnum):
    """What became of a question that reached the responder. ``WITHDRAWN``: it, or a line of its context, was recalled or erased, or the bot stopped."""

    REPLIED = "replied"
    SWITCHED_OFF = "switched_off"
    NOTHING_TO_SAY = "nothing_to_say"
    TOO_OLD = "too_old"
    QUIET_HOURS = "quiet_hours"
    LIMITED = "limited"
    BUSY = "busy"
    ALREADY_REPLIED = "already_replied"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """When the bot may speak. Limits are replies an hour; 0: none at all. ``quiet_hours`` are local times of ``timezone``, from the first up to the second."""

    group_per_hour: int = 20
    member_per_hour: int = 5
    max_age: timedelta = timedelta(seconds=300)
    quiet_hours: tuple[time, time] | None = None
    timezone: tzinfo = UTC

    @classmethod
    def of(cls, bot: BotSection) -> ReplyRules:
        return cls(bot.group_replies_per_hour, bot.member_replies_per_hour, timedelta(seconds=bot.max_reply_age_seconds), bot.quiet_hours, ZoneInfo(bot.timezone))

    def is_quiet(self, now: datetime) -> bool:
        """Equal times are the whole day."""
        if self.quiet_hours is None:
            return False
        start, end = self.quiet_hours
        local = now.astimezone(self.timezone).time()
        return start <= local < end if start < end else local >= start or local < end


class ResolvedQuestions(Protocol):
    async def unanswered(self, platforms: Collection[str], since: datetime) -> Sequence[ResolvedQuestion]:
        """Questions of ``platforms`` that were asked at ``since`` or later and to which no reply was ever queued, oldest first. Raises StorageError."""


class Responder:
    """Subscribes to :class:`QuestionResolved`. A question is replied to once; a failing answer service never shows in the group, and is asked again as long as the answer would
    not come too late.
    """

    def __init__(
        self,
        bus: EventBus,
        replies: ReplyQueue,
        groups: Groups,
        history: ReplyHistory,
        rules: ReplyRules,
        answers: AnswerService | None = None,
        *,
        observe: Observe = unobserved,
        clock: Clock | None = None,
    ) -> None:
        """:param answers: None: groups in the mode ``answer`` get no reply."""
        self._bus, self._replies, self._groups, self._history, self._rules, self._answers = bus, replies, groups, history, rules, answers
        self._observe, self._clock = observe, clock or SystemClock()
        self._limits = HourlyLimits()
        self._slots = asyncio.Semaphore(ANSWERED_AT_ONCE)
        self._under_way: dict[str, tuple[Question, asyncio.Task[Result]]] = {}
        self._resting: set[str] = set()
        self._stopped = False
        self._recalled: deque[tuple[ConversationKey, str]] = deque(maxlen=RECALLS_REMEMBERED)
        self.counts: Counter[Result] = Counter()
        bus.subscribe(QuestionResolved, self._on_resolved)
        bus.subscribe(MessageRecalled, self._on_recalled)

    async def start(self) -> None:
        """Count what earlier runs said in the last hour. Raises StorageError."""
        for past in await self._history.replies_since(self._clock.now() - HOUR):
            self._limits.note(past.at, *self._limit_keys(past.conversation, past.member))

    async def take_up(self, log_of_questions: ResolvedQuestions, platforms: Collection[str]) -> None:
        """Decide on the questions that an earlier run had resolved and not replied to: it may have died while it waited for their answers. Raises StorageError."""
        for entry in await log_of_questions.unanswered(platforms, self._clock.now() - self._rules.max_age):
            if entry.verdict is not None:
                await self._bus.publish(QuestionResolved(entry.question, entry.verdict, entry.resolution))

    async def stop(self, timeout: float = 5.0) -> None:
        """Give answers that are under way ``timeout`` seconds, then cancel them, and begin no others: the next run takes them up. Idempotent."""
        self._stopped = True
        for identity in self._resting:
            self._under_way[identity][1].cancel()
        tasks = [task for _, task in self._under_way.values()]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=timeout)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._answers is not None:
            await self._answers.close()

    async def drain(self) -> None:
        """Wait until every answer under way is queued or given up."""
        while self._under_way:
            await asyncio.gather(*(task for _, task in self._under_way.values()), return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Questions that wait for the answer service."""
        return len(self._under_way)

    async def _on_resolved(self, event: QuestionResolved) -> None:
        if self._stopped:  # the pipeline goes on a little longer than its replies
            return
        question, rewrite = event.question, event.resolution.rewrite if event.resolution else None
        mode = self._groups.reply_mode(question.conversation)
        # A question that needs what nobody could supply is not answered: an answer to the bare text would probably answer something else.
        asked = rewrite or (None if event.verdict.needs_resolution else question.text)
        said = rewrite if mode is ReplyMode.REWRITE else asked
        now = self._clock.now()  # what is given back is known by this very moment
        refusal = await self._refusal(question, mode, said, now)
        if refusal is not None:
            self._count(refusal, question)
            return
        assert said is not None
        task = asyncio.create_task(self._persist(question, mode, said), name="answer")
        self._under_way[question.id] = (question, task)
        task.add_done_callback(partial(self._done, question, now))  # also where it is cancelled before it has begun

    async def _refusal(self, question: Question, mode: ReplyMode, said: str | None, now: datetime) -> Result | None:
        """Why there is no reply, or None; then one reply of the hour's limits is taken at ``now``."""
        if mode is ReplyMode.OFF or not self._works_in(question.conversation):
            return Result.SWITCHED_OFF
        if said is None or (mode is ReplyMode.ANSWER and self._answers is None):
            return Result.NOTHING_TO_SAY
        if self._is_withdrawn(question):  # while it was being judged
            return Result.WITHDRAWN
        if (passed := self._passed(question, mode)) is not None:
            return passed
        if question.id in self._under_way or await self._is_queued(question):
            return Result.ALREADY_REPLIED
        if mode is ReplyMode.ANSWER and len(self._under_way) >= MOST_WAITING:
            return Result.BUSY
        group, member = self._limit_keys(question.conversation, question.sender_id)
        if not self._limits.take(now, {group: self._rules.group_per_hour, member: self._rules.member_per_hour}):
            return Result.LIMITED
        return None

    async def _is_queued(self, question: Question) -> bool:
        try:
            return await self._replies.known(_key(question))
        except StorageError as error:  # this saves an answer: a reply is queued once all the same
            log.error("reply_not_looked_up", problem=error.problem, remedy=error.remedy, question=question.id)
            return False

    def _works_in(self, conversation: ConversationKey) -> bool:
        """An earlier run may have worked in groups that the config does not name any more."""
        return self._groups.allowed(conversation) and self._groups.enabled(conversation)

    def _passed(self, question: Question, mode: ReplyMode) -> Result | None:
        """Whether the moment for a reply has passed: its group was switched meanwhile, it is late, or night has come."""
        if self._groups.reply_mode(question.conversation) is not mode or not self._works_in(question.conversation):
            return Result.SWITCHED_OFF
        if self._clock.now() - question.asked_at > self._rules.max_age:
            return Result.TOO_OLD
        return Result.QUIET_HOURS if self._rules.is_quiet(self._clock.now()) else None

    def _done(self, question: Question, taken_at: datetime, task: asyncio.Task[Result]) -> None:
        self._under_way.pop(question.id, None)
        if task.cancelled():
            result = Result.WITHDRAWN
        elif (error := task.exception()) is not None:
            log.error("reply_failed", error=type(error).__name__, question=question.id)
            log.debug("reply_failed_detail", question=question.id, detail=str(error))
            result = Result.FAILED
        else:
            result = task.result()
        if result is not Result.REPLIED:
            self._limits.give_back(taken_at, *self._limit_keys(question.conversation, question.sender_id))
        self._count(result, question)

    async def _persist(self, question: Question, mode: ReplyMode, said: str) -> Result:
        """Compose and queue the reply; what fails is tried again as long as the reply would not come too late."""
        for planned in (*PAUSES, None):
            pause = planned
            try:
                return await self._reply(question, mode, said)
            except BackendError as error:
                if planned is not None and error.retry_after is not None:
                    pause = error.retry_after
                log.warning("answer_failed", backend=error.backend, problem=error.problem, question=question.id, again_in=pause)
            except StorageError as error:
                log.error("answer_not_queued", problem=error.problem, remedy=error.remedy, question=question.id, again_in=pause)
            if pause is None or self._clock.now() + timedelta(seconds=pause) - question.asked_at > self._rules.max_age:
                break
            await self._rest(question, pause)
        return Result.FAILED

    async def _reply(self, question: Question, mode: ReplyMode, said: str) -> Result:
        """One attempt. Raises BackendError and StorageError."""
        async with self._slots if mode is ReplyMode.ANSWER else nullcontext():
            passed = self._passed(question, mode)
            text = None if passed else await self._compose(question, mode, said)
        if text is None:
            return passed or Result.NO_ANSWER
        if (passed := self._passed(question, mode)) is not None:
            return passed
        reply_to = question.message_ids[-1] if question.message_ids else None
        made_of = tuple(_made_of(question))
        if await self._replies.enqueue(OutgoingReply(question.conversation, text, _key(question), reply_to, question.sender_id or None, question.asked_at, made_of)):
            return Result.REPLIED
        return Result.ALREADY_REPLIED if await self._replies.known(_key(question)) else Result.WITHDRAWN

    async def _compose(self, question: Question, mode: ReplyMode, said: str) -> str | None:
        """The reply: the question with its resolved form ``said``, or the answer to ``said``; None when the service has none. Raises BackendError."""
        if mode is ReplyMode.REWRITE:
            return f"「{_shortened(question.text)}」\n→ {said}"
        assert self._answers is not None
        started = self._clock.monotonic()
        answer = await self._answers.answer(said)
        self._observe("answer", self._clock.monotonic() - started)
        return answer

    async def _rest(self, question: Question, seconds: float) -> None:
        self._resting.add(question.id)
        try:
            await self._clock.sleep(seconds)
        finally:
            self._resting.discard(question.id)

    async def _on_recalled(self, event: MessageRecalled) -> None:
        self._recalled.append((event.conversation, event.recall.message_id))
        for question, task in list(self._under_way.values()):
            if self._is_withdrawn(question):
                task.cancel()

    def _is_withdrawn(self, question: Question) -> bool:
        ids = _made_of(question)
        return any(conversation == question.conversation and message_id in ids for conversation, message_id in self._recalled)

    def _count(self, result: Result, question: Question) -> None:
        self.counts[result] += 1
        log.debug("reply_decided", result=result, question=question.id)

    @staticmethod
    def _limit_keys(conversation: ConversationKey, member: str) -> tuple[Hashable, Hashable]:
        return conversation, (conversation.platform, member)


def _key(question: Question) -> str:
    return f"{REPLY_PREFIX}{question.id}"


def _made_of(question: Question) -> set[str]:
    """Ids of the messages whose words a reply to it may show."""
    return {*question.message_ids, *(line.message_id for line in question.context if line.message_id)}


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTED_CHARS else line[: QUOTED_CHARS - 1] + "…"
