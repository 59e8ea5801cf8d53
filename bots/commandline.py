"""What all bots share at the command line: errors as one line and an exit code, logging, ``--check``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from core.config import Config, load_config
from core.errors import DoujieError
from core.gates.factory import open_models
from core.gates.machine import describe_machine
from core.logs import configure_logs, secrets_of
from storage.engine import open_database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="INI file; see config.example.ini. Without it the defaults and DOUJIE_* variables hold.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only check config, credentials, database and model, and say what to do.")]
GroupsOption = Annotated[bool, typer.Option("--groups", help="List the groups that the bot is in, and leave.")]

OK, FAILURE, BAD_INPUT = 0, 1, 2
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run a bot to its end and leave with its exit code; an error of ours is one line on stderr."""
    try:
        code = asyncio.run(work)
    except DoujieError as error:
        errors.print(f"error: {error}", style="red", markup=False)
        code = error.exit_code
    except KeyboardInterrupt:
        code = OK
    sys.exit(code)


def read_config(path: Path | None, **overrides: dict[str, Any]) -> Config:
    """The config, with logging set up after it. Raises ConfigError."""
    config = load_config(path, **overrides)
    configure_logs(config.bot.log_level, config.bot.log_format, secrets_of(config))
    return config


async def check_spine(config: Config) -> bool:
    """Check what every bot needs: config, database, models. Prints a line for each; True when all is well."""
    print(f"ok    config: {config.source}")
    fine = True
    try:
        database = await open_database(config.storage.url)
        await database.close()
        print(f"ok    database: {database.url}")
    except DoujieError as error:
        fine = False
        print(f"FAIL  {error}")
    print(f"ok    machine: {describe_machine()}")
    try:
        models = await open_models(config)
        for note in models.notes or ["gate: none; questions are stored unjudged"]:
            print(f"ok    {note}")
        await models.close()
    except DoujieError as error:
        fine = False
        print(f"FAIL  {error}")
    return fine
