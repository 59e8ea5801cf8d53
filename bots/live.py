"""A bot that lives in groups: adapters, spine, replies, metrics; started in order, stopped in reverse by SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from adapters.checks import Finding
from adapters.web.health import Readiness
from adapters.web.metrics import Metrics, Sources
from adapters.web.server import WebServer, make_app
from bots import commandline
from bots.commandline import check_spine
from bots.wiring import Spine, open_spine
from core.answering import make_answer_service
from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import DoujieError
from core.gates.factory import Models
from core.ports import Adapter
from core.responder import ReplyRules, Responder
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
        stack.push_async_callback(responder.stop)
        await spine.delivery.start()
        stack.push_async_callback(spine.delivery.stop)
        await _serve_metrics(config, spine, responder, adapters, metrics, stack)
        if config.privacy.retention_days:
            retention = asyncio.create_task(_retain(spine, config.privacy.retention_days, clock), name="retention")
            stack.push_async_callback(_cancel, retention)
        for platform, adapter in adapters.items():
            stack.push_async_callback(adapter.stop)
            await adapter.start(spine.ingest)
            if bot_id := getattr(adapter, "bot_id", ""):
                spine.ingest.ignore_sender(platform, bot_id)
            log.info("adapter_started", platform=platform)
        if not config.bot.groups:
            log.warning("no_groups", remedy="[bot] groups is empty: nothing is collected. Groups that are heard are named here; add their ids.")
        _settle_memory()
        await stop.wait()
        log.info("stopping")
    return commandline.OK


def _settle_memory() -> None:
    """What was loaded so far lives as long as the bot: a full collection that looks through it stalls the event loop for 100 ms and more."""
    gc.freeze()


def _tell_step(step: str) -> None:
    log.info("loading", part=step)


async def _serve_metrics(config: Config, spine: Spine, responder: Responder, adapters: Mapping[str, Adapter], metrics: Metrics, stack: AsyncExitStack) -> None:
    if config.web.port == 0:
        return
    metrics.watch(Sources(adapters, spine.bus, spine.ingest, spine.pipeline, responder, spine.delivery, failovers=spine.models.failovers, outbox=SqlOutbox(spine.database).counts))
    server = WebServer(make_app(Readiness(adapters, lambda: True), metrics), config.web.host, config.web.port)
    await server.start()
    stack.push_async_callback(server.stop)
    log.info("web", address=f"http://{config.web.host}:{config.web.port}/healthz")


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


async def check(config: Config, platforms: Sequence[str]) -> int:
    """``--check``: config, database, models, and each platform's credentials and scopes, with remedies."""
    fine = await check_spine(config)
    for platform in platforms:
        for finding in await _platform_findings(platform, config):
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {platform}: {finding.what}" + (f". {finding.remedy}" if finding.remedy else ""))
            fine = fine and finding.ok
    if fine:
        await groups(config, platforms)
    if not config.bot.groups:
        print("note  [bot] groups is empty: nothing would be collected. Add ids of the groups above.")
    return commandline.OK if fine else commandline.BAD_INPUT


async def _platform_findings(platform: str, config: Config) -> list[Finding]:
    try:
        if platform == "feishu":
            from adapters.feishu.adapter import FeishuAdapter

            return await FeishuAdapter(config.feishu).check()
        from adapters import wechat

        return await wechat.check(config.wechat)
    except DoujieError as error:
        return [Finding(False, str(error))]


async def groups(config: Config, platforms: Sequence[str]) -> int:
    """``--groups``: ids and names of the groups that the bot is in, and which of them are collected. Returns the exit code: 2 when a platform's groups cannot be listed."""
    code = commandline.OK
    for platform in platforms:
        lister = getattr(make_adapter(platform, config, SystemClock()), "groups", None)
        listed: list[tuple[str, str]] = []
        try:
            listed = await lister() if lister is not None else []
        except _listing_errors(platform) as error:
            code = commandline.BAD_INPUT
            print(f"note  {platform}: groups cannot be listed: {error}")
        for chat_id, name in listed:
            mark = "collected    " if {chat_id, f"{platform}:{chat_id}"} & set(config.bot.groups) else "not collected"
            print(f"group {platform}: {mark} {chat_id}  {name}")
    return code


def _listing_errors(platform: str) -> tuple[type[Exception], ...]:
    if platform == "feishu":
        from adapters.feishu.rest import ApiError

        return DoujieError, ApiError
    return (DoujieError,)
