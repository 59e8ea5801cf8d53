"""Consent of members, and erasing on their wish or by age."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.engine import Database, upsert
from storage.erasure import erase_before, forget_member
from storage.group_commit import BatchHandler
from storage.models import members

Member = tuple[str, str]
"""Platform and sender id."""


class SqlMembers:
    """Repository of consent. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def opted_out(self) -> frozenset[Member]:
        """The members who do not want to be collected."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(members.c.platform, members.c.sender_id).where(members.c.opted_out_at.is_not(None)))
            return frozenset((platform, sender_id) for platform, sender_id in rows)

    async def opt_out(self, platform: str, sender_id: str) -> int:
        """From now on nothing of the member is stored (the inbox refuses it), and what is stored is erased, also from the file. Returns the number of erased messages."""
        return await self._erase(self._opt_out, (platform, sender_id))

    async def opt_in(self, platform: str, sender_id: str) -> None:
        """The member may be collected again."""
        await self._database.writer.submit(self._opt_in, (platform, sender_id))

    async def forget(self, platform: str, sender_id: str) -> int:
        """Erase everything of the member, also from the file, and leave the consent as it is. Returns the number of erased messages."""
        return await self._erase(self._forget, (platform, sender_id))

    async def retain(self, days: int) -> int:
        """Erase what was received more than ``days`` days ago, also from the file. Returns the number of erased messages."""
        erased, derived = await self._database.writer.submit(self._erase_older, timedelta(days=days))
        if erased or derived:
            await self._database.scrub(vacuum=True)
        return erased

    async def _erase(self, handler: BatchHandler[Member, int], member: Member) -> int:
        erased = await self._database.writer.submit(handler, member)
        await self._database.scrub(vacuum=True)
        return erased

    def _opt_out(self, connection: Connection, wishes: Sequence[Member]) -> list[int]:
        row = [{"platform": platform, "sender_id": sender_id, "opted_out_at": self._database.now()} for platform, sender_id in wishes]
        connection.execute(upsert(connection.dialect.name, members, ["platform", "sender_id"], ["opted_out_at"]), row)
        return self._forget(connection, wishes)

    def _opt_in(self, connection: Connection, wishes: Sequence[Member]) -> list[None]:
        for platform, sender_id in wishes:
            connection.execute(sa.delete(members).where(members.c.platform == platform, members.c.sender_id == sender_id))
        return [None] * len(wishes)

    def _forget(self, connection: Connection, wishes: Sequence[Member]) -> list[int]:
        return [forget_member(connection, platform, sender_id, self._database.now()) for platform, sender_id in wishes]

    def _erase_older(self, connection: Connection, ages: Sequence[timedelta]) -> list[tuple[int, int]]:
        now = self._database.now()
        return [erase_before(connection, now - age, now) for age in ages]
