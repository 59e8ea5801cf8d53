"""The Feishu bot: python -m bots.feishu --config config.ini."""

from __future__ import annotations

from typing import Annotated

import typer

from bots import commandline, live
from bots.commandline import CheckOption, ConfigOption, read_config


def main(
    config: ConfigOption = None,
    check: CheckOption = False,
    groups: Annotated[bool, typer.Option("--groups", help="List the groups that the bot is in, and leave.")] = False,
) -> None:
    """Live in Feishu groups: notice questions that cannot be understood alone, resolve them, log everything."""

    async def work() -> int:
        settings = read_config(config)
        if check:
            return await live.check(settings, ["feishu"])
        if groups:
            return await live.groups(settings, ["feishu"])
        return await live.live(settings, ["feishu"])

    commandline.run(work())


if __name__ == "__main__":
    typer.run(main)
