"""The least that NoneBot2 needs to dispatch a message: an adapter, a bot and an event of its own abstract classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nonebot import get_driver
from nonebot.adapters import Adapter, Bot, Event, Message, MessageSegment


class _Segment(MessageSegment["_Text"]):  # type: ignore[misc]
    @classmethod
    def get_message_class(cls) -> type[_Text]:
        return _Text

    def __str__(self) -> str:
        return str(self.data["text"])

    def is_text(self) -> bool:
        return True


class _Text(Message[_Segment]):  # type: ignore[misc]
    @classmethod
    def get_segment_class(cls) -> type[_Segment]:
        return _Segment

    @staticmethod
    def _construct(msg: str) -> Iterable[_Segment]:
        yield _Segment("text", {"text": msg})


class _Event(Event):  # type: ignore[misc]
    text: str
    user: str

    def get_type(self) -> str:
        return "message"

    def get_event_name(self) -> str:
        return "bench"

    def get_event_description(self) -> str:
        return "bench"

    def get_user_id(self) -> str:
        return self.user

    def get_session_id(self) -> str:
        return self.user

    def get_message(self) -> _Text:
        return _Text(self.text)

    def is_tome(self) -> bool:
        return False


class _Bot(Bot):  # type: ignore[misc]
    async def send(self, event: Event, message: Any, **kwargs: Any) -> Any:
        return None


class _Adapter(Adapter):  # type: ignore[misc]
    @classmethod
    def get_name(cls) -> str:
        return "bench"

    async def _call_api(self, bot: Bot, api: str, **data: Any) -> Any:
        return None


def make_bot_and_event() -> tuple[Bot, Callable[[str, str], Event]]:
    """A bot on NoneBot2's current driver, and a maker of message events."""
    return _Bot(_Adapter(get_driver()), "bench"), lambda text, user: _Event(text=text, user=user)
