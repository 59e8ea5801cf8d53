"""Real databases, SQLite files and a PostgreSQL server; a clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from storage.engine import Database, open_database
from tests.storage.samples import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "doujie.db"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of a database runs with both kinds, but for those that are marked as a matter of SQLite."""
    if "kind" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("kind", ["sqlite"] if marked else ["sqlite", "postgresql"])


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes empty databases, already migrated, on a PostgreSQL server of the tests' own, from the package pgserver (which has no wheel for every platform)."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed: no PostgreSQL to test with")
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install 'doujie[postgres]'")
    logging.getLogger("pgserver").setLevel(logging.WARNING)  # it talks on when the run is over
    folder = tmp_path_factory.mktemp("pg")
    try:
        server = pgserver.get_server(folder, cleanup_mode=None)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"PostgreSQL does not start on this machine: {error}")
    numbers = itertools.count(1)

    def create(template: str = "migrated") -> str:
        name = f"doujie_{next(numbers)}" if template == "migrated" else "migrated"
        server.psql(f"CREATE DATABASE {name} TEMPLATE {template};")
        return make_url(server.get_uri()).set(database=name).render_as_string(hide_password=False)

    async def migrate(url: str) -> None:
        await (await open_database(url)).close()

    asyncio.run(migrate(create("template0")))
    yield create
    # Not by pg_ctl, which waits a minute where nobody buries the dead.
    os.kill(int((folder / "postmaster.pid").read_text().split()[0]), signal.SIGINT)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str, path: Path) -> str:
    """An empty database."""
    if kind == "sqlite":
        return f"sqlite:///{path}"
    create: Callable[[], str] = request.getfixturevalue("postgres")
    return create()


@pytest.fixture
async def database(url: str, clock: StillClock) -> AsyncIterator[Database]:
    database = await open_database(url, now=clock, busy_timeout=5)
    yield database
    await database.close()
