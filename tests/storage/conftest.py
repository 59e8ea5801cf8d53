"""Real databases in files; a clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.engine import Database, open_database
from tests.storage.samples import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "doujie.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def database(url: str, clock: StillClock) -> AsyncIterator[Database]:
    database = await open_database(url, now=clock, busy_timeout=5)
    yield database
    await database.close()
