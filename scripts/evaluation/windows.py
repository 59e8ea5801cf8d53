"""Whole group windows through the whole pipeline: messages in, rewrites out.

Each window is a chat of its own in a temporary database. For each labelled question the pipeline's own question is the one whose utterance holds the labelled last message;
when there is none, the question was not *found* and counts as judged "no".
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from pathlib import Path

from core.bus import EventBus
from core.config import Config
from core.errors import BackendError
from core.events import MessageStored, QuestionAsked, QuestionJudged, QuestionResolved
from core.grounding import check, sources, squeeze, tokens
from core.merger import Merger, MergeRules
from core.messages import Message, Question, RefusalReason, Resolution, Verdict
from core.pipeline import Pipeline, PipelineSettings
from core.question_filter import QuestionFilter
from scripts.evaluation.forms import Window, WindowQuestion
from scripts.evaluation.results import Advance, Models
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog

_PLATFORM = "window"
#: Windows that are under way together, so that the gate sees batches.
_TOGETHER = 8


class Outcome(StrEnum):
    """What became of a question. ``HARMLESS``: an accepted rewrite of a question that stands alone, which adds nothing foreign."""

    RIGHT = "right"
    WRONG = "wrong"
    REFUSED = "refused"
    HARMLESS = "harmless"
    LEFT_ALONE = "left alone"


@dataclass(slots=True)
class _Seen:
    """What the pipeline made of one of its questions."""

    question: Question
    verdict: Verdict | None = None
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled question with what the pipeline made of it; ``question`` is None when it was not found."""

    window: Window
    labelled: WindowQuestion
    question: Question | None = None
    verdict: Verdict | None = None
    resolution: Resolution | None = None

    @property
    def text(self) -> str:
        """The question as the pipeline saw it, else as it stands in the window."""
        return self.question.text if self.question else " ".join(self.window.messages[index].text for index in self.labelled.indices)

    @property
    def needs_resolution(self) -> bool:
        return self.labelled.label == "yes"

    @property
    def judged_yes(self) -> bool:
        return self.verdict is not None and self.verdict.needs_resolution

    @property
    def rewrite(self) -> str | None:
        return self.resolution.rewrite if self.resolution else None

    @property
    def candidate(self) -> str | None:
        return self.resolution.candidate if self.resolution else None

    @property
    def refused_only_as_unsure(self) -> bool:
        """The candidate passed every test but that of confidence, or all: a lower threshold would accept it."""
        return self.resolution is not None and self.resolution.reason in (None, RefusalReason.UNSURE) and self.resolution.candidate is not None

    @property
    def invents(self) -> bool:
        return self.question is not None and self.rewrite is not None and bool(check(self.question.text, self.rewrite, sources(self.question)).invented)

    def outcome_of(self, rewrite: str | None) -> Outcome:
        """What it would mean to accept ``rewrite`` (None: to refuse)."""
        if rewrite is None:
            return Outcome.REFUSED if self.needs_resolution else Outcome.LEFT_ALONE
        if self.needs_resolution:
            return Outcome.RIGHT if is_right(self.labelled, self.text, rewrite) else Outcome.WRONG
        return Outcome.WRONG if adds_foreign_term(self.labelled, self.text, rewrite) else Outcome.HARMLESS


def is_right(labelled: WindowQuestion, question: str, rewrite: str) -> bool:
    """Does ``rewrite`` hold every wanted term, and no unwanted one that the question itself lacks? Where gold says only what was asked already, nothing
    else may be added. What stands nowhere (no gold, no terms) can only be guessed wrong."""
    held, asked = squeeze(rewrite), squeeze(question)
    if any(squeeze(term) in held and squeeze(term) not in asked for term in labelled.must_not_contain):
        return False
    if labelled.must_contain:
        return all(squeeze(term) in held for term in labelled.must_contain)
    if labelled.gold is None:
        return False
    wanted = _added(labelled.gold, question)
    return all(token in held for token in wanted) if wanted else not _added(rewrite, f"{question}\n{labelled.gold}")


def adds_foreign_term(labelled: WindowQuestion, question: str, rewrite: str) -> bool:
    """Does ``rewrite`` put something foreign into a question that stands alone? Without a list of foreign terms, any word that was not asked is foreign."""
    if labelled.must_not_contain:
        held, asked = squeeze(rewrite), squeeze(question)
        return any(squeeze(term) in held and squeeze(term) not in asked for term in labelled.must_not_contain)
    return bool(_added(rewrite, question))


def _added(text: str, question: str) -> tuple[str, ...]:
    """The words of ``text`` that the question lacks and that name something: what would be an invention if only the question were known."""
    return check(question, text, [question]).invented if tokens(text) else ()


async def run_windows(windows: Sequence[Window], models: Models, config: Config, advance: Advance) -> list[Answer]:
    """Every labelled question of ``windows``, in order, with what the pipeline made of it.

    :raises BackendError: when a model failed on the way: figures over half of the questions would be none.
    """
    seen: dict[str, _Seen] = {}
    with tempfile.TemporaryDirectory(prefix="doujie-evaluate-") as folder:
        async with _pipeline(Path(folder) / "windows.db", models, config) as (pipeline, inbox):
            _listen(pipeline.bus, seen)
            for start in range(0, len(windows), _TOGETHER):
                together = range(start, min(start + _TOGETHER, len(windows)))
                for number in together:
                    for message in await inbox.add(_messages(windows[number], number)):
                        await pipeline.bus.publish(MessageStored(message, live=False))
                await pipeline.flush()
                advance(len(together))
            if pipeline.counts.backend_failures or pipeline.bus.failures:
                raise BackendError("gate or resolver", f"failed {pipeline.counts.backend_failures + pipeline.bus.failures} times over the windows; see the log above")
    by_message = {(int(item.question.conversation.chat_id), int(message_id)): item for item in seen.values() for message_id in item.question.message_ids}
    answers = []
    for number, window in enumerate(windows):
        for labelled in window.questions:
            item = by_message.get((number, labelled.indices[-1]))
            answers.append(Answer(window, labelled, item.question, item.verdict, item.resolution) if item else Answer(window, labelled))
    return answers


@asynccontextmanager
async def _pipeline(path: Path, models: Models, config: Config) -> AsyncIterator[tuple[Pipeline, SqlInbox]]:
    database = await open_database(f"sqlite+aiosqlite:///{path}")
    bus, inbox = EventBus(), SqlInbox(database)
    merge = config.merge
    rules = MergeRules(merge.window_seconds, merge.finished_window_seconds, merge.max_wait_seconds, merge.max_messages, merge.max_chars)
    settings = PipelineSettings(context_lines=config.gate.context_lines, glossary=config.bot.glossary)
    question_filter = QuestionFilter(config.filter.min_chars, config.filter.max_chars)
    pipeline = Pipeline(bus, inbox, SqlQuestionLog(database), Merger(rules), question_filter, models.gate, models.resolver, settings)
    try:
        await bus.start()
        await pipeline.start(live=False)
        yield pipeline, inbox
    finally:
        await pipeline.stop()
        await bus.stop(timeout=1.0)
        await database.close()


def _listen(bus: EventBus, seen: dict[str, _Seen]) -> None:
    async def asked(event: QuestionAsked) -> None:
        seen[event.question.id] = _Seen(event.question)

    async def judged(event: QuestionJudged) -> None:
        seen[event.question.id].verdict = event.verdict

    async def resolved(event: QuestionResolved) -> None:
        seen[event.question.id].resolution = event.resolution

    bus.subscribe(QuestionAsked, asked)
    bus.subscribe(QuestionJudged, judged)
    bus.subscribe(QuestionResolved, resolved)


def _messages(window: Window, number: int) -> list[Message]:
    return [
        Message(
            _PLATFORM,
            str(number),
            str(index),
            message.sender,
            message.text,
            message.at.astimezone(UTC),
            window.id,
            message.sender,
            reply_to=None if message.reply_to is None else str(message.reply_to),
        )
        for index, message in enumerate(window.messages)
    ]
