"""Names of chats and members: looked up, kept for a while, and done without when the platform does not tell them.

A message never waits long for a name: an old name is used while a new one is fetched, and a look-up that takes longer than the deadline goes on in the background for the next
message.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from adapters.feishu.content import storable
from adapters.feishu.rest import ApiError, Rest
from core.clock import Clock

log = structlog.get_logger(__name__)

Kind = Literal["chat", "member"]
_SCOPES: dict[Kind, str] = {"chat": "im:chat:readonly", "member": "contact:user.base:readonly"}
_RETRY_SECONDS = 60.0
_PARALLEL_LOOKUPS = 2


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    until: float


class Names:
    """A cache of at most ``capacity`` names, single-flight."""

    def __init__(self, rest: Rest, clock: Clock, max_age: float, deadline: float = 1.0, capacity: int = 20_000) -> None:
        """:param max_age: seconds after which a name is fetched again. :param deadline: longest wait of a message for a name, seconds."""
        self._rest, self._clock, self._max_age, self._deadline, self._capacity = rest, clock, max_age, deadline, capacity
        self._entries: OrderedDict[tuple[Kind, str], _Entry] = OrderedDict()
        self._fetching: dict[tuple[Kind, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_PARALLEL_LOOKUPS)  # look-ups must not take all of the API's threads from replies
        self._told_missing: set[Kind] = set()

    async def chat(self, chat_id: str) -> str:
        """Name of a group; "" when it is not known in time."""
        return await self._get(("chat", chat_id))

    async def member(self, open_id: str) -> str:
        """Name of a member; "" when it is not known in time."""
        return await self._get(("member", open_id))

    def learn(self, kind: Kind, identifier: str, name: str) -> None:
        """Take a name that an event told."""
        if name:
            self._put((kind, identifier), name, self._max_age)

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _get(self, key: tuple[Kind, str]) -> str:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            if self._clock.monotonic() >= entry.until:
                self._fetch(key)
            return entry.name
        await _within(self._deadline, self._clock, self._fetch(key))
        entry = self._entries.get(key)
        return entry.name if entry else ""

    def _fetch(self, key: tuple[Kind, str]) -> asyncio.Task[None]:
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._look_up(key), name=f"feishu-name-{key[0]}")
            self._fetching[key] = task
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        return task

    async def _look_up(self, key: tuple[Kind, str]) -> None:
        kind, identifier = key
        look_up: Callable[[str], Awaitable[str]] = self._chat_name if kind == "chat" else self._member_name
        async with self._slots:
            try:
                name = await look_up(identifier)
            except ApiError as error:
                known = self._entries.get(key)
                if error.missing_scope and kind not in self._told_missing:
                    self._told_missing.add(kind)
                    log.warning("feishu.names_unavailable", kind=kind, code=error.code, remedy=f"Grant the scope {_SCOPES[kind]} in the developer console and publish a version.")
                self._put(key, known.name if known else "", _RETRY_SECONDS if error.transient else self._max_age)
                return
        self._put(key, storable(name), self._max_age)

    async def _chat_name(self, chat_id: str) -> str:
        answer = await self._rest.call("GET", "/open-apis/im/v1/chats/:chat_id", paths={"chat_id": chat_id})
        return str((answer.get("data") or {}).get("name") or "")

    async def _member_name(self, open_id: str) -> str:
        answer = await self._rest.call("GET", "/open-apis/contact/v3/users/:user_id", paths={"user_id": open_id}, queries=[("user_id_type", "open_id")])
        return str(((answer.get("data") or {}).get("user") or {}).get("name") or "")

    def _put(self, key: tuple[Kind, str], name: str, seconds: float) -> None:
        self._entries[key] = _Entry(name, self._clock.monotonic() + seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


async def _within(seconds: float, clock: Clock, task: asyncio.Task[None]) -> None:
    """Wait for ``task`` for at most ``seconds`` of ``clock``; the task goes on."""
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
