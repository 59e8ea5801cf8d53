"""Event payloads in the platform's form, and the golden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.adapters.feishu.loopback import APP_ID, BOT_OPEN_ID

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def envelope(event_type: str, event: dict[str, Any], event_id: str = "evt-1") -> dict[str, Any]:
    header = {"event_id": event_id, "event_type": event_type, "create_time": "1772442000000", "token": "verify-me", "app_id": APP_ID, "tenant_key": "tk"}
    return {"schema": "2.0", "header": header, "event": event}


def text_event(message_id: str, text: str = "你好", chat_id: str = "chat-1", sender_id: str = "alice", create_time: int = 1772442000000, **message: Any) -> dict[str, Any]:
    """``im.message.receive_v1`` of a text message."""
    own = sender_id == BOT_OPEN_ID
    sender = {"sender_id": {"open_id": sender_id, "union_id": f"on_{sender_id}", "user_id": None}, "sender_type": "app" if own else "user", "tenant_key": "tk"}
    body = {
        "message_id": message_id,
        "create_time": str(create_time),
        "chat_id": chat_id,
        "chat_type": "group",
        "message_type": "text",
        "content": json.dumps({"text": text}, ensure_ascii=False),
        **message,
    }
    return envelope("im.message.receive_v1", {"sender": sender, "message": body}, f"evt-{message_id}")
