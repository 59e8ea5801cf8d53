"""A bot that lives in groups: adapters, spine, replies, metrics; started in order, stopped in reverse by SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from adapters.web.health import Readiness
from adapters.web.metrics import Metrics, Sources
from adapters.web.security import new_token
from adapters.web.server import WebServer, make_app, page_address
from adapters.web.setup import PagesSetup
from bots import commandline
from bots.wiring import Spine, open_spine
from core.answering import make_answer_service
from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import DoujieError
from core.gates.factory import Models
from core.ports import Adapter
from core.responder import ReplyRules, Responder
from core.taking_back import TakingBack
from storage.groups import SqlGroups
from storage.members import SqlMembers
from storage.outbox import SqlOutbox

log = structlog.get_logger(__name__)

PLATFORMS = ("wechat", "feishu")
RETENTION_EVERY = timedelta(hours=24)


def make_adapter(platform: str, config: Config, clock: Clock) -> Adapter:
    """The adapter of ``platform``, not started; the SDK is imported only for the platform that is used."""
    if platform == "feishu":
        from adapters.feishu.adapter import FeishuAdapter

        return FeishuAdapter(config.feishu, clock)
    from adapters import wechat

    return wechat.make_adapter(config.wechat, clock)


async def live(config: Config, platforms: Sequence[str], stop: asyncio.Event | None = None, clock: Clock | None = None, models: Models | None = None) -> int:
    """Run the bots of ``platforms`` on one bus and one database until ``stop`` (or a signal). Returns the exit code.

    ``models``: a gate and resolver to use, and to close at the end, instead of those that the config names.
    """
    clock = clock or SystemClock()
    adapters = {platform: make_adapter(platform, config, clock) for platform in platforms}
    metrics = Metrics()
    stop = stop or _stop_on_signal()
    async with open_spine(config, live=True, adapters=adapters, models=models, clock=clock, observe=metrics.observe, on_step=_tell_step) as spine, AsyncExitStack() as stack:
        responder = Responder(
            spine.bus, spine.delivery, spine.groups, SqlGroups(spine.database), ReplyRules.of(config.bot), make_answer_service(config.answer), observe=metrics.observe, clock=clock
        )
        await responder.start()
        await responder.take_up(spine.questions, tuple(adapters))
        stack.push_async_callback(responder.stop)
        await spine.delivery.start()
        stack.push_async_callback(spine.delivery.stop)
        taking_back = TakingBack(spine.bus, SqlOutbox(spine.database), adapters, clock)
        stack.push_async_callback(taking_back.stop)
        await taking_back.start()
        await _serve_web(config, spine, responder, adapters, metrics, clock, stack)
        if config.privacy.retention_days:
            retention = asyncio.create_task(_retain(spine, config.privacy.retention_days, clock), name="retention")
            stack.push_async_callback(_cancel, retention)
        for platform, adapter in adapters.items():
            stack.push_async_callback(adapter.stop)
            await adapter.start(spine.ingest)
            if adapter.bot_id:
                spine.ingest.ignore_sender(platform, adapter.bot_id)
            log.info("adapter_started", platform=platform)
        await _start_jobs(config, spine, clock, stack)
        if not config.bot.groups:
            log.warning("no_groups", remedy="[bot] groups is empty: nothing is collected. Groups that are heard are named here; add their ids.")
        if config.bot.reply == "answer" and not config.answer.base_url:
            log.warning("no_answers", remedy="[bot] reply = answer, but nobody answers: set [answer] base_url, or [bot] reply to rewrite or off.")
        _settle_memory()
        await stop.wait()
        log.info("stopping")
    return commandline.OK


def _settle_memory() -> None:
    """What was loaded so far lives as long as the bot: a full collection that looks through it stalls the event loop for 100 ms and more."""
    gc.freeze()


def _tell_step(step: str) -> None:
    log.info("loading", part=step)


async def _serve_web(config: Config, spine: Spine, responder: Responder, adapters: Mapping[str, Adapter], metrics: Metrics, clock: Clock, stack: AsyncExitStack) -> None:
    """Health, metrics and pages on ``[web] port``."""
    if config.web.port == 0:
        return
    metrics.watch(Sources(adapters, spine.bus, spine.ingest, spine.pipeline, responder, spine.delivery, failovers=spine.models.failovers, outbox=SqlOutbox(spine.database).counts))
    token = config.web.token.get_secret_value() or new_token()
    pages = PagesSetup(spine.database, token, config.bot.timezone, config.bot.language, adapters=adapters, clock=clock)
    server = WebServer(make_app(Readiness(adapters, lambda: True), metrics, pages), config.web.host, config.web.port)
    await server.start()
    stack.push_async_callback(server.stop)
    log.info("web", address=f"http://{config.web.host}:{config.web.port}/healthz")
    if not config.web.token.get_secret_value():
        _tell_pages(page_address(config.web.host, config.web.port, token))


def _tell_pages(address: str) -> None:
    """Only to a person at a terminal: what is printed elsewhere ends in a log, where the token must not stand."""
    if sys.stdout.isatty():
        print(f"Dashboard and labelling: {address}", flush=True)
    else:
        log.info("pages", remedy="[web] token is empty: nobody knows the token of this start. Set it to open the pages.")


async def _start_jobs(config: Config, spine: Spine, clock: Clock, stack: AsyncExitStack) -> None:
    if not (config.relabel.enabled or config.relabel.cycle_cron):
        return
    from bots.jobs import periodic_jobs  # a scheduler takes 0.2 s to import

    jobs = periodic_jobs(config, spine, clock)
    stack.push_async_callback(jobs.stop)
    await jobs.start()


async def _retain(spine: Spine, days: int, clock: Clock) -> None:
    """Erase what is older than ``days``, now and once a day."""
    members = SqlMembers(spine.database)
    while True:
        try:
            erased = await members.retain(days)
            if erased:
                log.info("retention", erased=erased, days=days)
        except DoujieError as error:
            log.warning("retention_failed", problem=str(error))
        await clock.sleep(RETENTION_EVERY.total_seconds())


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
