"""``python -m scripts.label``: the labelling page, the page of disagreements and the dashboard, in a browser on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from adapters.web.labelling import LONGEST_NAME
from adapters.web.pages import add_pages
from adapters.web.security import new_token
from adapters.web.server import WebServer, page_address
from adapters.web.setup import PagesSetup
from core.config import Config, load_config
from core.errors import ConfigError, DoujieError, InputError
from core.logs import configure_logs, secrets_of
from storage.engine import open_database

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
LONGEST_FORM_BYTES = 1 << 20


@app.command()
def main(
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets a phone in the same network in (without encryption).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 0,
    labeller: Annotated[str, typer.Option(help="Name of who labels, where the browser has chosen none; empty: the page asks.")] = "",
) -> None:
    """Serve the pages until Ctrl-C, and print their address."""
    try:
        settings = load_config(config)
        configure_logs(settings.bot.log_level, settings.bot.log_format, secrets_of(settings))
        asyncio.run(serve(settings, host, port, labeller.strip(), typer.echo))
    except DoujieError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


async def serve(config: Config, host: str, port: int, labeller: str, tell: Callable[[str], object], stop: asyncio.Event | None = None) -> None:
    """Serve until ``stop`` is set (or a signal). ``tell``: is given the lines for the terminal, the address with its token among them.

    :raises InputError: for an address that cannot be served, or a name that is too long. :raises StorageError: when the database cannot be opened.
    """
    if len(labeller) > LONGEST_NAME or not labeller.isprintable():
        raise InputError("--labeller", f"not a name of at most {LONGEST_NAME} printable characters", "Give a shorter one.")
    token = config.web.token.get_secret_value() or new_token()
    database = await open_database(config.storage.url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        application = web.Application(client_max_size=LONGEST_FORM_BYTES)
        add_pages(application, PagesSetup(database, token, config.bot.timezone, config.bot.language, home="/label", labeller=labeller))
        server = WebServer(application, host, port)
        try:
            await server.start()
        except ConfigError as error:
            raise InputError(f"--{error.key} {error.value}", error.problem, "Choose another one.") from None
        stack.push_async_callback(server.stop)
        assert server.address is not None
        tell(f"Open {page_address(host, server.address[1], token)}")
        if host not in ("127.0.0.1", "::1", "localhost"):
            tell("Who is in this network can reach it, and reads along without encryption: use a network you trust, or a proxy with TLS.")
        tell("Ctrl-C ends it; every answer is stored as it is given.")
        await (stop or _stop_on_signal()).wait()


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


if __name__ == "__main__":
    app()
