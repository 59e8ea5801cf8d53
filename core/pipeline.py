"""The one place where the stages meet: stored message -> merger -> question filter -> gate -> resolver, each result logged before the next step.

Merging and filtering happen in the conversation's lane of the bus. Judging and resolving wait in two bounded queues of their own, so that a slow model holds up neither
the intake nor another conversation, and
questions that wait together are judged together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from core.bus import EventBus
from core.clock import Clock, SystemClock
from core.context import ConversationMemory
from core.errors import BackendError, StorageError
from core.events import MessageRecalled, MessageStored, QuestionAsked, QuestionJudged, QuestionResolved, UtteranceClosed
from core.gates.limits import PromptTooLongError
from core.merger import Merger
from core.messages import ConversationKey, Question, RefusalReason, Resolution, Utterance, Verdict
from core.ports import Gate, Inbox, QuestionLog, Resolver, UnfinishedQuestion
from core.question_filter import QuestionFilter
from core.retries import RetrySchedule

log = structlog.get_logger(__name__)
T = TypeVar("T")

LONGEST_NAP = 60.0
"""Seconds after which the merge timer looks at the time again: a machine that starts with a wrong time is set right while it sleeps."""
STORAGE_PAUSE = 5.0
"""Seconds after which a database that failed is asked again."""
RECORD_ATTEMPTS = 60
"""After so many failures what cannot be recorded is left to the next start."""


@dataclass(slots=True)
class Counts:
    """What went through a pipeline since it was made."""

    utterances: int = 0
    questions: int = 0
    judged: int = 0
    needs_resolution: int = 0
    resolved: int = 0
    backend_failures: int = 0


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """``context_lines``: earlier messages that a question keeps; ``judge_together``: most questions in one call of the gate; ``record_together``: most utterances in one
    transaction; ``queue_size``: questions that may wait for a model before intake waits; ``platforms``: whose open work a start takes up (None: everybody's): another process may
    be working on the rest.
    """

    context_lines: int = 16
    judge_together: int = 16
    record_together: int = 500
    queue_size: int = 256
    glossary: tuple[str, ...] = ()
    platforms: frozenset[str] | None = None


class Pipeline:
    """Subscribes to a bus and carries messages through. With ``gate=None`` questions are logged unjudged, with ``resolver=None`` they are only judged."""

    def __init__(
        self,
        bus: EventBus,
        inbox: Inbox,
        questions: QuestionLog,
        merger: Merger,
        question_filter: QuestionFilter,
        gate: Gate | None = None,
        resolver: Resolver | None = None,
        settings: PipelineSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.bus, self.inbox, self.questions, self.merger, self.filter = bus, inbox, questions, merger, question_filter
        self.gate, self.resolver = gate, resolver
        self.settings = settings or PipelineSettings()
        self.counts = Counts()
        self._clock = clock or SystemClock()
        self._memory = ConversationMemory(inbox, self.settings.context_lines)
        self._to_record: asyncio.Queue[tuple[Utterance, Question | None]] = asyncio.Queue(2 * self.settings.record_together)
        self._to_judge: asyncio.Queue[Question] = asyncio.Queue(self.settings.queue_size)
        self._to_resolve: asyncio.Queue[tuple[Question, Verdict]] = asyncio.Queue(self.settings.queue_size)
        self._tasks: list[asyncio.Task[None]] = []
        self._backlog: asyncio.Task[None] | None = None
        self._already_merged: set[str] = set()
        self._retries = RetrySchedule(self._clock)
        self._timer_wake = asyncio.Event()
        bus.subscribe(MessageStored, self._on_message)
        bus.subscribe(MessageRecalled, self._on_recall)
        bus.subscribe(UtteranceClosed, self._on_utterance)

    # --- life

    async def start(self, *, live: bool = True) -> None:
        """Take up what an earlier run left open, then work. ``live``: close utterances by the clock, not only by later messages."""
        for worker in (self._record_waiting, self._judge_waiting, self._resolve_waiting, self._retry_failed):
            self._tasks.append(asyncio.create_task(worker(), name=worker.__name__))
        left = await self._recover()
        if live:
            self._backlog = asyncio.create_task(self._work_off(left), name="backlog")
            self._tasks += [asyncio.create_task(self._close_by_clock(), name="merge timer"), self._backlog]
        else:
            await self._take_up_slowly(left)

    async def _recover(self) -> list[str]:
        """Merge again what no utterance holds. Returns the ids of the questions that wait for a model."""
        unmerged, unfinished = await self.inbox.unmerged(), await self.questions.unfinished()
        self._already_merged = set(unmerged.merged)
        for message in unmerged.messages:
            if self._is_ours(message.conversation):
                await self.bus.publish(MessageStored(message, live=False))
        return [entry.question.id for entry in unfinished if self._is_ours(entry.question.conversation) and (self.gate if entry.verdict is None else self.resolver) is not None]

    async def _work_off(self, left: list[str]) -> None:
        """As :meth:`_take_up_slowly`, however often the database fails meanwhile."""
        while left:
            await self._guarded("storage", partial(self._take_up_slowly, left))
            if left:
                await self._clock.sleep(STORAGE_PAUSE)

    async def _take_up_slowly(self, left: list[str]) -> None:
        """A few at a time, as they stand in the log by then, until none are ``left``: a start does not wait until slow models are through with them, nor do questions that are
        asked meanwhile.
        """
        while left:
            few = left[: self.settings.judge_together]
            await self._take_up(await self.questions.unfinished(few))
            del left[: len(few)]
            await self._to_judge.join()
            await self._to_resolve.join()

    async def _take_up(self, unfinished: Sequence[UnfinishedQuestion]) -> None:
        for entry in unfinished:
            if entry.verdict is None and self.gate is not None:
                await self._to_judge.put(entry.question)
            elif entry.verdict is not None and self.resolver is not None:
                await self._to_resolve.put((entry.question, entry.verdict))

    def _is_ours(self, conversation: ConversationKey) -> bool:
        return self.settings.platforms is None or conversation.platform in self.settings.platforms

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until every message seen so far, and what an earlier run left, is through all stages. False when ``timeout`` seconds passed first.

        Utterances that are still open stay open.
        """
        try:
            await asyncio.wait_for(self._drained(), timeout)
        except TimeoutError:
            return False
        return True

    async def _drained(self) -> None:
        if self._backlog is not None:
            await asyncio.wait([self._backlog])
        while True:
            await self.bus.drain()
            for queue in (self._to_record, self._to_judge, self._to_resolve):
                await queue.join()
            if self.bus.idle and not any(self.waiting.values()):
                return

    def leave_backlog(self) -> None:
        """Take up no more of what an earlier run left: the next start does."""
        if self._backlog is not None:
            self._backlog.cancel()

    async def flush(self) -> None:
        """Close all open utterances (the end of a replay), and drain."""
        await self.bus.drain()
        for utterance in self.merger.flush():
            await self._publish_utterance(utterance)
        await self.drain()

    async def stop(self) -> None:
        """Cancel the workers. What waits is in the database and is taken up by the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    @property
    def waiting(self) -> dict[str, int]:
        """Queue lengths by stage."""
        return {"bus": self.bus.waiting, "storage": self._to_record.qsize(), "gate": self._to_judge.qsize(), "resolver": self._to_resolve.qsize()}

    # --- merging

    async def _on_message(self, event: MessageStored) -> None:
        try:
            await self._memory.add(event.message)
        except StorageError as error:  # the conversation's next message reads this one too
            log.error("context_not_read", problem=error.problem, remedy=error.remedy)
        for utterance in self.merger.add(event.message):
            await self._publish_utterance(utterance)
        self._timer_wake.set()

    async def _publish_utterance(self, utterance: Utterance) -> None:
        if self._already_merged:  # only after a restart: what was recorded before it is not recorded again
            fresh = tuple(message for message in utterance.messages if message.key not in self._already_merged)
            self._already_merged.difference_update(message.key for message in utterance.messages)
            if not fresh:
                return
            utterance = Utterance(fresh)
        await self.bus.publish(UtteranceClosed(utterance))

    async def _close_by_clock(self) -> None:
        while True:
            self._timer_wake.clear()
            for utterance in self.merger.close_due(self._clock.now()):
                await self._publish_utterance(utterance)
            await self._until_due_or_message()

    async def _until_due_or_message(self) -> None:
        """Return when the earliest window passes, or at the next message: it may bring an earlier one."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._timer_wake.wait())]
        deadline = self.merger.next_deadline()
        if deadline is not None:
            left = (deadline - self._clock.now()).total_seconds() + 0.01
            waits.append(asyncio.ensure_future(self._clock.sleep(min(left, LONGEST_NAP))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _on_recall(self, event: MessageRecalled) -> None:
        self.merger.remove(event.conversation, event.recall.message_id)
        self._memory.remove(event.conversation, event.recall.message_id)

    # --- filtering and recording

    async def _on_utterance(self, event: UtteranceClosed) -> None:
        utterance = event.utterance
        self.counts.utterances += 1
        kept = self.filter.examine(utterance.text)
        question = await self._memory.question(utterance, kept.rule, self.settings.glossary) if kept.is_question else None
        await self._to_record.put((utterance, question))

    async def _record_waiting(self) -> None:
        while True:
            batch = await _take(self._to_record, self.settings.record_together)
            for _ in range(RECORD_ATTEMPTS):
                if await self._guarded("storage", partial(self._record, batch)):
                    break
                await self._clock.sleep(STORAGE_PAUSE)
            for _ in batch:
                self._to_record.task_done()

    async def _record(self, batch: Sequence[tuple[Utterance, Question | None]]) -> None:
        for question in await self.questions.record_many(batch):
            self.counts.questions += 1
            self.bus.publish_result(QuestionAsked(question))
            if self.gate is not None:
                await self._to_judge.put(question)

    # --- judging and resolving

    async def _judge_waiting(self) -> None:
        while True:
            batch = await _take(self._to_judge, self.settings.judge_together)
            for part in self._apart(batch):
                await self._guarded("gate", partial(self._judge, part), part)
            for _ in batch:
                self._to_judge.task_done()

    def _apart(self, batch: Sequence[Question]) -> list[list[Question]]:
        """Questions that failed before are judged alone: one that no model can take must not fail its neighbours again."""
        fresh = [question for question in batch if not self._retries.has_failed(question.id)]
        return [*([fresh] if fresh else []), *([question] for question in batch if self._retries.has_failed(question.id))]

    async def _judge(self, batch: Sequence[Question]) -> None:
        assert self.gate is not None
        for position, (question, verdict) in enumerate(zip(batch, await self.gate.judge(batch), strict=True)):
            with self._again_if_not_stored(batch[position:]):
                await self.questions.judged(question.id, verdict)
            self.counts.judged += 1
            self.bus.publish_result(QuestionJudged(question, verdict))
            if not verdict.needs_resolution:
                self.bus.publish_result(QuestionResolved(question, verdict, None))
                continue
            self.counts.needs_resolution += 1
            if self.resolver is None:
                self.bus.publish_result(QuestionResolved(question, verdict, None))
            else:
                await self._to_resolve.put((question, verdict))

    async def _resolve_waiting(self) -> None:
        while True:
            question, verdict = await self._to_resolve.get()
            await self._guarded("resolver", partial(self._resolve, question, verdict), [question])
            self._to_resolve.task_done()

    async def _resolve(self, question: Question, verdict: Verdict) -> None:
        assert self.resolver is not None
        try:
            resolution = await self.resolver.resolve(question)
        except PromptTooLongError as error:  # it would be so every time
            log.warning("question_too_long", backend=error.backend, problem=error.problem, effect="it goes on unresolved")
            resolution = Resolution(None, None, 0.0, error.backend, "", RefusalReason.BACKEND_FAILED)
        with self._again_if_not_stored([question]):
            resolution = await self.questions.resolved(question.id, resolution, question.context)
        if resolution.rewrite is not None:
            self.counts.resolved += 1
        self.bus.publish_result(QuestionResolved(question, verdict, resolution))

    @contextmanager
    def _again_if_not_stored(self, questions: Sequence[Question]) -> Iterator[None]:
        """Take ``questions`` up again after a while where the database fails. No others of their batch: those are through, or wait in a queue."""
        try:
            yield
        except StorageError:
            for question in questions:
                self._retries.failed(question.id, None)
            raise

    async def _guarded(self, stage: str, work: Callable[[], Awaitable[None]], of: Sequence[Question] = ()) -> bool:
        """A failing model or database must not end the worker: the questions that it was busy with stay unfinished in the log. Those ``of`` a failing model are taken up again when
        it may be asked again; what another fault kept from its end is taken up by the next start. Returns False when the database failed.
        """
        try:
            await work()
        except BackendError as error:
            self.counts.backend_failures += 1
            log.warning("backend_failed", stage=stage, backend=error.backend, problem=error.problem, questions=len(of))
            for question in of:
                self._retries.failed(question.id, error.retry_after)
        except StorageError as error:
            self.counts.backend_failures += 1
            log.error("stage_failed", stage=stage, error=type(error).__name__, problem=error.problem, remedy=error.remedy)
            return False
        except Exception as error:  # whatever a stage raises must not end its worker
            self.counts.backend_failures += 1
            log.error("stage_failed", stage=stage, error=type(error).__name__)
            log.debug("stage_failed_detail", stage=stage, detail=str(error))
        else:
            for question in of:
                self._retries.succeeded(question.id)
        return True

    async def _retry_failed(self) -> None:
        """Give questions whose model failed back to the queues, as they stand in the log by then: what was recalled meanwhile is not among them."""
        while True:
            due = await self._retries.next()
            if not await self._guarded("storage", partial(self._retry, due)):
                for identity in due:
                    self._retries.failed(identity, STORAGE_PAUSE)

    async def _retry(self, due: set[str]) -> None:
        # Only those that failed: whatever else is unfinished waits in a queue already, and would be judged twice.
        again = await self.questions.unfinished(due)
        for erased in due.difference(entry.question.id for entry in again):
            self._retries.succeeded(erased)
        log.info("questions_taken_up", questions=len(again))
        await self._take_up(again)


async def _take(queue: asyncio.Queue[T], most: int) -> list[T]:
    """Wait for one item, and take what else waits, up to ``most``."""
    taken = [await queue.get()]
    while len(taken) < most and not queue.empty():
        taken.append(queue.get_nowait())
    return taken
