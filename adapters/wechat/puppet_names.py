"""Names of rooms and of their members as a puppet service tells them: cached with an age, "" where it does not tell."""

from __future__ import annotations

from collections.abc import Callable

from adapters.aged_cache import AgedCache
from adapters.wechat.puppet import PuppetClient, PuppetError
from core.clock import Clock


class PuppetNames:
    """``connected`` gives the live connection or raises PuppetError. No look-up raises: the last known name serves, or none."""

    def __init__(self, clock: Clock, connected: Callable[[], PuppetClient]) -> None:
        self._connected = connected
        self._names = AgedCache(clock, "")

    async def topic(self, room_id: str, client: PuppetClient | None = None) -> str:
        """The name of a room; asked of ``client`` where there is no live connection."""
        return await self._names.get(("topic", room_id), lambda: (client or self._connected()).room_topic(room_id), PuppetError)

    async def member(self, room_id: str, contact_id: str) -> str:
        """The name that a member goes by in a room: chosen for this room, or else the contact's own."""
        return await self._alias(room_id, contact_id) or await self._contact(contact_id)

    async def all_of(self, room_id: str, contact_id: str) -> tuple[str, ...]:
        """Every name under which a contact may be mentioned in a room."""
        return await self._contact(contact_id), await self._alias(room_id, contact_id)

    def renamed(self, room_id: str, topic: object) -> None:
        """A room has got a new name, or one that the service did not say."""
        if isinstance(topic, str) and topic:
            self._names.put(("topic", room_id), topic)
        else:
            self._names.forget(("topic", room_id))

    async def _alias(self, room_id: str, contact_id: str) -> str:
        return await self._names.get(("alias", room_id, contact_id), lambda: self._connected().member_alias(room_id, contact_id), PuppetError)

    async def _contact(self, contact_id: str) -> str:
        return await self._names.get(("contact", contact_id), lambda: self._connected().contact_name(contact_id), PuppetError)
