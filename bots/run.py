"""Several bots in one process, on one bus and one database: python -m bots.run wechat feishu --config config.ini."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bots import checks, commandline, live
from bots.commandline import CheckOption, ConfigOption, GroupsOption, read_config
from core.errors import InputError


async def live_in(platforms: Sequence[str], config: Path | None, *, check: bool, groups: bool) -> int:
    """What each of these commands does: live in the groups of ``platforms``, or only check or list them. Returns the exit code."""
    for platform in platforms:
        if platform not in live.PLATFORMS:
            raise InputError(platform, "no such platform", f"Known: {', '.join(live.PLATFORMS)}.")
    chosen = list(dict.fromkeys(platforms))
    settings = read_config(config)
    if check:
        return await checks.check(settings, chosen)
    if groups:
        return await checks.groups(settings, chosen)
    return await live.live(settings, chosen)


def main(
    platforms: Annotated[list[str], typer.Argument(help="wechat, feishu, or both.")],
    config: ConfigOption = None,
    check: CheckOption = False,
    groups: GroupsOption = False,
) -> None:
    """Live in the groups of several platforms at once."""
    commandline.run(live_in(platforms, config, check=check, groups=groups))


if __name__ == "__main__":
    typer.run(main)
