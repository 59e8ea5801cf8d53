"""Messages that a platform has named by their ids alone, until their adapter has fetched and delivered them: over a crash, a long failure of the platform, a restart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.engine import Database, insert_new
from storage.models import announcements

LONGEST = timedelta(days=1)
"""What could not be fetched for so long is given up: no platform keeps it."""

Announcement = tuple[str, str]
"""Platform and message id."""


class SqlAnnouncements:
    """Implements :class:`core.ports.Announcements`. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, platform: str, message_id: str) -> None:
        await self._database.writer.submit(self._add, (platform, message_id))

    async def settle(self, platform: str, message_id: str) -> None:
        await self._database.writer.submit(self._settle, (platform, message_id))

    async def unsettled(self, platform: str) -> Sequence[str]:
        await self._database.writer.submit(self._give_up, platform)
        async with self._database.read() as connection:
            found = sa.select(announcements.c.message_id).where(announcements.c.platform == platform).order_by(announcements.c.id)
            return list(await connection.scalars(found))

    def _add(self, connection: Connection, named: Sequence[Announcement]) -> list[None]:
        rows = [{"platform": platform, "message_id": message_id, "announced_at": self._database.now()} for platform, message_id in named]
        connection.execute(insert_new(connection.dialect.name, announcements), rows)
        return [None] * len(named)

    def _settle(self, connection: Connection, named: Sequence[Announcement]) -> list[None]:
        which = (announcements.c.platform == sa.bindparam("of_platform"), announcements.c.message_id == sa.bindparam("of_message"))
        connection.execute(sa.delete(announcements).where(*which), [{"of_platform": platform, "of_message": message_id} for platform, message_id in named])
        return [None] * len(named)

    def _give_up(self, connection: Connection, platforms: Sequence[str]) -> list[None]:
        too_old = announcements.c.announced_at < self._database.now() - LONGEST
        connection.execute(sa.delete(announcements).where(announcements.c.platform.in_(platforms), too_old))
        return [None] * len(platforms)
