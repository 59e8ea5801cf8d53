"""What all bots share at the command line: errors as one line and an exit code, logging, ``--check``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bots import retraining
from core.config import Config, load_config
from core.errors import DoujieError
from core.gates.factory import open_models
from core.gates.machine import describe_machine
from core.logs import configure_logs, secrets_of
from core.relabel import open_relabel_models, uses_serving_gate
from storage.engine import open_database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="INI file; see config.example.ini. Without it the defaults and DOUJIE_* variables hold.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only check config, credentials, database and model, and say what to do.")]
GroupsOption = Annotated[bool, typer.Option("--groups", help="List the groups that the bot is in, and leave.")]

OK, BAD_INPUT = 0, 2
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
    """Check what every bot needs: config, database, models, and what its periodic jobs need. Prints a line for each; True when all is well."""
    print(f"ok    config: {config.source}")
    checks: list[Callable[[Config], Awaitable[list[str]]]] = [_check_database, _check_machine, _check_models]
    if config.relabel.enabled and not uses_serving_gate(config):
        checks.append(_check_relabelling)
    if config.relabel.cycle_cron:
        checks.append(_check_retraining)
    fine = True
    for check in checks:
        try:
            for line in await check(config):
                print(f"ok    {line}")
        except DoujieError as error:
            fine = False
            print(f"FAIL  {error}")
    return fine


async def _check_database(config: Config) -> list[str]:
    database = await open_database(config.storage.url)
    await database.close()
    return [f"database: {database.url}"]


async def _check_machine(_config: Config) -> list[str]:
    return [f"machine: {describe_machine()}"]


async def _check_models(config: Config) -> list[str]:
    models = await open_models(config)
    await models.close()
    return models.notes or ["gate: none; questions are stored unjudged"]


async def _check_relabelling(config: Config) -> list[str]:
    models = await open_relabel_models(config)
    await models.close()
    return [f"judging again: {note}" for note in models.notes]


async def _check_retraining(config: Config) -> list[str]:
    return [await retraining.run(retraining.check_of(config))]
