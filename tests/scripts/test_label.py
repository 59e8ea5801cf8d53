"""``python -m scripts.label``: what it prints, serves and refuses."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from core.config import Config, load_config
from core.errors import InputError, StorageError
from scripts.label import app, serve
from tests.adapters.manual_clock import eventually

URL = re.compile(r"http://\S+")


def config_of(path: Path, **web: str) -> Config:
    return load_config(None, {}, storage={"url": f"sqlite:///{path / 'd.db'}"}, web=web)


async def first_page(config: Config, labeller: str = "", host: str = "127.0.0.1") -> tuple[list[str], str]:
    """The lines for the terminal and the page behind the address in them."""
    lines: list[str] = []
    stop = asyncio.Event()
    served = asyncio.create_task(serve(config, host, 0, labeller, lines.append, stop))
    await eventually(lambda: lines or served.done())
    if served.done():
        await served
    address = URL.search(lines[0])
    assert address is not None
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session, session.get(address[0], headers={"Accept-Language": "en"}) as response:
        page = await response.text()
        assert response.status == 200
    stop.set()
    await asyncio.wait_for(served, 10)
    return lines, page


async def test_the_printed_address_opens_the_page_with_a_new_token_each_time(tmp_path: Path) -> None:
    lines, page = await first_page(config_of(tmp_path))
    assert "Who labels?" in page
    again, _ = await first_page(config_of(tmp_path))
    tokens = {re.search(r"\?token=(\S{24,})", printed[0])[1] for printed in (lines, again)}  # type: ignore[index]
    assert len(tokens) == 2


async def test_token_and_name_can_be_chosen(tmp_path: Path) -> None:
    lines, page = await first_page(config_of(tmp_path, token="of-my-own-choice"), labeller="anna")
    assert lines[0].endswith("/?token=of-my-own-choice")
    assert "No question is logged yet" in page
    assert "anna" in page


async def test_an_address_for_others_comes_with_a_warning(tmp_path: Path) -> None:
    lines, _ = await first_page(config_of(tmp_path), host="0.0.0.0")
    assert any("without encryption" in line for line in lines)


async def test_a_port_in_use_a_missing_folder_and_a_long_name_are_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"--port \d+: another program uses this port\. Choose another one"):
            await serve(config_of(tmp_path), "127.0.0.1", taken.getsockname()[1], "", print)
    with pytest.raises(InputError, match="--labeller: not a name of at most 40"):
        await serve(config_of(tmp_path), "127.0.0.1", 0, "x" * 41, print)
    with pytest.raises(StorageError, match="does not exist"):
        await serve(config_of(tmp_path / "nowhere"), "127.0.0.1", 0, "", print)


def test_errors_end_the_command_with_code_2(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["--config", str(tmp_path / "missing.ini")])
    assert run.exit_code == 2
    assert "file not found" in run.output
    assert len(run.output.strip().splitlines()) == 1
