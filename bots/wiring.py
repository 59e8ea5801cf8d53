"""From a config to running objects: database, models, bus, pipeline; the order of starting, and the reverse order of stopping."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from core.bus import EventBus
from core.clock import Clock, SystemClock
from core.commands import CommandHandler
from core.config import Config, MergeSection
from core.consent import Consent
from core.delivery import Delivery
from core.gates.factory import Models, open_models
from core.groups import Groups, ReplyMode
from core.ingest import Ingest
from core.merger import Merger, MergeRules
from core.pipeline import Pipeline, PipelineSettings
from core.ports import Adapter, ChatAdmins
from core.question_filter import QuestionFilter
from core.timings import Observe, unobserved
from storage.announcements import SqlAnnouncements
from storage.engine import Database, open_database
from storage.groups import SqlGroups
from storage.inbox import SqlInbox
from storage.members import SqlMembers
from storage.outbox import SqlOutbox
from storage.questions import SqlQuestionLog

log = structlog.get_logger(__name__)

#: What a live bot's questions in flight may take when it stops: a service manager kills it after a minute.
STOP_SECONDS: Final = 20.0


@dataclass(slots=True)
class Spine:
    """Everything between an adapter and the database, running."""

    config: Config
    database: Database
    models: Models
    bus: EventBus
    inbox: SqlInbox
    questions: SqlQuestionLog
    pipeline: Pipeline
    groups: Groups
    ingest: Ingest
    delivery: Delivery


def merge_rules(section: MergeSection) -> MergeRules:
    return MergeRules(section.window_seconds, section.finished_window_seconds, section.max_wait_seconds, section.max_messages, section.max_chars)


def _commands(config: Config, delivery: Delivery, groups: Groups, consent: Consent, states: SqlGroups, adapters: Mapping[str, Adapter], clock: Clock) -> CommandHandler:
    leaders = {platform: adapter for platform, adapter in adapters.items() if isinstance(adapter, ChatAdmins)}
    answers = bool(config.answer.base_url)
    return CommandHandler(delivery, groups, consent, states, states, config.bot.admins, chat_admins=leaders, can_answer=answers, language=config.bot.language, clock=clock)


@asynccontextmanager
async def open_spine(
    config: Config,
    *,
    live: bool,
    adapters: Mapping[str, Adapter] | None = None,
    collect_all: bool = False,
    models: Models | None = None,
    clock: Clock | None = None,
    observe: Observe = unobserved,
    on_step: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[Spine]:
    """A started spine. On leaving: intake has ended, what is in flight is finished (of a live bot only what STOP_SECONDS allow), then everything closes in reverse order.

    ``live``: utterances close by the clock; ``adapters``: platforms that replies go to; ``collect_all``: take every group, not only those of ``[bot] groups`` (replay and console);
    ``models``: a gate and resolver to use (and to close at the end) instead of those that the config names.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        database = await open_database(config.storage.url, now=clock.now)
        stack.push_async_callback(database.close)
        models = models or await open_models(config, on_step, clock=clock)
        stack.push_async_callback(models.close)
        bus = EventBus()
        inbox, questions, states = SqlInbox(database), SqlQuestionLog(database), SqlGroups(database)
        settings = PipelineSettings(context_lines=config.gate.context_lines, glossary=config.bot.glossary, platforms=frozenset(adapters) if adapters else None)
        question_filter = QuestionFilter(config.filter.min_chars, config.filter.max_chars)
        pipeline = Pipeline(bus, inbox, questions, Merger(merge_rules(config.merge)), question_filter, models.gate, models.resolver, settings, clock)
        groups, consent = Groups(states, config.bot.groups, ReplyMode(config.bot.reply)), Consent(SqlMembers(database), inbox, bus, clock)
        await groups.load()
        await consent.load()
        delivery = Delivery(SqlOutbox(database), adapters or {}, timedelta(seconds=config.bot.max_reply_age_seconds), observe=observe, clock=clock)
        commands = _commands(config, delivery, groups, consent, states, adapters, clock) if adapters else None
        notice = config.privacy.notice if config.privacy.post_notice else ""
        announcements = SqlAnnouncements(database)
        ingest = Ingest(inbox, bus, groups, consent, commands, delivery, notice, announcements=announcements, collect_all=collect_all, observe=observe, clock=clock)
        await bus.start()
        stack.push_async_callback(bus.stop)
        stack.push_async_callback(pipeline.stop)
        await pipeline.start(live=live)
        yield Spine(config, database, models, bus, inbox, questions, pipeline, groups, ingest, delivery)
        pipeline.leave_backlog()
        if not await pipeline.drain(STOP_SECONDS if live else None):
            log.info("stopped_with_questions_left", waiting=sum(pipeline.waiting.values()), effect="the next start takes them up")
