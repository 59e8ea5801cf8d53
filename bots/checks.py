"""``--check`` and ``--groups`` of the bots that live in groups: what is missing, with remedies, and which groups there are."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.checks import Finding
from bots import commandline
from bots.commandline import check_spine
from bots.live import make_adapter
from core.answering import make_answer_service
from core.clock import SystemClock
from core.config import Config, as_entry
from core.errors import ConfigError, DoujieError
from storage.engine import open_database
from storage.inbox import SqlInbox


async def check(config: Config, platforms: Sequence[str]) -> int:
    """``--check``: config, database, models, and each platform's credentials and scopes, with remedies."""
    fine = await check_spine(config)
    for platform in platforms:
        for finding in await _platform_findings(platform, config):
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {platform}: {finding.what}" + (f". {finding.remedy}" if finding.remedy else ""))
            fine = fine and finding.ok
    try:
        make_answer_service(config.answer)
    except ConfigError as error:
        fine = False
        print(f"FAIL  {error}")
    if config.bot.reply == "answer" and not config.answer.base_url:
        fine = False
        print("FAIL  [bot] reply = answer: nobody answers. Set [answer] base_url to an OpenAI-compatible or a HuixiangDou server, or [bot] reply to rewrite or off.")
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
    """``--groups``: ids and names of the groups that the bot is in (or was heard from, where the platform lists none), and which of them are collected.

    Returns the exit code: 2 when a platform's groups cannot be listed.
    """
    code = commandline.OK
    for platform in platforms:
        lister = getattr(make_adapter(platform, config, SystemClock()), "groups", None)
        listed: list[tuple[str, str]] = []
        try:
            listed = await lister() if lister is not None else []
            listed = listed or await _heard_before(platform, config)
        except _listing_errors(platform) as error:
            code = commandline.BAD_INPUT
            print(f"note  {platform}: groups cannot be listed: {error}")
        if not listed and code == commandline.OK:
            print(f"note  {platform}: no groups are listed here. Start the bot and write to a group: the log names each group that is heard, with its id.")
        for chat_id, name in listed:
            mark = "collected    " if {chat_id, f"{platform}:{chat_id}"} & set(config.bot.groups) else "not collected"
            print(f"group {platform}: {mark} {as_entry(chat_id)}  {name}")
    return code


async def _heard_before(platform: str, config: Config) -> list[tuple[str, str]]:
    """(group id, name) of the groups of which something is stored: for platforms that list none."""
    database = await open_database(config.storage.url)
    try:
        return [(conversation.chat_id, name) for conversation, name in (await SqlInbox(database).chats()).items() if conversation.platform == platform]
    finally:
        await database.close()


def _listing_errors(platform: str) -> tuple[type[Exception], ...]:
    if platform == "feishu":
        from adapters.feishu.rest import ApiError

        return DoujieError, ApiError
    return (DoujieError,)
