"""Several bots in one process, on one bus and one database: python -m bots.run wechat feishu --config config.ini."""

from __future__ import annotations

from typing import Annotated

import typer

from bots import commandline, live
from bots.commandline import CheckOption, ConfigOption, read_config
from core.errors import InputError


def main(
    platforms: Annotated[list[str], typer.Argument(help="wechat, feishu, or both.")],
    config: ConfigOption = None,
    check: CheckOption = False,
) -> None:
    """Live in the groups of several platforms at once."""

    async def work() -> int:
        for platform in platforms:
            if platform not in live.PLATFORMS:
                raise InputError(platform, "no such platform", f"Known: {', '.join(live.PLATFORMS)}.")
        chosen = list(dict.fromkeys(platforms))
        settings = read_config(config)
        return await (live.check(settings, chosen) if check else live.live(settings, chosen))

    commandline.run(work())


if __name__ == "__main__":
    typer.run(main)
