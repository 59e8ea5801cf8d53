"""The Feishu bot: python -m bots.feishu --config config.ini."""

from __future__ import annotations

import typer

from bots import commandline
from bots.commandline import CheckOption, ConfigOption, GroupsOption
from bots.run import live_in


def main(config: ConfigOption = None, check: CheckOption = False, groups: GroupsOption = False) -> None:
    """Live in Feishu groups: notice questions that cannot be understood alone, resolve them, log everything."""
    commandline.run(live_in(["feishu"], config, check=check, groups=groups))


if __name__ == "__main__":
    typer.run(main)
